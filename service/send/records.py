"""The records of a file as JSON, NDJSON or CSV, one after the other."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Raw, Struct

from service.wire import KEY_FIELD, Item, Keyed

FORMATS = {".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}
"""The format that a file's extension tells."""

MAX_CELL_CHARACTERS = 2**27
"""Of a CSV file; csv's own limit is 128 kB."""


class Unreadable(Exception):
    """The file as a whole is not what its format says."""


class Fate(NamedTuple):
    """What became of a record."""

    status: int
    reason: str


class Record(NamedTuple):
    """One record: its place in the file, counted from 1, and what goes to the service.

    ``key`` is None where it cannot be read; one with a ``refusal`` is not sent.
    """

    number: int
    item: bytes
    key: int | None
    refusal: Fate | None = None

    @property
    def is_named(self) -> bool:
        """Tell whether it names its key, so that it may be sent again in any company."""
        return self.key is not None and self.key != 0


class FailedRecord(Struct, forbid_unknown_fields=True):
    """A line of the file of failed records, which can be sent like any NDJSON file."""

    record: int
    status: int
    reason: str
    item: Raw


class Records:
    """Yields a file's records; ``position`` is how many of its bytes they were read from.

    The iteration raises Unreadable.
    """

    def __init__(self, source: BinaryIO, format_name: str) -> None:
        self.position = 0
        self._source = source
        self._read = {"json": self._json, "ndjson": self._ndjson, "csv": self._csv}[format_name]

    def __iter__(self) -> Iterator[Record]:
        return self._read()

    def _json(self) -> Iterator[Record]:
        """Read the whole array first, so that nothing is sent of one that is cut short."""
        body = self._source.read().removeprefix(_BYTE_ORDER_MARK)
        try:
            items = msgspec.json.decode(body, type=list[Raw])
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"expected a JSON array: {error}") from None
        for number, item in enumerate(items, 1):
            self.position += len(bytes(item)) + 1
            yield _record(number, bytes(item))

    def _ndjson(self) -> Iterator[Record]:
        """Read line by line; empty lines are no records."""
        number = 0
        for line in self._source:
            self.position += len(line)
            item = line.removeprefix(_BYTE_ORDER_MARK if number == 0 else b"").strip()
            if item:
                number += 1
                yield _unwrapped(_record(number, item))

    def _csv(self) -> Iterator[Record]:
        """Read row by row; the header names the fields, an empty cell is a field not sent."""
        csv.field_size_limit(MAX_CELL_CHARACTERS)
        # What is not UTF-8 goes on as lone surrogates, which the service refuses by record.
        text = io.TextIOWrapper(self._source, "utf-8-sig", "surrogateescape", newline="")
        rows = csv.reader(text, strict=True)
        try:
            header = _checked_header(next(rows, []))
            number = 0
            for row in rows:
                if row:
                    number += 1
                    self.position = self._source.tell() if self._source.seekable() else 0
                    yield _row(number, header, row)
        except csv.Error as error:
            raise Unreadable(f"line {rows.line_num} is not CSV: {error}") from None
        finally:
            text.detach()


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def format_of(path: Path) -> str | None:
    """Return the format that the file's extension tells, None where it tells none."""
    return FORMATS.get(path.suffix.lower())


def _record(number: int, item: bytes) -> Record:
    """Return a record of JSON text; one that is not JSON would spoil the whole batch."""
    try:
        msgspec.json.decode(item)
        return Record(number, item, _key(item))
    except UnicodeDecodeError:
        refusal = "the record is not UTF-8"
    except msgspec.DecodeError as error:
        refusal = f"the record is not JSON: {error}"
    except RecursionError:
        refusal = "the record is nested too deep"
    return Record(number, item, None, Fate(400, refusal))


def _unwrapped(record: Record) -> Record:
    """Return the record within a line of a file of failed records; others as they are."""
    if b'"item"' not in record.item or record.refusal is not None:
        return record
    try:
        failed = msgspec.json.decode(record.item, type=FailedRecord)
    except msgspec.ValidationError:
        return record
    return _record(record.number, bytes(failed.item))


def _key(item: bytes) -> int | None:
    """Return the record's key, read as the service reads it."""
    try:
        return msgspec.json.decode(item, type=Keyed).key
    except msgspec.ValidationError:
        return None


def _checked_header(header: list[str]) -> list[str]:
    if KEY_FIELD not in header:
        raise Unreadable(f"expected a CSV header row that names {KEY_FIELD} and other fields")
    if "" in header or len(set(header)) < len(header):
        raise Unreadable("expected a CSV header row in which every column has its own name")
    return header


def _integer_fields() -> frozenset[str]:
    """Return the JSON names of the item's fields that hold an integer."""
    info = msgspec.inspect.type_info(Item)
    assert isinstance(info, msgspec.inspect.StructType)
    return frozenset(field.encode_name for field in info.fields if _is_integer(field.type))


def _is_integer(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _is_integer(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(_is_integer, kind.types))
    return isinstance(kind, msgspec.inspect.IntType)


_INTEGER_FIELDS = _integer_fields()
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")


def _row(number: int, header: list[str], row: list[str]) -> Record:
    values = {
        name: int(cell) if name in _INTEGER_FIELDS and _INTEGER.fullmatch(cell) else cell
        for name, cell in zip(header, row, strict=False)
        # Omitted, not null: the same, save for dates, whose default null would refuse.
        if cell
    }
    try:
        item = msgspec.json.encode(values)
    except UnicodeEncodeError:
        item = json.dumps(values).encode()
    key = values.get(KEY_FIELD)
    refusal = None
    if len(row) > len(header):
        refusal = Fate(400, f"the row has {len(row)} cells, the header has {len(header)}")
    return Record(number, item, key if isinstance(key, int) else None, refusal)


def failed_line(record: Record, fate: Fate) -> bytes:
    """Return the record as a line of the file of failed records."""
    try:
        item = msgspec.json.format(record.item, indent=-1)
        msgspec.json.decode(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        item = msgspec.json.encode(record.item.decode(errors="replace"))
    return msgspec.json.encode(FailedRecord(record.number, *fate, Raw(item))) + b"\n"
