"""Reads the records of a JSON, NDJSON or CSV file, one at a time."""

import asyncio
import csv
import gzip
import os
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from io import BufferedReader
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from service.json_text import (
    SURROGATE,
    describe_syntax_error,
    describe_unstorable,
    find_syntax_error,
)
from service.messages import NESTED, describe_invalid
from service.wire import KEY_FIELD, Item, StrictItem

DELIMITERS = ",;\t|"
"""Delimiters that are tried with a CSV header."""

SAVE_IN_UTF8 = "save it in UTF-8 (Excel: CSV UTF-8)"

csv.field_size_limit(2**27)  # characters of a cell; csv's own limit is 128 kB


class Unreadable(ValueError):
    """The file, or a record that stops the command, cannot be read."""


class Refused(NamedTuple):
    """A record that must not be stored. It is sent as an array, which is not a valid item."""

    reason: str
    content: Any


def has_key_zero(record: Any) -> bool:
    """Return whether a record has key 0, so that the database assigns one."""
    return isinstance(record, dict) and record.get(KEY_FIELD) == 0


class Records:
    """Yields the decoded records of a file, plain or compressed by gzip.

    The first line shows whether it is a JSON array, NDJSON or CSV; ``columns`` are the erasable
    fields in a CSV header. Raises Unreadable with the name of the file. Unless it ``replaces``, so
    do records whose update would erase omitted fields: immediately in an array and for the first
    record of any file, otherwise in asynchronous iteration.
    """

    def __init__(
        self, source: "BufferedReader[Any]", delimiter: str = DELIMITERS, *, replaces: bool = False
    ) -> None:
        self.source = source
        self.columns: list[str] = []
        self._replaces = replaces
        self.path = Path(source.name)
        self._size = os.fstat(source.fileno()).st_size if source.seekable() else 0
        self._number = self._total = 0
        with self._readable():
            plain = gzip.GzipFile(fileobj=source) if source.peek(2)[:2] == b"\x1f\x8b" else source
            first = next(filter(bytes.strip, plain), b"").removeprefix(BOM_UTF8)
            lines = chain([first], plain)
            if b"\0" in first[:4]:
                raise Unreadable(f"it is in UTF-16; {SAVE_IN_UTF8}")
            # A brace alone begins a JSON text of many lines, which is told to be no array.
            if first.lstrip()[:1] == b"[" or first.strip() == b"{":
                items = _items(b"".join(lines))
                self._total = len(items)
                self._records: Iterator[Any] = map(_decode_record, items)
                ahead: Iterable[Any] = map(_decode_record, items)
            elif first.lstrip()[:1] in (b"{", b""):
                self._records = map(_decode_record, filter(bytes.strip, lines))
            else:
                fields, self._records = _read_csv(lines, delimiter)
                self.columns = [name for name in _ERASABLE if name in fields]
            if not self._total:
                ahead = list(islice(self._records, 1))
                self._records = chain(ahead, self._records)
        for number, record in enumerate(() if replaces else ahead, 1):
            self._require_whole(number, record)

    @property
    def share(self) -> float:
        """Fraction of the file that has been read, from 0 to 1; 0 if unknown."""
        if self._total:
            return self._number / self._total
        return self.source.tell() / self._size if self._size else 0

    def __iter__(self) -> Iterator[Any]:
        with self._readable():
            for record in self._records:
                self._number += 1
                yield record

    async def __aiter__(self) -> AsyncIterator[Any]:
        # In a thread, because reading standard input can block.
        while chunk := await asyncio.to_thread(lambda: list(islice(self, 1000))):
            for number, record in enumerate(chunk, self._number - len(chunk) + 1):
                self._require_whole(number, record)
                yield record

    def find_omission(self, record: Any) -> str:
        """Return a message about omitted fields that an update would erase; empty if none."""
        key = record.get(KEY_FIELD) if isinstance(record, dict) else None
        if type(key) is not int or key == 0:  # rejected by the service, or created
            return ""
        missing = [name for name in _ERASABLE if name not in record and name not in self.columns]
        found = f"it lacks {', '.join(missing)}, which would become null in an update; add them, or"
        return f"{found} send this file with --replace" if missing else ""

    def _require_whole(self, number: int, record: Any) -> None:
        if not self._replaces and (omission := self.find_omission(record)):
            raise Unreadable(f"{self.path}: record {number}: {omission}")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (csv.Error, ValueError, RecursionError, EOFError, zlib.error, OSError) as error:
            place = f"after record {self._number}: " if self._number else ""
            is_encoding = isinstance(error, UnicodeDecodeError)
            reason = f"it is not in UTF-8; {SAVE_IN_UTF8}" if is_encoding else error
            raise Unreadable(f"{self.path}: {place}{reason}") from None


