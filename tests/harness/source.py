"""The source of the service, as syntax trees: its modules, and the literals that stand in them."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

ROOT = Path(__file__).parents[2]

Value: TypeAlias = str | int


class Literal(NamedTuple):
    """A text or number in a module; whether it gives a constant or a setting its value."""

    module: str
    line: int
    value: Value
    is_definition: bool


def modules() -> dict[str, ast.Module]:
    """Return the service's modules by their paths."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in sorted((ROOT / "service").rglob("*.py"))
    }


def literals() -> list[Literal]:
    """Return all literals of the service; docstrings are none, pieces of f-strings are."""
    return [literal for module, tree in modules().items() for literal in literals_of(module, tree)]


def literals_of(module: str, tree: ast.Module) -> Iterator[Literal]:
    """Yield the literals of one module."""
    defining = {id(node) for statement in _definitions(tree) for node in ast.walk(statement)}
    documenting = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str | int)
            and not isinstance(node.value, bool)
            and id(node) not in documenting
        ):
            yield Literal(module, node.lineno, node.value, id(node) in defining)


def _definitions(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the assignments in the bodies of the module and of its classes."""
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    for body in bodies:
        yield from (each for each in body if isinstance(each, ast.Assign | ast.AnnAssign))


def modules_with(matches: Callable[[Value], bool]) -> dict[Value, set[str]]:
    """Return, by value, the modules in which the literals stand that match."""
    places: dict[Value, set[str]] = {}
    for literal in literals():
        if matches(literal.value):
            places.setdefault(literal.value, set()).add(literal.module)
    return places
