"""Puts a model's modules into one, for a board's RAM: a module there costs some 250 bytes besides what is in it.

What `main` imports as it is imported is in the bundle, in the order in which it would have run; what is imported later,
by a function, stays a module of its own. Every name of the bundle is unique, and as far as possible one that some
attribute has anyway, since each further name costs RAM. The names are told: `emtag firmware names`.
"""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Iterable, Mapping
from keyword import iskeyword

from emrig.images.names import Names, Scope, alias_of, bound_by, here, module_name, walk

ROOT = "main.py"
APART = ("boards/sim/wire.py",)
"""Stay modules: what measures a simulated board may put its own function into it."""
_Key = tuple[str, str | None]
"""(path of a module of the tree, name in it; None: the module)."""


class BundleError(ValueError):
    """A module uses another in a way that a bundle cannot keep."""


def eager(modules: Mapping[str, ast.Module], roots: Iterable[str], apart: set[str]) -> list[str]:
    """Paths of all that main and these import as they are imported but these `apart`, each after its own imports."""
    by_name = {module_name(path): path for path in modules}
    found: list[str] = []
    begun = {*APART, *apart}

    def visit(path: str) -> None:
        if path in begun:
            return
        begun.add(path)
        for node in here(list(modules[path].body)):
            for name in _modules_of(node):
                if name in by_name:
                    visit(by_name[name])
        found.append(path)

    for root in [*roots, ROOT]:
        visit(root)
    return found


def handed_on(modules: Mapping[str, ast.Module]) -> set[str]:
    """Paths of modules that are somewhere a value, so that nobody knows what is asked of them: a board's pins."""
    by_name = {module_name(path): path for path in modules}
    found: set[str] = set()
    for module in modules.values():
        aliases = {
            alias_of(alias): by_name[f"{node.module}.{alias.name}"]
            for node in walk(module)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if f"{node.module}.{alias.name}" in by_name
        }
        asked = {node.value for node in walk(module) if isinstance(node, ast.Attribute)}
        # `getattr(constants, …)` is seen to by squeeze().
        asked |= {
            node.args[0]
            for node in walk(module)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr"
        }
        names = Names(module) if aliases else None
        for node in walk(module):
            if isinstance(node, ast.Name) and node.id in aliases and node not in asked:
                assert names is not None
                owner = names.owner.get(node)
                # A parameter of that name is none.
                if owner is module or _imports_it(owner, node.id):
                    found.add(aliases[node.id])
    return found


def _imports_it(scope: Scope | None, name: str) -> bool:
    return isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) and any(
        isinstance(node, ast.ImportFrom) and any(alias_of(alias) == name for alias in node.names)
        for node in here(list(scope.body))
    )


