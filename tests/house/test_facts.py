"""A fact stands once: where a header, a path, a limit or a SQLSTATE is written in the source."""

import ast
import re

import pytest
from aiohttp import hdrs
from multidict import istr

from service import wire
from service.config import Auth, Jwt, Server, Settings, Tuning
from service.engine import sqlstates
from service.http.app import build_app
from tests.harness.source import Literal, Value, literals, literals_of, modules, modules_with

WIRE = "service/wire.py"
SQLSTATES = "service/engine/sqlstates.py"

STANDARD_HEADERS = {str(name) for name in vars(hdrs).values() if isinstance(name, istr)}
OWN_HEADERS = {name for constant, name in vars(wire).items() if constant.endswith("_HEADER")}


def spelt_out(text: str) -> set[str]:
    """Return the modules where a text stands in a literal, alone or within a longer one."""
    # A single word such as Prefer means other things, too, in small letters.
    words = re.compile(re.escape(text) + r"(?![\w-])", re.IGNORECASE if "-" in text else 0)
    found = modules_with(lambda value: words.search(str(value)) is not None)
    return set().union(*found.values())


def test_a_standard_header_is_named_by_aiohttp_and_never_spelt_out() -> None:
    assert {"Retry-After", "Content-Type", "traceparent"} <= STANDARD_HEADERS

    assert modules_with(lambda value: value in STANDARD_HEADERS) == {}


@pytest.mark.parametrize("header", sorted(OWN_HEADERS))
def test_a_header_of_our_own_is_spelt_out_in_wire_alone(header: str) -> None:
    assert spelt_out(header) == {WIRE}


def test_every_header_that_looks_like_one_is_standard_or_our_own() -> None:
    """So that a new one cannot be spelt out in two modules without being noticed."""
    shape = re.compile(r"[A-Z][a-z]+(-[A-Z][A-Za-z]+)+|X-[A-Za-z-]+")

    found = modules_with(lambda value: shape.fullmatch(str(value)) is not None)

    assert found.keys() <= OWN_HEADERS


def paths_served() -> set[str]:
    """Return the first part of each path that the application answers, but for the root."""
    settings = Settings(Auth({}, Jwt(["HS256"], "x" * 32)), {})
    router = build_app(settings, Tuning()).router
    return {"/" + resource.canonical.split("/")[1] for resource in router.resources()} - {"/"}


def naming(path: str) -> set[str]:
    """Return the modules where a path stands in a literal, and does not begin a longer name."""
    whole = re.compile(rf"{re.escape(path)}(?![\w-])")
    found = modules_with(lambda value: whole.search(str(value)) is not None)
    return set().union(*found.values())


def test_each_path_is_spelt_out_in_one_module() -> None:
    served = paths_served()
    assert served >= {wire.BATCH_PATH, wire.DOCS_PATH, "/livez", "/openapi.json"}

    places = {path: naming(path) for path in served}
    assert {path: where for path, where in places.items() if len(where) != 1} == {}


FIELD_LIMITS = {wire.CODE_LENGTH, wire.USER_NAME_LENGTH, 31}
"""31: the integers of a record are of 32 bits."""

SIZES = {
    getattr(Server(), name)
    for name in Server.__struct_fields__
    if name.startswith("max_") and not name.endswith("_seconds")
}


def test_a_limit_is_a_number_only_where_a_constant_or_a_setting_is_defined() -> None:
    bare = [
        literal
        for literal in literals()
        if literal.value in FIELD_LIMITS | SIZES and not literal.is_definition
    ]

    assert bare == []


@pytest.mark.parametrize("size", sorted(size for size in SIZES if size > 1_000))
def test_the_size_of_what_is_accepted_stands_in_one_module(size: int) -> None:
    (where,) = modules_with(lambda value: value == size).values()

    assert len(where) == 1


@pytest.mark.parametrize("name", ["CODE_LENGTH", "USER_NAME_LENGTH"])
def test_the_limit_of_a_field_is_defined_in_wire_alone(name: str) -> None:
    defining = {
        module
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
    }

    assert defining == {WIRE}


def is_sqlstate(value: Value) -> bool:
    """Tell whether a text is a SQLSTATE, or one of the classes that the service speaks of."""
    classes = {code[:2] for code in (*sqlstates.BY_CODE, *sqlstates.BY_CLASS)}
    code = re.compile(r"(?:[0-9][0-9A-Z]|F0|HV|P0|XX)[0-9A-Z]{3}")
    return isinstance(value, str) and (value in classes or code.fullmatch(value) is not None)


def test_sqlstates_stand_in_their_table_alone() -> None:
    found = modules_with(is_sqlstate)

    assert found.keys() >= {"23505", "42501", "57"}
    assert set().union(*found.values()) == {SQLSTATES}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""/docs"""\nA = "/docs"', [Literal("m", 2, "/docs", True)]),
        ('def f():\n    """/docs"""\n    return f"{x}/docs"', [Literal("m", 3, "/docs", False)]),
        ("class A:\n    x: int = 64\n    def f(self): return 64", [
            Literal("m", 2, 64, True), Literal("m", 3, 64, False),
        ]),
    ],
    ids=["constant", "f-string", "default"],
)  # fmt: skip
def test_literals_are_found_and_docstrings_are_not(source: str, found: list[Literal]) -> None:
    assert list(literals_of("m", ast.parse(source))) == found
