"""What the names in a module's syntax tree are bound to; for what makes a model's modules smaller."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from emrig.images import syntax_trees

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Scope = Function | ast.ClassDef | ast.Module | ast.expr
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def walk(root: ast.AST) -> Iterator[ast.AST]:
    """As ast.walk(), in another order and a third of the time, without the nodes that say how others are meant."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += _children(node)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for field in node._fields:
        inside = getattr(node, field, None)
        if isinstance(inside, list):
            yield from [each for each in inside if isinstance(each, ast.AST)]
        elif isinstance(inside, ast.AST) and field not in ("ctx", "op"):
            yield inside


def names_of(source: str) -> set[str]:
    """Every name that a source mentions: what has to be kept for it."""
    names: set[str] = set()
    for node in walk(syntax_trees.parse(source)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.keyword, ast.arg)) and node.arg:
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.update(node.name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


class Names(ast.NodeVisitor):
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
        """Whose it is."""
        for number, scope in enumerate(reversed(self._scopes)):
            # What a class binds is seen in its own statements alone.
            if node.id in self.bound[scope] and (number == 0 or not isinstance(scope, ast.ClassDef)):
                self.owner[node] = scope
                return
        self.owner[node] = self.module

    def _enter(self, scope: Scope, bound: set[str], inside: list[ast.AST]) -> None:
        self.within[scope] = self._scopes[-1] if self._scopes else self.module
        self.depth[scope] = sum(isinstance(around, FUNCTIONS) for around in self._scopes)
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
        self._enter(node, {a.arg for a in parameters_of(node, everything=True)} | bound_by(body), body)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A scope that only its own statements see."""
        for outside in [*node.bases, *node.decorator_list]:
            self.visit(outside)
        self._enter(node, bound_by(list(node.body)), list(node.body))

    def _comprehension(self, node: Any) -> None:
        self.visit(node.generators[0].iter)
        targets = {name.id for part in node.generators for name in walk(part.target) if isinstance(name, ast.Name)}
        inside: list[ast.AST] = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for number, part in enumerate(node.generators):
            inside += [part.target, *part.ifs] if number == 0 else [part.target, part.iter, *part.ifs]
        self._enter(node, targets, inside)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension


def parameters_of(function: Function, everything: bool = False) -> list[ast.arg]:
    """Those that have a place; everything: * and ** as well."""
    given = function.args
    found = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    # MicroPython keeps no names of * and **.
    return found + [a for a in (given.vararg, given.kwarg) if a is not None] if everything else found


def bound_by(body: list[ast.AST]) -> set[str]:
    """Names that these statements bind where they stand."""
    names: set[str] = set()
    elsewhere: set[str] = set()
    for node in here(body):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)):
            names.update([node.name] if node.name else [])
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(alias_of(alias) for alias in node.names)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            elsewhere.update(node.names)
    return names - elsewhere


def here(body: list[ast.AST]) -> Iterator[ast.AST]:
    """These statements and what is in them, but for the inside of functions, classes and comprehensions."""
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)):
            waiting += _children(node)


def alias_of(alias: ast.alias) -> str:
    """The name that an import binds."""
    return alias.asname or alias.name.partition(".")[0]


def assigned(statement: ast.AST) -> str | None:
    """The name that an assignment to one name binds."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def module_name(path: str) -> str:
    """By which the module at this path of the tree is imported."""
    return path[:-3].removesuffix("/__init__").replace("/", ".")