def _modules_of(node: ast.AST) -> list[str]:
    """Modules that a statement imports, or may: `from a import b` may mean a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _import_of(key: _Key) -> str:
    """The statement that imports a module of the tree, or a name of it."""
    path, name = key
    module = module_name(path)
    package, _, last = module.rpartition(".")
    if name is not None:
        return f"from {module} import {name}"
    return f"from {package} import {last}" if package else f"import {last}"


class Bundle:
    """`modules`: the tree as it becomes, {path: module}; `names`: {name in the bundle: "module.name"}."""

    def __init__(
        self,
        modules: Mapping[str, ast.Module],
        inside: list[str],
        roots: Iterable[str],
        exported: set[tuple[str, str]],
        kept: set[str],
    ) -> None:
        """inside: as eager() has them; roots: paths that are imported by name; exported: (path, name) that stays.

        kept: names that somebody else asks roots for.
        """
        self._all = dict(modules)
        self._by_name = {module_name(path): path for path in modules}
        self._order = inside
        self._roots = {module_name(path): path for path in roots}
        self._exported = exported
        self._kept = kept
        self._scopes = {path: Names(self._all[path]) for path in modules}
        self._tables = {path: self._imports(path) for path in modules}
        self._outside: dict[str, ast.stmt] = {}
        self._outside_names: dict[str, str] = {}
        self._new = self._choose()
        self.names = {
            new: f"{module_name(path)}.{name}"
            for (path, name), new in sorted(self._new.items(), key=lambda pair: pair[1])
        }
        for path in self._all:
            _Rewrite(self, path)
        whole = ast.Module([], [])
        whole.body += self._outside.values()
        for path in self._order:
            whole.body += [node for node in self._all[path].body if not _only_for_scripts(node)]
        self.modules = {path: module for path, module in self._all.items() if path not in self._order}
        self._forget_packages()
        for path in self._roots.values():
            if (facade := self._facade(path)).body:
                self.modules[path] = facade
        self.modules[ROOT] = whole

    def _facade(self, path: str) -> ast.Module:
        """In the place of a module that somebody else imports by its name: it has what he asks for."""
        names = sorted((name, new) for (where, name), new in self._new.items() if where == path and name in self._kept)
        imports = [ast.ImportFrom(ROOT[:-3], [ast.alias(new, name if new != name else None)], 0) for name, new in names]
        return ast.Module([*imports], [])

    def inside(self, path: str) -> bool:
        """Whether a module of the tree is in the bundle."""
        return path in self._order

    def _forget_packages(self) -> None:
        """Whose files do nothing: MicroPython takes a folder for a package without."""
        for path in list(self.modules):
            name = path.rpartition("/")[2]
            empty = not self.modules[path].body
            if name == "__init__.py" and empty:
                del self.modules[path]

    # -- names

    def _imports(self, path: str) -> dict[tuple[Scope, str], _Key | str]:
        """{(where it is bound, name here): what of the tree it is, or the statement that imports it from elsewhere}."""
        module = self._all[path]
        scopes: list[tuple[Scope, list[ast.AST]]] = [(module, list(module.body))]
        scopes += [
            (function, list(function.body))
            for function in walk(module)
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        found: dict[tuple[Scope, str], _Key | str] = {}
        for scope, body in scopes:
            for node in here(body):
                if isinstance(node, ast.ImportFrom) and node.module:
                    for alias in node.names:
                        target = self._by_name.get(f"{node.module}.{alias.name}")
                        if target is not None:
                            found[scope, alias_of(alias)] = (target, None)
                        elif node.module in self._by_name:
                            found[scope, alias_of(alias)] = (self._by_name[node.module], alias.name)
                        else:
                            found[scope, alias_of(alias)] = ast.unparse(ast.ImportFrom(node.module, [alias], 0))
                elif isinstance(node, ast.Import):
                    for alias in node.names:
                        if alias.name in self._by_name:
                            raise BundleError(f"{path}: write `from … import …` instead of `import {alias.name}`")
                        found[scope, alias_of(alias)] = ast.unparse(ast.Import([alias]))
        return found

    def _choose(self) -> dict[tuple[str, str], str]:
        local: set[str] = set(dir(builtins)) | {name for _, name in self._exported}
        attributes: Counter[str] = Counter()
        for path in self._all:
            for scope, bound in self._scopes[path].bound.items():
                if scope is not self._all[path]:
                    # What a function imports of the bundle it will not bind.
                    local |= {name for name in bound if not self._dropped(path, scope, name)}
            for node in walk(self._all[path]):
                if isinstance(node, ast.Attribute):
                    attributes[node.attr] += 1
                elif isinstance(node, ast.ExceptHandler) and node.name:
                    local.add(node.name)
        wanted: list[tuple[str, str]] = []
        kinds: dict[tuple[str, str], bool] = {}
        for path in self._order:
            module = self._all[path]
            classes = {
                node.name
                for node in here(list(module.body))
                if isinstance(node, ast.ClassDef) and self._scopes[path].within[node] is module
            }
            imported = {name for (scope, name) in self._tables[path] if scope is module}
            given = {name for node in walk(module) if isinstance(node, ast.Global) for name in node.names} | bound_by(
                list(module.body)
            )
            for name in sorted(given - imported):
                if not (name.startswith("__") and name.endswith("__")):
                    wanted.append((path, name))
                    kinds[path, name] = name in classes
        new: dict[tuple[str, str], str] = {}
        taken = set(local)
        for key in wanted:
            if key in self._exported:
                new[key] = key[1]
        # Logs and answers tell the name of an error; two classes of one name are told apart by a number.
        for key in wanted:
            if kinds[key] and key not in new:
                name, number = key[1], 1
                while name in taken:
                    number += 1
                    name = f"{key[1]}_{number}"
                new[key] = name
                taken.add(name)
        for path in self._order:
            for (scope, name), target in self._tables[path].items():
                if scope is self._all[path]:
                    self._outside_name(path, name, target, taken)
        stock = iter(
            [name for name in sorted(attributes) if name not in taken and is_plain(name)]
            + [name for name in (f"g{number}" for number in range(len(wanted))) if name not in taken]
        )
        for key in wanted:
            if key not in new:
                new[key] = next(stock)
        return new

    def _dropped(self, path: str, scope: Scope, name: str) -> bool:
        target = self._tables[path].get((scope, name))
        return isinstance(target, tuple) and self.inside(path) and self.inside(target[0])

    def _outside_name(self, path: str, name: str, target: _Key | str, taken: set[str]) -> None:
        """Of something from elsewhere: imported once, by one name."""
        if not isinstance(target, str) and self.inside(target[0]):
            return
        statement = target if isinstance(target, str) else _import_of(target)
        if statement in self._outside:
            return
        node = ast.parse(statement).body[0]
        assert isinstance(node, (ast.Import, ast.ImportFrom))
        own = alias_of(node.names[0])
        if own in taken:
            number = 2
            while f"{own}_{number}" in taken:
                number += 1
            if isinstance(node, ast.Import) and "." in node.names[0].name and not node.names[0].asname:
                raise BundleError(f"{path}: `{statement}` binds a name that is taken")
            own = f"{own}_{number}"
            node.names[0].asname = own
        taken.add(own)
        self._outside[statement] = node
        self._outside_names[statement] = own

    def resolve(self, path: str, name: str, scope: Scope | None = None) -> _Key | str | None:
        """What a name of a module is: (path, name) of the bundle, a module, the name of something else, None."""
        target = self._tables[path].get((scope or self._all[path], name))
        if target is None:
            return (path, name) if (path, name) in self._new else None
        if isinstance(target, str):
            return self._outside_names.get(target)
        if target[1] is None or not self.inside(target[0]):
            return target
        return self.resolve(target[0], target[1])

    def name_of(self, path: str, key: _Key | str | None) -> str | None:
        """In the bundle, of what resolve() found."""
        if key is None or isinstance(key, str):
            return key
        if key[1] is not None and self.inside(key[0]):
            return self._new.get((key[0], key[1]))
        return None

    def outside_name(self, key: _Key) -> str | None:
        """Of a module, or a name of one, that is not in the bundle."""
        return self._outside_names.get(_import_of(key))

    @property
    def roots(self) -> Mapping[str, str]:
        """{module that main imports by name: its path}."""
        return self._roots


class _Rewrite(ast.NodeTransformer):
    """One module: for the bundle, or beside it with its imports from the bundle."""

    def __init__(self, bundle: Bundle, path: str) -> None:
        self._bundle = bundle
        self._path = path
        self._module = bundle._all[path]
        self._names = bundle._scopes[path]
        self._inside = bundle.inside(path)
        self._functions: list[Scope] = []
        self._sets: dict[Scope, set[str]] = {}
        self.generic_visit(self._module)

    def _owner(self, node: ast.Name) -> Scope:
        return self._names.owner.get(node, self._module)

    def _module_of(self, node: ast.expr) -> str | None:
        """The bundle's module that a name stands for."""
        if not isinstance(node, ast.Name):
            return None
        found = self._bundle.resolve(self._path, node.id, self._owner(node))
        if isinstance(found, tuple) and found[1] is None and self._bundle.inside(found[0]):
            return found[0]
        return None

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if self._inside and (name := _imported_by_name(node)) is not None:
            return self._picked(node, name)
        module = self._module_of(node.value)
        if module is None:
            self.generic_visit(node)
            return node
        target = self._bundle.resolve(module, node.attr)
        if isinstance(target, tuple) and target[1] is None and self._bundle.inside(target[0]):
            raise BundleError(f"{self._path}: {ast.unparse(node)} is a module; import it by itself")
        new = self._bundle.name_of(module, target)
        if new is None and isinstance(target, tuple):
            new = self._bundle.outside_name(target)
        if new is None:
            raise BundleError(f"{self._path}: {ast.unparse(node)} is nothing that the bundle knows")
        if not self._inside:
            node.attr = new
            return node
        if not isinstance(node.ctx, ast.Load) and self._functions:
            self._sets.setdefault(self._functions[-1], set()).add(new)
        return ast.copy_location(ast.Name(new, node.ctx), node)

    def _picked(self, node: ast.Attribute, name: ast.expr) -> ast.expr:
        """`__import__("tags." + model, None, None, ("run",)).run`, of the bundle if it has that module."""
        self.generic_visit(node)
        made: ast.expr = node
        for module, path in self._bundle.roots.items():
            new = self._bundle.name_of(path, self._bundle.resolve(path, node.attr))
            if new is not None:
                is_it = ast.Compare(name, [ast.Eq()], [ast.Constant(module)])
                made = ast.IfExp(is_it, ast.Name(new, ast.Load()), made)
        return made

    def visit_Name(self, node: ast.Name) -> ast.expr:
        owner = self._owner(node)
        if not self._inside:
            # Its imports get an `as`.
            return node
        key = self._bundle.resolve(self._path, node.id, owner)
        if owner is not self._module and (owner, node.id) not in self._bundle._tables[self._path]:
            return node
        if isinstance(key, tuple) and key[1] is None and self._bundle.inside(key[0]):
            raise BundleError(f"{self._path}: the module {node.id} is used as a value")
        new = self._bundle.name_of(self._path, key)
        if new is None and isinstance(key, tuple) and owner is self._module:
            new = self._bundle.outside_name(key)
        if new is not None and (owner is self._module or isinstance(key, tuple)):
            node.id = new
        return node

    def _rename(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        if self._inside and self._names.within[node] is self._module:
            new = self._bundle.name_of(self._path, (self._path, node.name))
            if new is not None:
                node.name = new

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self._rename(node)
        self._functions.append(node)
        self.generic_visit(node)
        self._functions.pop()
        if node in self._sets:
            node.body.insert(0, ast.Global(sorted(self._sets[node])))
        if not node.body:
            node.body.append(ast.Pass())
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._rename(node)
        self.generic_visit(node)
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:
        if self._inside:
            node.names = [
                self._bundle.name_of(self._path, self._bundle.resolve(self._path, name)) or name for name in node.names
            ]
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        # Those of the module itself stand at the bundle's beginning.
        return None if self._inside and not self._functions else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | list[ast.stmt] | None:
        if self._inside and not self._functions:
            return None
        kept: list[ast.alias] = []
        made: list[ast.stmt] = []
        for alias in node.names:
            whole = self._bundle._by_name.get(f"{node.module}.{alias.name}")
            if whole is not None and self._bundle.inside(whole):
                if not self._inside:
                    made.append(ast.Import([ast.alias(ROOT[:-3], alias_of(alias))]))
            elif (
                whole is None
                and (source := self._bundle._by_name.get(node.module or "")) is not None
                and (self._bundle.inside(source))
            ):
                if not self._inside:
                    new = self._bundle.name_of(source, self._bundle.resolve(source, alias.name))
                    if new is None:
                        raise BundleError(f"{self._path}: {alias.name} is nothing that the bundle knows")
                    own = alias_of(alias)
                    made.append(ast.ImportFrom(ROOT[:-3], [ast.alias(new, own if own != new else None)], 0))
            else:
                kept.append(alias)
        if kept:
            node.names = kept
            made.append(node)
        return made or None

    def visit_Try(self, node: ast.Try) -> ast.AST | None:
        self.generic_visit(node)
        if not node.body:
            return None
        return node


def is_plain(name: str) -> bool:
    """Not a class, and not a word of the language."""
    return (name.islower() or name[1:].isdecimal()) and not iskeyword(name)


def _only_for_scripts(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
    )


def _imported_by_name(node: ast.Attribute) -> ast.expr | None:
    """What is imported by `__import__(…, None, None, ("attribute",)).attribute`."""
    call = node.value
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "__import__":
        return call.args[0]
    return None
