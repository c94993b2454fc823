"""Makes a model's modules smaller in a board's RAM, as a whole, without a change of what they do.

A name costs RAM in each module that has it, a module's integer costs an entry of its dictionary, a function some 60
bytes. So, in the tree that is compiled for a board (never in the sources): integer constants become literals, what
nobody uses is left out, and names that only one function, class or module knows are taken from a small common stock.
A name that is anywhere a string, or is used from outside the tree (`kept`), stays.
"""

from __future__ import annotations

import ast
import builtins
import operator
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Scope = Function | ast.ClassDef | ast.Module | ast.expr
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
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
# The image's builder puts another version in its place.
_LEFT_ALONE = "common/version.py"
# The lowest message type that goes down to a device: what it sends it need not read.
_FIRST_DOWN = 0x80


def squeeze(
    sources: Mapping[str, str], kept: set[str] | frozenset[str] = frozenset(), reads_records: bool = False
) -> dict[str, str]:
    """{path: source} of a whole tree, smaller.

    kept: names that somebody outside it uses; reads_records: it decodes what devices send, too.
    """
    tree = _Tree({path: ast.parse(source) for path, source in sources.items()}, kept)
    tree.strip()
    if not reads_records:
        tree.drop_decoders()
    tree.fill()
    tree.inline_integers()
    tree.drop_unused()
    tree.rename_parameters()
    tree.rename_attributes()
    tree.rename_globals()
    return {path: ast.unparse(ast.fix_missing_locations(module)) + "\n" for path, module in tree.modules.items()}