def _items(text: bytes) -> list[Raw]:
    """Return the items of a JSON array. Raises Unreadable."""
    try:
        return msgspec.json.decode(text, type=list[Raw])
    except msgspec.ValidationError:
        raise Unreadable("expected a JSON array of records, got an object") from None
    except msgspec.DecodeError:
        found = find_syntax_error(text)
        raise Unreadable(describe_syntax_error(*found) if found else f"it {SURROGATE}") from None


def _decode_record(text: Any) -> Any:
    """Return the record in a JSON text, or in a line of FILE.failed.ndjson."""
    try:
        record = _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        # From _parse_number: the JSON itself cannot be invalid, since any value is allowed.
        is_number = isinstance(error, msgspec.ValidationError)
        reason = "number out of range" if is_number else _describe_unreadable(bytes(text))
        return Refused(reason, bytes(text).decode(errors="replace").strip())
    if isinstance(record, dict) and record.keys() == {"record", "status", "reason", "item"}:
        return record["item"]
    return record


def _describe_unreadable(text: bytes) -> str:
    """Return why a JSON text has no record."""
    try:
        found = find_syntax_error(text)
    except RecursionError:
        return NESTED
    return describe_syntax_error(*found) if found else describe_unstorable(text, _NAMES)


def _parse_number(text: str) -> float:
    """Return a number; as an integer if its value is whole, however it is written."""
    number = float(text)
    if not isfinite(number) or "_" in text:
        raise ValueError("number out of range")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


_JSON = msgspec.json.Decoder(float_hook=_parse_number)

_NAMES = Item.__struct_encode_fields__
_FIELDS = dict(zip((*Item.__struct_fields__, *_NAMES), _NAMES * 2, strict=True))
"""Field names by field name and by column name, which COPY writes."""

_ERASABLE = [n for n in _NAMES if n != KEY_FIELD and not n.startswith(("entry_", "update_"))]
"""Fields that become null in an update with a record that lacks them."""


def _read_csv(lines: Iterable[bytes], delimiter: str) -> tuple[list[str], Iterator[Any]]:
    """Return the fields in the header, and an iterator of the rows."""
    texts = (line.decode() for line in lines)
    first = next(texts)
    for tried in delimiter:
        header = next(csv.reader([first], delimiter=tried), [])
        fields = [_FIELDS.get(name, "") for name in header]
        if KEY_FIELD in fields:
            break
    else:
        seen = first.strip()[:100]
        raise Unreadable(
            f"expected JSON, or a CSV header row that names {KEY_FIELD}, got {seen!r} (separators"
            f" tried: {' '.join(map(repr, delimiter))}; --delimiter names another)"
        )
    for number, (name, field) in enumerate(zip(header, fields, strict=True), 1):
        if not name:
            raise Unreadable(f"column {number} has no name (pandas: use index=False)")
        if not field:
            close = get_close_matches(name, _NAMES, 1)
            hint = f"did you mean {close[0]}?" if close else "records have no such field"
            raise Unreadable(f"column {name}: {hint}")
        if fields.count(field) > 1:
            raise Unreadable(f"more than one column is {field}")
    rows = csv.reader(texts, delimiter=tried, strict=True)
    return fields, (_convert_row(row, fields) for row in rows if row)


_INTEGER = re.compile(r"\s*[+-]?[0-9]+(\.0|[eE]\+?[0-9]+)?\s*")
"""An integer in a cell. pandas writes 5.0, and R 1e+05."""

_SEPARATED = re.compile(r"\s*([+-]?[0-9]{1,10})[.,]([0-9]{1,10})\s*")
"""Digits that are thousands in one country and a fraction in another."""


def _convert_row(cells: list[str], fields: list[str]) -> Any:
    """Return a CSV row as a record without the fields of empty cells."""
    if len(cells) != len(fields):
        # As an array: a record with the remaining fields would erase the others.
        return Refused(f"the row has {len(cells)} cells, the header has {len(fields)}", cells)
    # Omitted and not null, which is invalid for dates; for other fields it is the same.
    record: dict[str, Any] = {name: cell for name, cell in zip(fields, cells, strict=True) if cell}
    reasons = []
    for name in (KEY_FIELD, "case_Key"):
        cell = record.get(name, "")
        if _INTEGER.fullmatch(cell):
            with suppress(ValueError):
                record[name] = _parse_number(cell)
        elif found := _SEPARATED.fullmatch(cell):
            meanings = f"{_parse_number('.'.join(found.groups()))} or {''.join(found.groups())}"
            reasons.append(f'{name}: must be an integer; "{cell}" could mean {meanings}')
    return Refused("; ".join(reasons), record) if reasons else record


class _Checked(StrictItem):
    """An item but for the forms of its dates, which the service judges."""

    entry_date: Any = msgspec.field(name="entry_Date", default=None)
    update_date: Any = msgspec.field(name="update_Date", default=None)


def find_fault(record: Any) -> str:
    """Return why a record would be refused, as far as it can be told without the service."""
    if isinstance(record, Refused):
        return record.reason
    try:
        msgspec.convert(record, _Checked)
    except msgspec.ValidationError as error:
        return describe_invalid(str(error))
    return ""
