"""The files that send reads, as programs write them and as accidents leave them."""

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.send.records import DELIMITERS, Records, Unreadable, find_fault
from service.wire import Item
from tests.support.running import MakeService
from tests.support.senders import Command, Front, as_ndjson, failures, serving
from tests.support.service import KEY

Read = Callable[..., list[Any]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads records from bytes."""

    def read(content: bytes, delimiter: str = DELIMITERS) -> list[Any]:
        path = tmp_path / "file"
        path.write_bytes(content)
        with path.open("rb") as source:
            return list(Records(source, delimiter, replaces=True))

    return read


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "with a byte order mark"])
def test_the_separator_of_a_csv_file_is_found(read: Read, separator: str, mark: str) -> None:
    rows = [["comment", KEY], ["a,b;c", "1"], ['"\t|\n', "2"]]
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)

    records = read((mark + text.getvalue()).encode())

    assert records == [{"comment": "a,b;c", KEY: 1}, {"comment": '"\t|\n', KEY: 2}]


def test_another_separator_can_be_named(read: Read) -> None:
    content = f"comment~{KEY}\na~1\n".encode()

    assert read(content, delimiter="~") == [{"comment": "a", KEY: 1}]
    with pytest.raises(Unreadable) as raised:
        read(content)
    assert f"'comment~{KEY}'" in str(raised.value)
    assert "--delimiter" in str(raised.value)
    assert "';'" in str(raised.value)


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
        (f"{KEY},zzz", "column zzz: records have no such field"),
        (f"{KEY},comment,", "column 3 has no name (pandas: use index=False)"),
        (f"{KEY},comment,comment", "more than one column is comment"),
        (f"{KEY},case_Key,case_key", "more than one column is case_Key"),
        ("a;b", "got 'a;b'"),
        ("", "got '1,x'"),
        (f"{KEY},comment\r1,a\r", "new-line character seen in unquoted field"),
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


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", f"{KEY},comment\n".encode()])
def test_a_file_may_hold_no_records(read: Read, content: bytes) -> None:
    assert read(content) == []


def test_records_may_begin_after_empty_lines(read: Read) -> None:
    for content in (b'[{"a": 1}]', b'{"a": 1}\n\n', f"{KEY}\n1\n".encode()):
        assert len(read(b"\n \n" + content)) == 1


def test_json_of_many_lines_that_is_no_array_is_told_as_that(read: Read) -> None:
    with pytest.raises(Unreadable, match="expected a JSON array of records, got an object"):
        read(json.dumps({KEY: 1}, indent=1).encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [f"{KEY}\n1\n", "[\n{}]", "{}\n"], ids=["csv", "json", "ndjson"])
def test_utf_16_is_named(read: Read, encoding: str, text: str) -> None:
    with pytest.raises(Unreadable, match="UTF-16; save it in UTF-8"):
        read(text.encode(encoding))


@pytest.mark.parametrize("name", [KEY, "case_Key"])
@pytest.mark.parametrize(
    ("cell", "value"),
    [("5", 5), ("5.0", 5), (" 5 ", 5), ("+5", 5), ("-5", -5), ("007", 7), ("1e3", 1000),
     ("1e+05", 100_000), ("1E5", 100_000), ("0", 0), ("-0", 0), ("0.0", 0), ("-0.0", 0),
     ("9" * 40, 1e40), ("1e400", "1e400"), ("x", "x"), ("1_000", "1_000"), ("nan", "nan"),
     ("0x5", "0x5"), ("\u0665", "\u0665"), ("1\u00a0000", "1\u00a0000"), ("1e-400", "1e-400"),
     ("5.", "5."), (".0", ".0"), ("1.0e3", "1.0e3"), ("1.000.000", "1.000.000"), (" ", " "),
     ("-", "-"), ("null", "null")],
)  # fmt: skip
def test_a_cell_is_an_integer_only_where_it_cannot_be_another(
    read: Read, name: str, cell: str, value: object
) -> None:
    records = read(f"{name};{KEY if name != KEY else 'case_Key'};comment\n{cell};1;5.0\n".encode())

    assert records == [{KEY: 1, "case_Key": 1, "comment": "5.0", name: value}]
    assert type(records[0][name]) is type(value)


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize(
    ("cell", "meanings"),
    [("1.000", "1 or 1000"), ("1,000", "1 or 1000"), ("1.5", "1.5 or 15"), ("1.50", "1.5 or 150"),
     ("1.00", "1 or 100"), ("5,0", "5 or 50"), ("-2.500", "-2.5 or -2500"), ("0.000", "0 or 0000")],
)  # fmt: skip
async def test_an_integer_that_could_be_another_is_never_stored(
    make_service: MakeService,
    command: Command,
    tmp_path: Path,
    separator: str,
    cell: str,
    meanings: str,
) -> None:
    service = await make_service()
    rows = [[KEY, "case_Key", "comment"], [cell, "1", "a"], ["2", cell, "b"], ["", "", "c"]]
    with (tmp_path / "r.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    address = ["--url", service.url, "--database", "acme"]

    checked = await command.run("r.csv", *address, "--check")
    ended = await command.run("r.csv", *address)

    reasons = [f'{n}: must be an integer; "{cell}" could mean {meanings}' for n in rows[0][:2]]
    assert (checked.status, ended.status) == (1, 1)
    assert [line.partition(": ")[2] for line in checked.stdout.splitlines()[1:3]] == reasons
    told = failures(tmp_path / "r.csv.failed.ndjson")
    assert [reason for _, _, reason, _ in told[:2]] == reasons
    assert [item for *_, item in told] == [
        {KEY: cell, "case_Key": 1, "comment": "a"},
        {KEY: 2, "case_Key": cell, "comment": "b"},
        {"case_Key": None, "comment": "c"},
    ]
    assert await service.comments() == {}


@pytest.mark.parametrize("format_name", ["ndjson", "json", "csv"])
def test_gzip_is_known_by_its_bytes_and_told_when_it_is_cut(read: Read, format_name: str) -> None:
    content = {
        "ndjson": as_ndjson([{KEY: 1}, {KEY: 2}]),
        "json": json.dumps([{KEY: 1}, {KEY: 2}]).encode(),
        "csv": f"{KEY}\n1\n2\n".encode(),
    }[format_name]
    # Of several members, as appending to it makes it.
    whole = gzip.compress(content[:9]) + gzip.compress(content[9:])

    assert read(whole) == [{KEY: 1}, {KEY: 2}]
    for spoilt in (whole[:-9], whole[:30] + bytes([whole[30] ^ 255]) + whole[31:]):
        with pytest.raises(Unreadable, match=r"ended before|CRC check|decompress|Not a gzipped"):
            read(spoilt)


def test_a_quote_that_never_ends_is_told_with_its_place(read: Read) -> None:
    with pytest.raises(Unreadable, match="after record 1: unexpected end of data"):
        read(f'{KEY},comment\n1,a\n2,"b\n3,c\n'.encode())


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({KEY: 1}, ""),
        ({KEY: 1.0, "entry_Date": "2025-01-02 03:04:05+00"}, ""),
        ({}, f"{KEY}: required"),
        ({KEY: 1.5}, f"{KEY}: must be an integer, got a fraction"),
        ({KEY: 1, "update_User": "x" * 21}, "update_User: must be at most 20 characters"),
        ({KEY: 1, "comment": 5}, "comment: must be a string or null, got a number"),
        ({KEY: 1, "commnt": "a"}, "commnt: unknown field"),
    ],
)
def test_check_knows_the_faults_that_the_service_would_tell(
    read: Read, item: object, fault: str
) -> None:
    (record,) = read(json.dumps([item]).encode())

    found = find_fault(record)

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
    make_service: MakeService, tmp_path: Path, columns: list[str]
) -> None:
    service = await make_service()
    command = Command(tmp_path, "--retries", "0")
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
