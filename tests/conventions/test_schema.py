"""The fields of the record, wherever they are listed, held against ``service.wire.Item``.

Add a field there, and this names every other place that has to know it.
"""

import re
from collections import Counter
from collections.abc import Iterator

import asyncpg
from msgspec import inspect

from service.statements import RECORD_COLUMNS
from service.wire import Item
from tests.support.postgres import MakeDatabase
from tests.support.source import ROOT

TABLE = "care_case_clinical_trial"
SET_ONCE = {f"{TABLE}_key", "entry_date", "entry_user"}
"""What an update leaves as it is."""

NEVER_NULL = {f"{TABLE}_key", "entry_date", "update_date"}

COLUMNS = """
    select attname, format_type(atttypid, atttypmod), attnotnull
    from pg_attribute
    where attrelid = $1::regclass and attnum > 0 and not attisdropped
    order by attnum
"""
APPLY_FUNCTION = f"select pg_get_functiondef('{TABLE}_apply'::regproc) as definition"


def sql_type(kind: inspect.Type) -> str:
    """Return the SQL type that holds what a field may hold."""
    if isinstance(kind, inspect.Metadata):
        return sql_type(kind.type)
    if isinstance(kind, inspect.UnionType):
        (kind,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))
        return sql_type(kind)
    if isinstance(kind, inspect.StrType):
        return f"character varying({kind.max_length})" if kind.max_length else "text"
    if isinstance(kind, inspect.IntType):
        return "integer"
    assert isinstance(kind, inspect.DateTimeType)
    return "timestamp with time zone"


def expected_columns() -> dict[str, str]:
    """Return the SQL type of each field by its column, in order."""
    info = inspect.type_info(Item)
    assert isinstance(info, inspect.StructType)
    return {field.name: sql_type(field.type) for field in info.fields}


def lists_in(sql: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the lists of columns in a function's statements, by what they are.

    Inserts name and select columns and replace them on conflict; a comparison tells whether
    a stored record equals an item.
    """
    inserts = (
        rf"insert into {TABLE}\b[^(]*\(([^)]*)\)\s*"
        r"(?:select\s(.*?)\sfrom (?:pg_catalog\.)?unnest|values\s*\((.*?)\n\s*\)\n)"
    )
    for named, selected, values in re.findall(inserts, sql, re.DOTALL):
        yield "insert", re.findall(r"\w+", named)
        # Whatever else an expression names is a variable.
        expressions = re.findall(r"\b(?:sent|item)\.(\w+)", selected or values)
        yield "values", list(dict.fromkeys(expressions))
    for update in re.findall(r"do update set\s(.*?)\s(?:where|returning)\s", sql, re.DOTALL):
        pairs = re.findall(r"(\w+)\s*=\s*excluded\.(\w+)", update)
        assert all(column == source for column, source in pairs), pairs
        yield "do update", [column for column, _ in pairs]
    for comparison in re.findall(r"when exists \((.*?)\) then 'e'", sql, re.DOTALL):
        compared = re.findall(r"\bstored\.(\w+)", comparison)
        assert compared == list(dict.fromkeys(re.findall(r"\bitem\.(\w+)", comparison)))
        yield "comparison", compared


def documented() -> list[str]:
    """Return the fields in the contract's table, as "JSON name: column"."""
    text = (ROOT / "docs" / "contract.md").read_text()
    section = text.partition("### Item fields")[2].partition("\n###")[0]
    fields = []
    for row in re.findall(r"^\|(.+)\|$", section, re.MULTILINE):
        names, *_, columns = (re.findall(r"`(\w+)`", cell) for cell in row.split("|"))
        columns = [column for column in columns if column != "timestamptz"]
        fields += [f"{name}: {column}" for name, column in zip(names, columns, strict=True)]
    return fields


def difference(expected: list[str], found: list[str], *, in_order: bool = True) -> str:
    """Say in words how a list differs from what it should be; nothing where it does not."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if missing or unknown:
        return "; ".join(
            f"{word} {', '.join(names)}"
            for word, names in (("lacks", missing), ("has, unlike wire.py,", unknown))
            if names
        )
    if len(found) != len(expected) or (in_order and found != expected):
        return f"expected the order and number {expected}, got {found}"
    return ""


async def test_every_list_of_the_records_fields_is_complete(make_database: MakeDatabase) -> None:
    fields = expected_columns()
    names = list(fields)
    replaced = [name for name in names if name not in SET_ONCE]
    expected = {
        "insert": names,
        "values": names,
        "do update": replaced,
        "comparison": [names[0], *replaced],
    }
    connection = await asyncpg.connect(make_database())
    try:
        table = await connection.fetch(COLUMNS, TABLE)
        item_type = await connection.fetch(COLUMNS, f"{TABLE}_item")
        (apply,) = await connection.fetch(APPLY_FUNCTION)
    finally:
        await connection.close()
    differences = {
        "the table": difference(names, [name for name, _, _ in table], in_order=False),
        "the type of an item": difference(names, [name for name, _, _ in item_type]),
        "docs/contract.md": difference(
            [
                f"{json_name}: {name}"
                for name, json_name in zip(names, Item.__struct_encode_fields__, strict=True)
            ],
            documented(),
            in_order=False,
        ),
    }
    lists = list(lists_in(apply["definition"]))
    for kind, columns in lists:
        place = f"the {kind} in {TABLE}_apply"
        # Of two lists of a kind, the one that differs is told.
        differences[place] = differences.get(place) or difference(expected[kind], columns)

    # Set-based, of new records and of others; one by one, and one without a key.
    assert Counter(kind for kind, _ in lists) == {
        "insert": 4,
        "values": 4,
        "do update": 2,
        "comparison": 1,
    }
    assert {place: words for place, words in differences.items() if words} == {}
    assert {name: kind for name, kind, _ in table} == fields
    assert {name: kind for name, kind, _ in item_type} == fields
    assert {name for name, _, is_never_null in table if is_never_null} == NEVER_NULL


def test_what_reads_records_names_every_column_in_order() -> None:
    columns = list(dict.fromkeys(re.findall(r"record\.(\w+)", RECORD_COLUMNS)))

    assert difference(list(Item.__struct_fields__), columns) == ""


def test_a_field_that_was_forgotten_is_named() -> None:
    assert difference(["a", "b"], ["a"]) == "lacks b"
    assert difference(["a"], ["a", "b"]) == "has, unlike wire.py, b"
    assert "order" in difference(["a", "b"], ["b", "a"])
    assert difference(["a", "b"], ["b", "a"], in_order=False) == ""
