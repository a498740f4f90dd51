"""The records of a file as JSON, NDJSON or CSV, one after the other."""

import csv
import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from service.client import key_of
from service.wire import KEY_FIELD, Item, StrictItem

FORMATS = {".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}
"""The format that a file's extension tells."""

DELIMITERS = ",;\t|"
"""Those of a CSV file that its header is tried with."""

csv.field_size_limit(2**27)  # characters of a cell; csv's own limit is 128 kB


class Unreadable(Exception):
    """The file as a whole is not what its format says."""


class Record(NamedTuple):
    """One record: its place in the file, counted from 1, and what goes to the service.

    ``item`` is JSON, also of what is no record: a ``refusal`` tells why, and the service refuses
    it, too, since it is text or an array. ``key`` is None where it cannot be read.
    """

    number: int
    item: bytes
    key: int | None
    refusal: str = ""


class FailedRecord(Struct, forbid_unknown_fields=True):
    """A line of the file of failed records, which can be sent like any NDJSON file."""

    record: int
    status: int
    reason: str
    item: Raw


def format_of(path: Path) -> str | None:
    """Return the format that the file's extension tells, None where it tells none."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return FORMATS.get(name.suffix.lower())


class Records:
    """Yields the records of a source, plain or compressed by gzip. Raises Unreadable.

    A CSV header is read, and checked, at once.
    """

    def __init__(
        self, source: "BufferedReader[Any]", format_name: str, delimiter: str = ""
    ) -> None:
        self._source = source
        is_compressed = source.peek(2)[:2] == b"\x1f\x8b"
        # Its head names the encoding, and is not to be lost.
        self._plain = gzip.GzipFile(fileobj=source) if is_compressed else source
        with _readable():
            head = self._plain.peek(4)[:4]
        if b"\0" in head or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise Unreadable("it is in UTF-16; save it in UTF-8 (Excel: CSV UTF-8)")
        self._size = os.fstat(source.fileno()).st_size if source.seekable() else 0
        self._share_of_json: float | None = None
        if format_name == "csv":
            self._records = self._csv(delimiter)
        else:
            self._records = self._json() if format_name == "json" else self._ndjson()

    @property
    def share(self) -> float:
        """How much of the source has been read, from 0 to 1; 0 where nobody knows."""
        if self._share_of_json is not None:
            return self._share_of_json
        return self._source.tell() / self._size if self._size else 0

    def __iter__(self) -> Iterator[Record]:
        with _readable():
            yield from self._records

    def _json(self) -> Iterator[Record]:
        """Read the whole array first, so that nothing is sent of one that is cut short."""
        body = self._plain.read().removeprefix(_BYTE_ORDER_MARK)
        try:
            items = msgspec.json.decode(body, type=list[Raw])
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"expected a JSON array: {error}") from None
        for number, item in enumerate(items, 1):
            self._share_of_json = number / len(items)
            yield _record(number, bytes(item))

    def _ndjson(self) -> Iterator[Record]:
        """Read line by line; empty lines are no records."""
        number = 0
        for line in self._plain:
            item = line.removeprefix(_BYTE_ORDER_MARK if number == 0 else b"").strip()
            if item:
                number += 1
                yield _unwrapped(_record(number, item))

    def _csv(self, delimiter: str) -> Iterator[Record]:
        """Read the header, which names the fields; return an iterator of the rows."""
        # What is not UTF-8 goes on as lone surrogates, for which its row alone is refused.
        lines = (line.decode(errors="surrogateescape") for line in self._plain)
        with _readable():
            line = next(lines, "").removeprefix("\ufeff")
            for each in delimiter or DELIMITERS:
                header = next(csv.reader([line], delimiter=each), [])
                if KEY_FIELD in map(_FIELDS.get, header):
                    return _rows(csv.reader(lines, delimiter=each, strict=True), _checked(header))
        seen = line.strip()[:100].encode(errors="replace").decode()
        raise Unreadable(
            f"expected a CSV header row that names {KEY_FIELD}, got {seen!r} (separators tried:"
            f" {' '.join(map(repr, delimiter or DELIMITERS))}; --delimiter names another)"
        )


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise Unreadable("its gzip data are cut short or damaged") from None
    except csv.Error as error:
        raise Unreadable(f"it is not CSV: {error}") from None


def _record(number: int, item: bytes) -> Record:
    """Return a record of JSON text; one that is not JSON, and would spoil its batch, as text."""
    try:
        msgspec.json.decode(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = msgspec.json.encode(item.decode(errors="replace"))
        return Record(number, text, None, f"the record is not JSON: {error}")
    return Record(number, item, key_of(item))


def _unwrapped(record: Record) -> Record:
    """Return the record within a line of a file of failed records; others as they are."""
    if b'"item"' not in record.item:
        return record
    try:
        failed = msgspec.json.decode(record.item, type=FailedRecord)
    except msgspec.ValidationError:
        return record
    return _record(record.number, bytes(failed.item))


_NAMES = Item.__struct_encode_fields__
_FIELDS = dict(zip((*Item.__struct_fields__, *_NAMES), _NAMES * 2, strict=True))
"""The fields by their names on the wire and by those of their columns, as COPY writes them."""

_INTEGERS = {KEY_FIELD, "case_Key"}


def _checked(header: list[str]) -> list[str]:
    """Return the fields that a CSV header names. Raises Unreadable."""
    for number, name in enumerate(header, 1):
        if not name:
            raise Unreadable(f"column {number} has no name")
        if name not in _FIELDS:
            close = get_close_matches(name, _NAMES, 1)
            hint = f"did you mean {close[0]}?" if close else "a record has no such field"
            raise Unreadable(f"column {name}: {hint}")
    fields = [_FIELDS[name] for name in header]
    for field in set(fields):
        if fields.count(field) > 1:
            raise Unreadable(f"more than one column is {field}")
    return fields


def _rows(rows: Iterator[list[str]], fields: list[str]) -> Iterator[Record]:
    """Yield the rows as records; an empty cell is a field that is not sent."""
    number = 0
    try:
        for row in filter(None, rows):
            number += 1
            # Omitted, not null: the same, save for dates, whose default null would refuse.
            values = {
                name: _whole(cell) if name in _INTEGERS else cell
                for name, cell in zip(fields, row, strict=False)
                if cell
            }
            refusal = "the row is not UTF-8"
            if len(row) != len(fields):
                refusal = f"the row has {len(row)} cells, the header has {len(fields)}"
            else:
                with suppress(UnicodeEncodeError):
                    item = msgspec.json.encode(values)
                    yield Record(number, item, key_of(item))
                    continue
            # As cells: with the fields that are left it would be a record, and erase the rest.
            cells = [cell.encode(errors="surrogateescape").decode(errors="replace") for cell in row]
            yield Record(number, msgspec.json.encode(cells), None, refusal)
    except csv.Error as error:
        raise Unreadable(f"after record {number} it is not CSV: {error}") from None


def _whole(text: str, otherwise: object = None) -> object:
    """Return a whole number as an integer, however it is written; else the text, or otherwise."""
    try:
        number = float(text)
    except ValueError:
        return text
    if number.is_integer() and abs(number) < 2**53 and "_" not in text:
        return int(number)
    return text if otherwise is None else otherwise


class _Checked(StrictItem):
    """An item but for the forms of its dates, which the service judges."""

    entry_date: Any = msgspec.field(name="entry_Date", default=None)
    update_date: Any = msgspec.field(name="update_Date", default=None)


_ANY = msgspec.json.Decoder(float_hook=lambda text: _whole(text, float(text)))


def fault_of(record: Record) -> str:
    """Return why a record would be refused, as far as it can be told without the service."""
    if not record.refusal:
        try:
            msgspec.convert(_ANY.decode(record.item), _Checked)
        except msgspec.ValidationError as error:
            return str(error)
    return record.refusal
