"""Bytes to chunks: where a body may be cut between its items.

A body is cut without decoding it, and no step looks at more than a bounded number of bytes. A cut
is first guessed, and right exactly when what lies before it is a complete JSON array. Where the
guess is wrong, such as inside a text, the items are walked through one by one.
"""

import codecs
import re
from collections.abc import Generator, Iterator
from typing import NamedTuple

import msgspec
from msgspec import Raw

from service.items.json_scanner import (
    Cut,
    MalformedBody,
    NestedTooDeeply,
    expect_end,
    find_error,
    malformed,
    scan_cut,
    skip_whitespace,
    too_large,
)
from service.json_text import KINDS

PROBE_BYTES = 16 * 1024
"""Bytes of the body from which the size of its items is estimated."""

CHUNK_BYTES = 512 * 1024
"""What a chunk has at most, but for its last item."""

CHUNK_ITEMS = 500
"""What a chunk aims at; twice as many at most."""

SEPARATOR_BYTES = 16
"""What may stand between two items where a chunk is cut behind so many of them."""

NESTED = 8
"""Generators around the one that cuts. Python 3.11 counts calls and the nesting of JSON together;
so what could be cut from behind them can always be decoded."""


class TooManyItems(Exception):
    """The array holds more items than ``max_batch_items`` (413)."""


class Chunk(NamedTuple):
    """Where consecutive items stand in the body: body[start:end], without the brackets."""

    start: int
    end: int


_EXPECTED = "Expected a JSON array of objects in UTF-8."

RAW_ITEMS = msgspec.json.Decoder(list[Raw])
_END_OF = {
    first: re.compile(last + rb"[ \t\r\n]*+,")
    for first, last in ((ord("{"), rb"\}"), (ord("["), rb"\]"), (ord('"'), rb'"'))
}
_END_OF_OTHERS = re.compile(rb"[0-9el][ \t\r\n]*+,")
_SEPARATOR = re.compile(rb"[ \t\r\n]*+,[ \t\r\n]*+")


def split_batch(
    body: bytes | bytearray,
    max_items: int,
    max_item_bytes: int,
    *,
    probe_bytes: int = PROBE_BYTES,
    chunk_items: int = CHUNK_ITEMS,
) -> Iterator[Chunk | None]:
    """Yield the chunks of a batch; every one is valid JSON once the iterator has ended.

    Yields None where it has only worked, so that others get a turn. The work between two
    yields is bounded by the size of a chunk and of an item.

    Raises MalformedBody (a body that is not an array, is cut short, or is nested deeper than
    msgspec follows), TooManyItems and ItemTooLarge.
    """
    chunks = _chunks(body, max_items, max_item_bytes, probe_bytes, chunk_items)
    for _ in range(NESTED):
        chunks = _nested(chunks)
    return chunks


def _nested(chunks: Iterator[Chunk | None]) -> Iterator[Chunk | None]:
    yield from chunks


def _chunks(
    body: bytes | bytearray,
    max_items: int,
    max_item_bytes: int,
    probe_bytes: int,
    chunk_items: int,
) -> Iterator[Chunk | None]:
    start, items = (yield from _array_start(body)), 0
    target, is_probe = probe_bytes, True
    while True:
        start = yield from skip_whitespace(body, start)
        if body[start : start + 1] == b"]":
            if items:
                raise malformed("trailing comma in array", start, items - 1)
            yield from expect_end(body, start + 1)
            return
        cut = _guess_cut(body, start, target, items, max_item_bytes, chunk_items)
        if cut is not None:
            wanted = _chunk_bytes(cut.end - start, cut.items, chunk_items)
            is_too_much = cut.items > 2 * chunk_items
            # A guess that is repeated looks at half as much at most, or the sum were not bounded.
            if is_too_much and wanted > target // 2:
                cut = None
            elif is_too_much or (is_probe and cut.following is not None):
                target, is_probe = wanted, False
                continue
        if cut is None:
            cut = yield from scan_cut(body, start, target, items, max_item_bytes, chunk_items)
        items += cut.items
        if items > max_items:
            raise TooManyItems(f"The batch has more than {max_items} items; split it.")
        yield Chunk(start, cut.end)
        if cut.following is None:
            return
        target, is_probe = _chunk_bytes(cut.end - start, cut.items, chunk_items), False
        start = cut.following


def _chunk_bytes(size: int, items: int, chunk_items: int) -> int:
    """Return where to look for the end of a chunk, by the mean of these items.

    In the last item of some more than it aims at, which are left to the next.
    """
    aim = chunk_items + chunk_items // 16
    return min(CHUNK_BYTES, max(1, (2 * aim - 1) * size // max(1, 2 * items)))


def _array_start(body: bytes | bytearray) -> Generator[None, None, int]:
    start = len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0
    start = yield from skip_whitespace(body, start)
    first = body[start : start + 1]
    if first == b"[":
        return start + 1
    if not first:
        raise MalformedBody(f"The body is empty. {_EXPECTED}")
    beginning = bytes(body[start : start + PROBE_BYTES])
    reason, offset = find_error(beginning) or ("", 0)
    if reason and offset < PROBE_BYTES:
        raise MalformedBody(f"{malformed(reason, start + offset)} {_EXPECTED}")
    raise MalformedBody(f"{_EXPECTED[:-1]}, got {KINDS[first[0]]}.")


def _guess_cut(
    body: bytes | bytearray,
    start: int,
    target: int,
    place: int,
    max_item_bytes: int,
    chunk_items: int,
) -> Cut | None:
    """Return the cut at what looks like the end of an item; None where it is not one."""
    rest = len(body) - start
    candidate, reach = None, 2 * target + PROBE_BYTES
    if rest > target:
        end_of_item = _END_OF.get(body[start], _END_OF_OTHERS)
        candidate = end_of_item.search(body, start + target, start + reach)
        if candidate is None and rest > reach:
            return None
    try:
        if candidate is None:
            end, following = len(body), None
            raw_items = RAW_ITEMS.decode(b"[" + body[start:])
        else:
            end, following = candidate.start() + 1, candidate.end()
            raw_items = RAW_ITEMS.decode(b"[" + body[start:end] + b"]")
    except msgspec.DecodeError:
        return None
    except RecursionError:
        raise NestedTooDeeply from None
    if end - start > max_item_bytes:
        for number, raw in enumerate(raw_items):
            if memoryview(raw).nbytes > max_item_bytes:
                raise too_large(place + number, max_item_bytes)
    if following is None:
        return Cut(body.rindex(b"]"), None, len(raw_items))
    if chunk_items < len(raw_items) <= 2 * chunk_items:
        separator = _SEPARATOR.match(body, end, end + SEPARATOR_BYTES)
        if separator is not None:
            beyond = separator[0].join([b"", *raw_items[chunk_items:]])
            # Unless they stand behind different separators.
            if body.endswith(beyond, start, end):
                end -= len(beyond)
                return Cut(end, end + len(separator[0]), chunk_items)
    return Cut(end, following, len(raw_items))
