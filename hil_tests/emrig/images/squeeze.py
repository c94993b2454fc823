"""Makes a model's modules smaller in a board's RAM, as a whole, without a change of what they do.

A name costs RAM, a module's constant an entry of its dictionary, a module some 250 bytes. So, in the tree that is
compiled for a board (never in the sources): constants become literals, what nobody uses is left out, parameters and
attributes share a small common stock of names, and what a start imports is put into one module (bundle.py).
A name that is anywhere a string, that MicroPython uses itself, or that is used from outside the tree (`kept`), stays.
"""

from __future__ import annotations

import ast
import builtins
import operator
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from emrig.images import tunables
from emrig.images.bundle import Bundle, eager, handed_on, is_plain
from emrig.images.names import (
    FUNCTIONS,
    Names,
    Scope,
    alias_of,
    assigned,
    bound_by,
    here,
    module_name,
    parameters_of,
    walk,
)
from emrig.images.reserved import RESERVED

_OPERATORS: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
}
# What these make of literals is as good as a literal; all formats begin with < or >.
_FOLDED: dict[str, Any] = {
    "struct.calcsize": struct.calcsize,
    "struct.pack": struct.pack,
    "bytes.fromhex": bytes.fromhex,
}
Value = int | str | bytes | tuple[Any, ...]
# The image's builder puts another version in its place.
_LEFT_ALONE = "common/version.py"
# Parameters' names are among those of attributes; those of a function in a function begin beyond the outer one's.
_MOST_PARAMETERS = 20
# The lowest message type that goes down to a device: what it sends it need not read.
_FIRST_DOWN = 0x80


class Squeezed(NamedTuple):
    """{path: source}; {name in the bundle: "module.name"}; {attribute's new name: each "Class.name" that has it}."""

    modules: dict[str, str]
    names: dict[str, str]
    attributes: dict[str, list[str]]


def squeeze(
    sources: Mapping[str, str],
    kept: set[str] | frozenset[str] = frozenset(),
    reads_records: bool = False,
    bundled: Iterable[str] | None = None,
) -> Squeezed:
    """A whole tree ({path: source}), smaller.

    kept: names that somebody outside it uses; reads_records: it decodes what devices send, too; bundled: paths that
    main.py imports by name, to go into one module with it and all that it imports; None: modules stay as they are.
    """
    tree = _Tree({path: ast.parse(source) for path, source in sources.items()}, kept)
    tree.strip()
    if not reads_records:
        tree.drop_decoders()
    tree.pack_tunables()
    tree.fill()
    tree.inline_constants()
    tree.drop_unused()
    tree.rename_parameters()
    tree.rename_attributes()
    tree.rename_public()
    if bundled is None:
        tree.rename_globals(set(tree.modules))
    else:
        inside = tree.eager(bundled)
        tree.rename_globals(set(tree.modules) - set(inside))
        tree.bundle(inside, bundled)
    made = {path: ast.unparse(ast.fix_missing_locations(module)) + "\n" for path, module in tree.modules.items()}
    return Squeezed(made, tree.names, tree.attributes)