def names_of(source: str) -> set[str]:
    """Every name that a source mentions: what has to be kept for it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.update(node.name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


class _Names(ast.NodeVisitor):
    """Where each name of a module is bound: owner[node] is a function, class or comprehension, else the module."""

    def __init__(self, module: ast.Module) -> None:
        self.module = module
        self.owner: dict[ast.Name, Scope] = {}
        self.depth: dict[Scope, int] = {}
        """Of functions: how many are around it."""
        self.within: dict[Scope, Scope] = {}
        """Of functions and classes: what they are directly in."""
        self.bound: dict[Scope, set[str]] = {}
        self._scopes: list[Scope] = []
        for statement in module.body:
            self.visit(statement)

    def visit_Name(self, node: ast.Name) -> None:
        for number, scope in enumerate(reversed(self._scopes)):
            # What a class binds is seen in its own statements alone.
            if node.id in self.bound[scope] and (number == 0 or not isinstance(scope, ast.ClassDef)):
                self.owner[node] = scope
                return
        self.owner[node] = self.module

    def _enter(self, scope: Scope, bound: set[str], inside: list[ast.AST]) -> None:
        self.within[scope] = self._scopes[-1] if self._scopes else self.module
        self.depth[scope] = sum(isinstance(around, _FUNCTIONS) for around in self._scopes)
        self.bound[scope] = bound
        self._scopes.append(scope)
        for node in inside:
            self.visit(node)
        self._scopes.pop()

    def _function(self, node: Function) -> None:
        for outside in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(outside)
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
        if not isinstance(node, ast.Lambda):
            for decorator in node.decorator_list:
                self.visit(decorator)
        self._enter(node, {a.arg for a in _parameters(node, everything=True)} | _bound(body), body)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in [*node.bases, *node.decorator_list]:
            self.visit(outside)
        self._enter(node, _bound(list(node.body)), list(node.body))

    def _comprehension(self, node: Any) -> None:
        self.visit(node.generators[0].iter)
        targets = {name.id for part in node.generators for name in ast.walk(part.target) if isinstance(name, ast.Name)}
        inside: list[ast.AST] = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for number, part in enumerate(node.generators):
            inside += [part.target, *part.ifs] if number == 0 else [part.target, part.iter, *part.ifs]
        self._enter(node, targets, inside)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension


def _parameters(function: Function, everything: bool = False) -> list[ast.arg]:
    given = function.args
    found = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    # MicroPython keeps no names of * and **.
    return found + [a for a in (given.vararg, given.kwarg) if a is not None] if everything else found


def _bound(body: list[ast.AST]) -> set[str]:
    """Names that these statements bind where they stand."""
    names: set[str] = set()
    elsewhere: set[str] = set()
    for node in _here(body):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)):
            names.update([node.name] if node.name else [])
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(_alias(alias) for alias in node.names)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            elsewhere.update(node.names)
    return names - elsewhere


def _here(body: list[ast.AST]) -> Iterator[ast.AST]:
    """These statements and what is in them, but for the inside of functions, classes and comprehensions."""
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*_FUNCTIONS, *_COMPREHENSIONS, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)


def _alias(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


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
        if all(isinstance(part, ast.ImportFrom) and part.module == "typing" for part in node.body):
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
        self._kept = set(kept) | set(dir(builtins))
        self._paths = {path[:-3].removesuffix("/__init__").replace("/", "."): path for path in modules}

    # -- what stands in nobody's way

    def strip(self) -> None:
        for module in self.modules.values():
            _Strip().visit(module)

    def drop_decoders(self) -> None:
        """Of messages that no device receives."""
        codec = self.modules.get("emwire/device_codec.py")
        for node in codec.body if codec else ():
            if isinstance(node, ast.Assign) and _target(node) == "_DECODERS" and isinstance(node.value, ast.Dict):
                pairs = [
                    (key, value)
                    for key, value in zip(node.value.keys, node.value.values, strict=True)
                    if isinstance(key, ast.Constant) and isinstance(key.value, int) and key.value >= _FIRST_DOWN
                ]
                node.value = ast.Dict([key for key, _ in pairs], [value for _, value in pairs])

    def fill(self) -> None:
        """Bodies that have become empty."""
        for module in self.modules.values():
            for node in ast.walk(module):
                body = getattr(node, "body", None)
                if isinstance(body, list) and not body and not isinstance(node, ast.Module):
                    body.append(ast.Pass())

    # -- integers

    def inline_integers(self) -> None:
        """Integers of modules in place of their names, wherever they are used."""
        values = self._integers()
        looked_up = self._prefixes()
        for path, module in self.modules.items():
            if path == _LEFT_ALONE:
                continue
            names = _Names(module)
            imported = self._imports(module)
            _Inline(path, values, names, imported).visit(module)
            gone = {name for where, name in values if where == path and not name.startswith(looked_up)}
            _keep_statements(module, lambda node, gone=gone: _target(node) not in gone)
            self._forget_imports(module, values, imported)
        self.fill()

    def _prefixes(self) -> tuple[str, ...]:
        """Of names that getattr(constants, "PARAMETER_" + …) looks up."""
        return tuple(text for text in self._strings() if text.endswith("_") and text[:-1].isupper())

    def _integers(self) -> dict[tuple[str, str], int]:
        stored = {
            node.attr
            for module in self.modules.values()
            for node in ast.walk(module)
            if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
        }
        expressions: dict[tuple[str, str], ast.expr] = {}
        for path, module in self.modules.items():
            nodes = list(ast.walk(module))
            elsewhere = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
            count = Counter(
                node.id for node in _here(list(module.body)) if isinstance(node, ast.Name) and _is_store(node)
            )
            for statement in module.body:
                name = _target(statement)
                if name is None or count[name] != 1 or name in elsewhere | stored | self._kept or path == _LEFT_ALONE:
                    continue
                assert isinstance(statement, ast.Assign)
                expressions[path, name] = statement.value
        imports = {path: self._imports(module) for path, module in self.modules.items()}
        values: dict[tuple[str, str], int] = {}
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
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = self._paths.get(f"{node.module}.{alias.name}")
                    if whole is not None:
                        found[_alias(alias)] = (whole, None)
                    elif node.module in self._paths:
                        found[_alias(alias)] = (self._paths[node.module], alias.name)
        return found

    def _forget_imports(
        self, module: ast.Module, values: dict[tuple[str, str], int], imported: dict[str, tuple[str, str | None]]
    ) -> None:
        used = {node.id for node in ast.walk(module) if isinstance(node, ast.Name)}
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom):
                # A module of constants has nothing else to do when it is imported.
                node.names = [
                    alias
                    for alias in node.names
                    if _alias(alias) in used
                    or (
                        imported.get(_alias(alias), ("", ""))[0] != self._paths.get("emwire.constants")
                        and imported.get(_alias(alias)) not in values
                    )
                ]
        _keep_statements(module, lambda node: not (isinstance(node, ast.ImportFrom) and not node.names))

    # -- what nobody uses

    def drop_unused(self) -> None:
        """Functions and classes that nobody names, and modules that nobody imports any more."""
        while True:
            used: Counter[str] = Counter()
            for module in self.modules.values():
                used.update(_mentions(module))
            gone: set[tuple[str, str]] = set()
            for path, module in self.modules.items():
                for node in module.body:
                    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                        own = Counter(_mentions(node))
                        if used[node.name] == own[node.name] and node.name not in self._kept:
                            gone.add((path, node.name))
            for path, module in self.modules.items():
                module.body = [
                    node
                    for node in module.body
                    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                    or (path, node.name) not in gone
                ]
            if not gone:
                break
        constants = self._paths.get("emwire.constants")
        if constants and not self.modules[constants].body:
            del self.modules[constants]

    # -- names

    def _strings(self) -> set[str]:
        """Names that are somewhere a string, or known outside, or given by keyword."""
        found = set(self._kept)
        for module in self.modules.values():
            for node in ast.walk(module):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
        return found

    def rename_parameters(self) -> None:
        """Of functions that nobody calls by keyword."""
        fixed = self._strings() | {"self"}
        for module in self.modules.values():
            for node in ast.walk(module):
                if isinstance(node, ast.keyword) and node.arg:
                    fixed.add(node.arg)
                elif isinstance(node, (ast.Global, ast.Nonlocal)):
                    fixed.update(node.names)
        for module in self.modules.values():
            names = _Names(module)
            new: dict[tuple[Scope, str], str] = {}
            for function in names.bound:
                if not isinstance(function, _FUNCTIONS):
                    continue
                body: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(function.body)
                # Bound again by other statements than assignments: names that are no nodes.
                again = {
                    name
                    for node in _here(body)
                    for name in ([node.name] if isinstance(node, ast.ExceptHandler) and node.name else [])
                    + [_alias(a) for a in (node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else [])]
                    + ([node.name] if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else [])
                }
                for number, parameter in enumerate(_parameters(function)):
                    if parameter.arg not in fixed | again:
                        name = f"a{names.depth[function]}_{number}"
                        new[function, parameter.arg] = name
                        parameter.arg = name
            for node, owner in names.owner.items():
                node.id = new.get((owner, node.id), node.id)

    def rename_attributes(self) -> None:
        """Private ones of classes, which only methods use, by `self`."""
        fixed = self._strings()
        classes: dict[str, list[ast.ClassDef]] = defaultdict(list)
        scopes = {path: _Names(module) for path, module in self.modules.items()}
        for module in self.modules.values():
            for node in ast.walk(module):
                if isinstance(node, ast.ClassDef):
                    classes[node.name].append(node)
        family: dict[ast.ClassDef, str] = {}
        for name, found in classes.items():
            for node in found:
                family[node] = name
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
        foreign = {of for c, of in family.items() if c.name in foreign}
        used: dict[str, set[str]] = defaultdict(set)
        places: list[tuple[ast.Attribute | ast.FunctionDef | ast.AsyncFunctionDef | ast.Name, str, str]] = []
        for path, module in self.modules.items():
            names = scopes[path]
            for node in ast.walk(module):
                if isinstance(node, ast.Attribute) and _private(node.attr):
                    of = self._class_of(node.value, names)
                    if of is None:
                        fixed.add(node.attr)
                    else:
                        places.append((node, family[of], node.attr))
                elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _private(node.name):
                    within = names.within[node]
                    if isinstance(within, ast.ClassDef):
                        places.append((node, family[within], node.name))
            for named, owner in names.owner.items():
                if isinstance(owner, ast.ClassDef) and _private(named.id):
                    places.append((named, family[owner], named.id))
        for _, where, name in places:
            if name not in fixed and where not in foreign:
                used[where].add(name)
        new = {(where, name): f"_{number}" for where, own in used.items() for number, name in enumerate(sorted(own))}
        for place, where, name in places:
            renamed = new.get((where, name), name)
            if isinstance(place, ast.Attribute):
                place.attr = renamed
            elif isinstance(place, ast.Name):
                place.id = renamed
            else:
                place.name = renamed

    def _class_of(self, value: ast.expr, names: _Names) -> ast.ClassDef | None:
        """The class whose instance this surely is: the first parameter of one of its methods."""
        if not isinstance(value, ast.Name) or value.id != "self":
            return None
        method = names.owner[value]
        within = names.within.get(method)
        return within if isinstance(within, ast.ClassDef) and isinstance(method, _FUNCTIONS) else None

    def rename_globals(self) -> None:
        """Functions and variables of a module that only it uses; classes keep their names, which logs tell."""
        fixed = self._strings()
        prefixes = ("__", *self._prefixes())
        for module in self.modules.values():
            for node in ast.walk(module):
                if isinstance(node, ast.Attribute):
                    fixed.add(node.attr)
                elif isinstance(node, ast.ImportFrom):
                    fixed.update(alias.name for alias in node.names)
                elif isinstance(node, (ast.Import)):
                    fixed.update(_alias(alias) for alias in node.names)
                elif isinstance(node, (ast.ClassDef)):
                    fixed.add(node.name)
        for path, module in self.modules.items():
            if path == _LEFT_ALONE:
                continue
            names = _Names(module)
            aliases = self._aliases(module)
            own = sorted(
                name
                for name in _bound(list(module.body)) | _globals(module)
                if name not in fixed | aliases and not name.startswith(prefixes)
            )
            new = {name: f"g{number}" for number, name in enumerate(own)}
            for node, owner in names.owner.items():
                if owner is module:
                    node.id = new.get(node.id, node.id)
            for statement in ast.walk(module):
                if isinstance(statement, ast.Global):
                    statement.names = [new.get(name, name) for name in statement.names]
                elif (
                    isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and names.within[statement] is module
                ):
                    statement.name = new.get(statement.name, statement.name)

    def _aliases(self, module: ast.Module) -> set[str]:
        return {
            _alias(alias)
            for node in ast.walk(module)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        } | {node.name for node in ast.walk(module) if isinstance(node, ast.ExceptHandler) and node.name}


class _Inline(ast.NodeTransformer):
    def __init__(
        self,
        path: str,
        values: dict[tuple[str, str], int],
        names: _Names,
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


def _literal(value: int) -> ast.expr:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))


def _value(
    node: ast.expr, path: str, values: dict[tuple[str, str], int], imported: dict[str, tuple[str, str | None]]
) -> int | None:
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.Name):
        where, name = imported.get(node.id, (path, node.id))
        return values.get((where, name)) if name else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        where, name = imported.get(node.value.id, ("", ""))
        return values.get((where, node.attr)) if name is None else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Invert)):
        operand = _value(node.operand, path, values, imported)
        if operand is None:
            return None
        return -operand if isinstance(node.op, ast.USub) else ~operand
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = (_value(side, path, values, imported) for side in (node.left, node.right))
        return None if left is None or right is None else int(_OPERATORS[type(node.op)](left, right))
    return None


def _target(statement: ast.AST) -> str | None:
    """The name that an assignment to one name binds."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def _is_store(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _globals(module: ast.Module) -> set[str]:
    return {name for node in ast.walk(module) if isinstance(node, ast.Global) for name in node.names}


def _mentions(root: ast.AST) -> Iterator[str]:
    """Names as often as they are used, strings among them; definitions are none."""
    for node in ast.walk(root):
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
    for node in ast.walk(module):
        for field in ("body", "orelse", "finalbody"):
            inside = getattr(node, field, None)
            if isinstance(inside, list):
                setattr(
                    node,
                    field,
                    [s for s in inside if wanted(s) or (node is not module and isinstance(s, ast.Assign))],
                )
