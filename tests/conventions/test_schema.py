"""The fields of the record, wherever they are listed, held against ``service.wire.Item``.

Add a field there, and this names every other place that has to know it.
"""

import re

import asyncpg
from msgspec import inspect

from service.statements import COLUMNS, RECORD_COLUMNS
from service.wire import Item
from tests.support.postgres import MakeDatabase
from tests.support.source import ROOT

TABLE = "care_case_clinical_trial"
SET_ONCE = {f"{TABLE}_key", "entry_date", "entry_user"}
"""What an update leaves as it is."""

NEVER_NULL = {f"{TABLE}_key", "entry_date", "update_date"}

TABLE_COLUMNS = """
    select attname, format_type(atttypid, atttypmod), attnotnull
    from pg_attribute
    where attrelid = $1::regclass and attnum > 0 and not attisdropped
    order by attnum
"""


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


def columns_in(sql: str, alias: str = r"\b") -> list[str]:
    """Return the columns that a list of sql/columns names after an alias, in order."""
    text = re.sub(r"--.*", "", sql)
    names = re.findall(rf"{alias}(\w+)", text)
    return list(dict.fromkeys(name for name in names if name in Item.__struct_fields__))


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
    connection = await asyncpg.connect(make_database())
    try:
        table = await connection.fetch(TABLE_COLUMNS, TABLE)
        item_type = await connection.fetch(TABLE_COLUMNS, f"{TABLE}_item")
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
    for place, expected, found in [
        ("names", names[1:], columns_in(COLUMNS["names"])),
        ("values", names[1:], columns_in(COLUMNS["values"], r"\bsent\.")),
        ("updates", replaced, columns_in(COLUMNS["updates"], r"(?m)^")),
        ("updates", replaced, columns_in(COLUMNS["updates"], r"\bexcluded\.")),
        ("comparison", [names[0], *replaced], columns_in(COLUMNS["comparison"], r"\bsent\.")),
        ("comparison", [names[0], *replaced], columns_in(COLUMNS["comparison"], r"\bstored\.")),
    ]:
        place = f"sql/columns/{place}.sql"
        differences[place] = differences.get(place) or difference(expected, found)

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