class _Strip(ast.NodeTransformer):
    """Leaves out what only people and type checkers read."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        self.generic_visit(node)
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if node.value is None else ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        # MicroPython has no slots: an attribute that nobody reads.
        return None if isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__slots__" else node

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        self.generic_visit(node)
        return None if isinstance(node.value, ast.Constant) else node

    def visit_Try(self, node: ast.Try) -> ast.AST | None:
        if all(isinstance(part, ast.ImportFrom) and part.module in ("typing", "collections.abc") for part in node.body):
            return None
        self.generic_visit(node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        self.generic_visit(node)
        return node


class _Tree:
    def __init__(self, modules: dict[str, ast.Module], kept: set[str] | frozenset[str]) -> None:
        self.modules = modules
        self.names: dict[str, str] = {}
        """Of what a bundle calls otherwise."""
        self.attributes: dict[str, list[str]] = defaultdict(list)
        """{new name: Family.name in the sources}."""
        self._handed = handed_on(modules)
        self._taken: dict[str, set[str]] = defaultdict(set)
        """New names of attributes, by family."""
        self._kept = set(kept) | set(dir(builtins))
        self._paths = {module_name(path): path for path in modules}

    # -- what stands in nobody's way

    def strip(self) -> None:
        for module in self.modules.values():
            _Strip().visit(module)

    def drop_decoders(self) -> None:
        """Of messages that no device receives."""
        codec = self.modules.get("emwire/device_codec.py")
        for node in codec.body if codec else ():
            if isinstance(node, ast.Assign) and assigned(node) == "_DECODERS" and isinstance(node.value, ast.Dict):
                pairs = [
                    (key, value)
                    for key, value in zip(node.value.keys, node.value.values, strict=True)
                    if isinstance(key, ast.Constant) and isinstance(key.value, int) and key.value >= _FIRST_DOWN
                ]
                node.value = ast.Dict([key for key, _ in pairs], [value for _, value in pairs])

    def pack_tunables(self) -> None:
        """The table of settings."""
        settings, catalogue = self.modules.get(tunables.PATH), self._paths.get("emwire.constants")
        if settings is not None and catalogue is not None and "TABLE" not in self._kept:
            # Asked for by names that will be in no string.
            self._kept |= tunables.names(settings)
            integers = {
                name: node.value.value
                for node in self.modules[catalogue].body
                if isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Constant)
                and (name := assigned(node)) is not None
                and isinstance(node.value.value, int)
            }
            tunables.pack(settings, integers)

    def fill(self) -> None:
        """Bodies that have become empty."""
        for module in self.modules.values():
            for node in walk(module):
                body = getattr(node, "body", None)
                if isinstance(body, list) and not body and not isinstance(node, ast.Module):
                    body.append(ast.Pass())

    def eager(self, roots: Iterable[str]) -> list[str]:
        """Paths of what goes into the bundle."""
        return eager(self.modules, roots, self._handed)

    def bundle(self, inside: list[str], roots: Iterable[str]) -> None:
        """All that a start imports as one module (bundle.py)."""
        exported = {("main.py", name) for name in self._kept & bound_by(list(self.modules["main.py"].body))}
        exported |= {(_LEFT_ALONE, name) for name in ("VERSION", "SECURITY_VERSION")}
        made = Bundle(self.modules, inside, roots, exported, self._kept)
        self.modules, self.names = made.modules, made.names
        self.fill()

    # -- constants

    def inline_constants(self) -> None:
        """What modules give a name to and nobody changes, in place of the name."""
        values = self._constants()
        looked_up = self._prefixes()
        for path, module in self.modules.items():
            if path == _LEFT_ALONE:
                continue
            names = Names(module)
            imported = self._imports(module)
            _Inline(path, values, names, imported).visit(module)
            gone = {
                name
                for where, name in values
                if where == path and where not in self._handed and not name.startswith(looked_up)
            }
            _keep_statements(module, lambda node, gone=gone: assigned(node) not in gone)
            self._forget_imports(module, values, imported)
        self.fill()

    def _prefixes(self) -> tuple[str, ...]:
        """Of names that getattr(constants, "PARAMETER_" + …) looks up."""
        return tuple(text for text in self._strings() if text.endswith("_") and text[:-1].isupper())

    def _constants(self) -> dict[tuple[str, str], Value]:
        stored = {
            node.attr
            for module in self.modules.values()
            for node in walk(module)
            if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
        }
        expressions: dict[tuple[str, str], ast.expr] = {}
        for path, module in self.modules.items():
            nodes = list(walk(module))
            elsewhere = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
            count = Counter(
                node.id for node in here(list(module.body)) if isinstance(node, ast.Name) and _is_store(node)
            )
            for statement in module.body:
                name = assigned(statement)
                if name is None or count[name] != 1 or name in elsewhere | stored | self._kept or path == _LEFT_ALONE:
                    continue
                assert isinstance(statement, ast.Assign)
                expressions[path, name] = statement.value
        imports = {path: self._imports(module) for path, module in self.modules.items()}
        values: dict[tuple[str, str], Value] = {}
        while True:
            before = len(values)
            for (path, name), expression in expressions.items():
                value = _value(expression, path, values, imports[path])
                if value is not None:
                    values[path, name] = value
            if len(values) == before:
                return values

    def _imports(self, module: ast.Module) -> dict[str, tuple[str, str | None]]:
        """{name here: (path of a module of the tree, its name there; None: the module)}."""
        found: dict[str, tuple[str, str | None]] = {}
        for node in walk(module):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = self._paths.get(f"{node.module}.{alias.name}")
                    if whole is not None:
                        found[alias_of(alias)] = (whole, None)
                    elif node.module in self._paths:
                        found[alias_of(alias)] = (self._paths[node.module], alias.name)
        return found

    def _forget_imports(
        self, module: ast.Module, values: dict[tuple[str, str], Value], imported: dict[str, tuple[str, str | None]]
    ) -> None:
        used = {node.id for node in walk(module) if isinstance(node, ast.Name)}
        for node in walk(module):
            if isinstance(node, ast.ImportFrom):
                # A module of constants has nothing else to do when it is imported.
                node.names = [
                    alias
                    for alias in node.names
                    if alias_of(alias) in used
                    or (
                        imported.get(alias_of(alias), ("", ""))[0] != self._paths.get("emwire.constants")
                        and imported.get(alias_of(alias)) not in values
                    )
                ]
        _keep_statements(module, lambda node: not (isinstance(node, ast.ImportFrom) and not node.names))

    # -- what nobody uses

    def drop_unused(self) -> None:
        """Functions, classes and constants that nobody names, and modules that nobody imports any more."""
        # Of each statement of a module: what it mentions, and what it defines.
        mentioned = {
            path: [(node, Counter(_mentions(node)), _defined(node)) for node in module.body]
            for path, module in self.modules.items()
        }
        while True:
            used: Counter[str] = Counter()
            for statements in mentioned.values():
                for _, own, _ in statements:
                    used.update(own)
            before = sum(map(len, mentioned.values()))
            for path, statements in mentioned.items():
                mentioned[path] = [
                    (node, own, name)
                    for node, own, name in statements
                    if name is None or used[name] != own[name] or name in self._kept
                ]
            if sum(map(len, mentioned.values())) == before:
                break
        for path, statements in mentioned.items():
            self.modules[path].body = [node for node, _, _ in statements]
        constants = self._paths.get("emwire.constants")
        if constants and not self.modules[constants].body:
            del self.modules[constants]

    # -- names

    def _strings(self) -> set[str]:
        """Names that are somewhere a string, or known outside, or given by keyword."""
        found = set(self._kept)
        for module in self.modules.values():
            for node in walk(module):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
        return found

    def rename_parameters(self) -> None:
        """Of functions that nobody calls by keyword."""
        fixed = self._strings() | {"self"}
        for module in self.modules.values():
            for node in walk(module):
                if isinstance(node, ast.keyword) and node.arg:
                    fixed.add(node.arg)
                elif isinstance(node, (ast.Global, ast.Nonlocal)):
                    fixed.update(node.names)
        for module in self.modules.values():
            names = Names(module)
            new: dict[tuple[Scope, str], str] = {}
            for function in names.bound:
                if not isinstance(function, FUNCTIONS):
                    continue
                body: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(function.body)
                # Bound again by other statements than assignments: names that are no nodes.
                again = {
                    name
                    for node in here(body)
                    for name in ([node.name] if isinstance(node, ast.ExceptHandler) and node.name else [])
                    + [alias_of(a) for a in (node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else [])]
                    + ([node.name] if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else [])
                }
                for number, parameter in enumerate(parameters_of(function)):
                    if parameter.arg not in fixed | again:
                        name = f"_{_MOST_PARAMETERS * names.depth[function] + number}"
                        new[function, parameter.arg] = name
                        parameter.arg = name
            for node, owner in names.owner.items():
                node.id = new.get((owner, node.id), node.id)

    def rename_attributes(self) -> None:
        """Private ones of classes, which only methods use, by `self`."""
        fixed = self._strings()
        scopes = {path: Names(module) for path, module in self.modules.items()}
        family, foreign = self._families()
        used: dict[str, set[str]] = defaultdict(set)
        places: list[tuple[ast.Attribute | ast.FunctionDef | ast.AsyncFunctionDef | ast.Name, str, str]] = []
        for path, module in self.modules.items():
            names = scopes[path]
            for node in walk(module):
                if isinstance(node, ast.Attribute) and _private(node.attr):
                    of = self._class_of(node.value, names)
                    if of is None:
                        fixed.add(node.attr)
                    else:
                        places.append((node, family[of], node.attr))
            places += [
                (place, family[within], name)
                for place, within, name in self._definitions(module, names)
                if _private(name)
            ]
        for _, where, name in places:
            if name not in fixed and where not in foreign:
                used[where].add(name)
        new = {(where, name): f"_{number}" for where, own in used.items() for number, name in enumerate(sorted(own))}
        for place, where, name in places:
            _rename(place, new.get((where, name), name))
        for (where, name), short in new.items():
            self._taken[where].add(short)
            self.attributes[short].append(f"{where}.{name}")

    def rename_public(self) -> None:
        """All others that classes of the tree define; two share a name if no family of classes has both."""
        fixed = self._strings() | RESERVED
        family, foreign = self._families()
        homes: dict[str, set[str]] = defaultdict(set)
        places: dict[str, list[ast.Attribute | ast.FunctionDef | ast.AsyncFunctionDef | ast.Name]] = defaultdict(list)
        anywhere: set[str] = set()
        for module in self.modules.values():
            names = Names(module)
            outside = self._aliases(module) - set(self._imports(module))
            fixed |= bound_by(list(module.body))
            for node in walk(module):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "namedtuple":
                    for part in walk(node):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            fixed.update(part.value.replace(",", " ").split())
                if not isinstance(node, ast.Attribute):
                    continue
                places[node.attr].append(node)
                of = self._class_of(node.value, names)
                if of is not None and not isinstance(node.ctx, ast.Load):
                    homes[node.attr].add(family[of])
                elif not isinstance(node.ctx, ast.Load):
                    anywhere.add(node.attr)
                if (
                    isinstance(node.value, ast.Name)
                    and names.owner.get(node.value) is module
                    and node.value.id in outside
                ):
                    fixed.add(node.attr)
            for place, within, name in self._definitions(module, names):
                homes[name].add(family[within])
                places[name].append(place)
        every = set(family.values())
        wanted = sorted(
            (name for name in homes if not name.startswith("_") and name not in fixed and not homes[name] & foreign),
            # The widest first: they are the hardest to place.
            key=lambda name: (name not in anywhere, -len(homes[name]), name),
        )
        for name in wanted:
            where = every if name in anywhere else homes[name]
            number = 0
            while any(f"_{number}" in self._taken[home] for home in where):
                number += 1
            short = f"_{number}"
            for home in where:
                self._taken[home].add(short)
            self.attributes[short] += [f"{home}.{name}" for home in sorted(homes[name])]
            for each in places[name]:
                _rename(each, short)

    def _families(self) -> tuple[dict[ast.ClassDef, str], set[str]]:
        """{class: the family that it is of by its bases}, and the families with a base from outside of the tree."""
        classes: dict[str, list[ast.ClassDef]] = defaultdict(list)
        for module in self.modules.values():
            for node in walk(module):
                if isinstance(node, ast.ClassDef):
                    classes[node.name].append(node)
        family = {node: name for name, found in classes.items() for node in found}
        foreign: set[str] = set()
        for name, found in classes.items():
            for node in found:
                for base in node.bases:
                    based = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
                    if based in classes:
                        old, joined = family[node], family[classes[based][0]]
                        family.update({c: joined for c, of in family.items() if of == old})
                    elif based not in dir(builtins):
                        foreign.add(name)
        return family, {of for c, of in family.items() if c.name in foreign}

    def _definitions(
        self, module: ast.Module, names: Names
    ) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef | ast.Name, ast.ClassDef, str]]:
        """(node, class, name) of what classes define outside of their methods."""
        for node in walk(module):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                within = names.within[node]
                if isinstance(within, ast.ClassDef):
                    yield node, within, node.name
        for named, owner in names.owner.items():
            if isinstance(owner, ast.ClassDef):
                yield named, owner, named.id

    def _class_of(self, value: ast.expr, names: Names) -> ast.ClassDef | None:
        """The class whose instance this surely is: the first parameter of one of its methods."""
        if not isinstance(value, ast.Name) or value.id != "self":
            return None
        method = names.owner[value]
        within = names.within.get(method)
        return within if isinstance(within, ast.ClassDef) and isinstance(method, FUNCTIONS) else None

    def rename_globals(self, paths: set[str]) -> None:
        """Functions and variables of a module that only it uses; classes keep their names, which logs tell."""
        fixed = self._strings()
        prefixes = ("__", *self._prefixes())
        stock: set[str] = set()
        for module in self.modules.values():
            for node in walk(module):
                if isinstance(node, ast.Attribute):
                    stock.add(node.attr)
                elif isinstance(node, ast.ImportFrom):
                    fixed.update(alias.name for alias in node.names)
                elif isinstance(node, (ast.Import)):
                    fixed.update(alias_of(alias) for alias in node.names)
                elif isinstance(node, (ast.ClassDef)):
                    fixed.add(node.name)
        fixed |= stock
        for path, module in self.modules.items():
            if path == _LEFT_ALONE or path not in paths:
                continue
            names = Names(module)
            aliases = self._aliases(module)
            own = sorted(
                name
                for name in bound_by(list(module.body)) | _globals(module)
                if name not in fixed | aliases and not name.startswith(prefixes)
            )
            # Names that some attribute has anyway, as in the bundle.
            here_too = aliases | set(dir(builtins)) | set(_mentions(module)) | _binds(module)
            free = iter(
                [name for name in sorted(stock - here_too) if is_plain(name)] + [f"g{n}" for n in range(len(own))]
            )
            new = dict(zip(own, free, strict=False))
            for node, owner in names.owner.items():
                if owner is module:
                    node.id = new.get(node.id, node.id)
            for statement in walk(module):
                if isinstance(statement, ast.Global):
                    statement.names = [new.get(name, name) for name in statement.names]
                elif (
                    isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and names.within[statement] is module
                ):
                    statement.name = new.get(statement.name, statement.name)

    def _aliases(self, module: ast.Module) -> set[str]:
        return {
            alias_of(alias)
            for node in walk(module)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        } | {node.name for node in walk(module) if isinstance(node, ast.ExceptHandler) and node.name}


class _Inline(ast.NodeTransformer):
    def __init__(
        self,
        path: str,
        values: dict[tuple[str, str], Value],
        names: Names,
        imported: dict[str, tuple[str, str | None]],
    ) -> None:
        self._path = path
        self._values = values
        self._names = names
        self._imported = imported

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not isinstance(node.ctx, ast.Load):
            return node
        owner = self._names.owner[node]
        where = self._imported.get(node.id)
        value = None
        if where is not None and where[1] is not None:
            value = self._values.get((where[0], where[1]))
        elif owner is self._names.module:
            value = self._values.get((self._path, node.id))
        return node if value is None else _literal(value)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load):
            where = self._imported.get(node.value.id)
            if where is not None and where[1] is None and (where[0], node.attr) in self._values:
                return _literal(self._values[where[0], node.attr])
        self.generic_visit(node)
        return node


def _literal(value: Value) -> ast.expr:
    if isinstance(value, tuple):
        return ast.Tuple([_literal(part) for part in value], ast.Load())
    if isinstance(value, int) and value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def _value(
    node: ast.expr, path: str, values: dict[tuple[str, str], Value], imported: dict[str, tuple[str, str | None]]
) -> Value | None:
    """Of an expression that always has the same; None if it has not, or nobody knows."""

    def of(part: ast.expr) -> Value | None:
        return _value(part, path, values, imported)

    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, (int, str, bytes)) and not isinstance(node.value, bool) else None
    if isinstance(node, ast.Tuple):
        parts = [of(part) for part in node.elts]
        return None if None in parts else tuple(part for part in parts if part is not None)
    if isinstance(node, ast.Name):
        where, name = imported.get(node.id, (path, node.id))
        return values.get((where, name)) if name else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        where, name = imported.get(node.value.id, ("", ""))
        return values.get((where, node.attr)) if name is None else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Invert)):
        operand = of(node.operand)
        if not isinstance(operand, int):
            return None
        return -operand if isinstance(node.op, ast.USub) else ~operand
    if isinstance(node, ast.BinOp):
        left, right = of(node.left), of(node.right)
        if isinstance(left, int) and isinstance(right, int) and type(node.op) in _OPERATORS:
            return int(_OPERATORS[type(node.op)](left, right))
        return left + right if isinstance(left, bytes) and isinstance(right, bytes) and _adds(node) else None
    if isinstance(node, ast.Call) and not node.keywords:
        function = _FOLDED.get(ast.unparse(node.func))
        arguments = [of(argument) for argument in node.args]
        if function is not None and None not in arguments:
            made: Value = function(*arguments)
            return made
    return None


def _adds(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.Add)


def _defined(statement: ast.AST) -> str | None:
    """The name that a statement gives, if it does nothing else."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return statement.name
    name = assigned(statement)
    if name is None or name.startswith(("__", "VERSION", "SECURITY_VERSION")):
        return None
    does = (ast.Call, ast.Await, ast.Attribute, ast.Subscript, ast.BinOp)
    return None if any(isinstance(node, does) for node in walk(statement)) else name


def _is_store(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _rename(place: ast.Attribute | ast.FunctionDef | ast.AsyncFunctionDef | ast.Name, name: str) -> None:
    if isinstance(place, ast.Attribute):
        place.attr = name
    elif isinstance(place, ast.Name):
        place.id = name
    else:
        place.name = name


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _globals(module: ast.Module) -> set[str]:
    return {name for node in walk(module) if isinstance(node, ast.Global) for name in node.names}


def _binds(root: ast.AST) -> set[str]:
    """Every name that is bound anywhere in it, but by imports and handlers."""
    names: set[str] = set()
    for node in walk(root):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            names.update(node.names)
    return names


def _mentions(root: ast.AST) -> Iterator[str]:
    """Names as often as they are used, strings among them; definitions are none."""
    for node in walk(root):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _keep_statements(module: ast.Module, wanted: Any) -> None:
    """In every body of the module; only the module's own assignments are asked about by name."""
    for node in walk(module):
        for field in ("body", "orelse", "finalbody"):
            inside = getattr(node, field, None)
            if isinstance(inside, list):
                setattr(
                    node,
                    field,
                    [s for s in inside if wanted(s) or (node is not module and isinstance(s, ast.Assign))],
                )
