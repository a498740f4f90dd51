"""The files that send reads, as programs write them and as accidents leave them."""

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from service.send.records import Record, Records, Unreadable, fault_of
from service.wire import Item
from tests.harness.running import MakeService
from tests.harness.senders import Command, Front, as_ndjson, failures, serving
from tests.harness.service import KEY

Read = Callable[..., list[Record]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads records of a format from bytes."""

    def read(content: bytes, format_name: str = "csv", delimiter: str = "") -> list[Record]:
        path = tmp_path / "file"
        path.write_bytes(content)
        with path.open("rb") as source:
            return list(Records(source, format_name, delimiter))

    return read


def items(records: list[Record]) -> list[object]:
    return [json.loads(record.item) for record in records]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "with a byte order mark"])
def test_the_separator_of_a_csv_file_is_found(read: Read, separator: str, mark: str) -> None:
    rows = [["comment", KEY], ["a,b;c", "1"], ['"\t|\n', "2"]]
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)

    records = read((mark + text.getvalue()).encode())

    assert items(records) == [{"comment": "a,b;c", KEY: 1}, {"comment": '"\t|\n', KEY: 2}]
    assert [record.key for record in records] == [1, 2]


def test_another_separator_can_be_named(read: Read) -> None:
    content = f"comment~{KEY}\na~1\n".encode()

    assert items(read(content, delimiter="~")) == [{"comment": "a", KEY: 1}]
    with pytest.raises(Unreadable) as raised:
        read(content)
    assert f"'comment~{KEY}'" in str(raised.value)
    assert "--delimiter" in str(raised.value)
    assert "';'" in str(raised.value)


@pytest.mark.parametrize("argument", [";;", '"'])
async def test_a_separator_is_one_character(
    command: Command, tmp_path: Path, argument: str
) -> None:
    (tmp_path / "r.csv").write_text(KEY)
    arguments = ["r.csv", "--url", "http://127.0.0.1:1", "--database", "acme", "--delimiter"]

    ended = await command.run(*arguments, argument)

    assert ended.status == 2
    assert "one character, or tab" in ended.stderr


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.mark.parametrize("cells", ["2", '2,"b"', "2,b,c,d"], ids=["cut", "cut later", "too many"])
async def test_a_row_with_another_number_of_cells_erases_nothing(
    make_service: MakeService, command: Command, tmp_path: Path, cells: str
) -> None:
    service = await make_service()
    await service.put([{KEY: 2, "comment": "kept", "website": "kept"}])
    (tmp_path / "r.csv").write_text(f"{KEY},comment,website\n1,a,w\n{cells}\n3,c,w\n")
    address = ["--url", service.url, "--database", "acme"]

    ended = await command.run("r.csv", *address)
    # Sent uncorrected, it must not become a record that lacks the other fields.
    again = await command.run("r.csv.failed.ndjson", *address)

    assert (ended.status, again.status) == (1, 1)
    ((number, status, reason, item),) = failures(tmp_path / "r.csv.failed.ndjson")
    assert (number, status) == (2, 400)
    assert reason == f"the row has {cells.count(',') + 1} cells, the header has 3"
    assert item[0] == "2"
    assert await service.comments() == {1: "a", 2: "kept", 3: "c"}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (f"{KEY},commnt", "column commnt: did you mean comment?"),
        (f"{KEY},Protocol_number", "column Protocol_number: did you mean protocol_Number?"),
        (f"{KEY},zzz", "column zzz: a record has no such field"),
        (f"{KEY},comment,", "column 3 has no name"),
        (f"{KEY},comment,comment", "more than one column is comment"),
        (f"{KEY},case_Key,case_key", "more than one column is case_Key"),
        ("a;b", "got 'a;b'"),
        ("", "got ''"),
        (f"{KEY},comment\r1,a\r", "it is not CSV: new-line character"),
    ],
)
async def test_a_wrong_header_is_told_before_the_first_byte(
    command: Command, tmp_path: Path, header: str, says: str
) -> None:
    (tmp_path / "r.csv").write_text(header + "\n1,x\n" * 10)

    async with serving(Front()) as front:
        ended = await command.run("r.csv", "--url", front.url, "--database", "acme")

    assert ended.status == 2
    assert "cannot read r.csv: " in ended.stderr
    assert says in ended.stderr
    assert front.batches == []
    assert os.listdir(tmp_path) == ["r.csv"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("format_name", ["csv", "json", "ndjson"])
def test_utf_16_is_named(read: Read, encoding: str, format_name: str) -> None:
    with pytest.raises(Unreadable, match="UTF-16; save it in UTF-8"):
        read(f"{KEY}\n1\n".encode(encoding), format_name)


@pytest.mark.parametrize(
    ("cell", "value"),
    [("5", 5), ("5.0", 5), (" 5 ", 5), ("+5", 5), ("-5.", -5), ("1e3", 1000), ("1.5", "1.5"),
     ("x", "x"), ("1_000", "1_000"), ("nan", "nan"), ("9" * 40, "9" * 40), ("1e400", "1e400")],
)  # fmt: skip
def test_whole_numbers_in_csv_are_integers_however_they_are_written(
    read: Read, cell: str, value: object
) -> None:
    (record,) = read(f"{KEY},case_Key,comment\n1,{cell},5.0\n".encode())

    assert json.loads(record.item) == {KEY: 1, "case_Key": value, "comment": "5.0"}


@pytest.mark.parametrize("format_name", ["ndjson", "json", "csv"])
def test_gzip_is_known_by_its_bytes_and_told_when_it_is_cut(read: Read, format_name: str) -> None:
    content = {
        "ndjson": as_ndjson([{KEY: 1}, {KEY: 2}]),
        "json": json.dumps([{KEY: 1}, {KEY: 2}]).encode(),
        "csv": f"{KEY}\n1\n2\n".encode(),
    }[format_name]
    # Of several members, as appending to it makes it.
    whole = gzip.compress(content[:9]) + gzip.compress(content[9:])

    assert items(read(whole, format_name)) == [{KEY: 1}, {KEY: 2}]
    for spoilt in (whole[:-9], whole[:30] + bytes([whole[30] ^ 255]) + whole[31:]):
        with pytest.raises(Unreadable, match="gzip data are cut short or damaged"):
            read(spoilt, format_name)


def test_a_quote_that_never_ends_is_told_with_its_place(read: Read) -> None:
    with pytest.raises(Unreadable, match="after record 1 it is not CSV"):
        read(f'{KEY},comment\n1,a\n2,"b\n3,c\n'.encode())


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({KEY: 1}, ""),
        ({KEY: 1.0, "entry_Date": "2025-01-02 03:04:05+00"}, ""),
        ({}, "missing required field"),
        ({KEY: 1.5}, "Expected `int`"),
        ({KEY: 1, "update_User": "x" * 21}, "length <= 20"),
        ({KEY: 1, "comment": 5}, "Expected `str | null`"),
        ({KEY: 1, "commnt": "a"}, "unknown field `commnt`"),
    ],
)
def test_check_knows_the_faults_that_the_service_would_tell(item: object, fault: str) -> None:
    record = Record(1, json.dumps(item).encode(), None)

    found = fault_of(record)

    assert fault in found
    assert bool(found) == bool(fault)


DATES = ("entry_date", "update_date")


@pytest.mark.parametrize(
    "columns",
    [
        [name for name in Item.__struct_fields__ if name not in DATES],
        list(Item.__struct_fields__),
    ],
    ids=["without dates", "whole"],
)
async def test_what_copy_writes_can_be_sent(
    make_service: MakeService, command: Command, tmp_path: Path, columns: list[str]
) -> None:
    service = await make_service()
    record = {
        KEY: 7, "case_Key": -5, "comment": 'a,"b"\nc;ü', "entry_User": "somebody",
        "entry_Date": "2025-01-02T03:04:05.123456Z", "update_Date": "2025-01-02T03:04:05+05:30",
    }  # fmt: skip
    await service.put([record, {KEY: 8}])
    query = f"select {', '.join(columns)} from care_case_clinical_trial order by 1"  # noqa: S608
    stored = await service.fetch(query)
    copied = io.BytesIO()
    connection = await asyncpg.connect(service.databases["acme"])
    await connection.copy_from_table(
        "care_case_clinical_trial", columns=columns, output=copied, format="csv", header=True
    )
    await connection.close()
    (tmp_path / "r.csv").write_bytes(copied.getvalue())
    await service.execute("delete from care_case_clinical_trial")

    ended = await command.run("r.csv", "--url", service.url, "--database", "acme")

    assert (ended.status, ended.stderr) == (0, "")
    assert await service.fetch(query) == stored
