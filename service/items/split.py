"""Bytes to chunks: where a body may be cut between its items.

A body is cut without decoding it, and no step looks at more than a bounded number of bytes. A cut
is first guessed, and right exactly when what lies before it is a complete JSON array. Where the
guess is wrong, such as inside a text, the items are walked through one by one. Both leave it to
msgspec to say what is JSON; it skips a value about ten times as fast as ``re`` can.
"""

import codecs
import re
from collections.abc import Generator, Iterator
from typing import NamedTuple

import msgspec
from msgspec import Raw

from service.items.texts import masked

PROBE_BYTES = 16 * 1024
"""How much of the body tells the size of its items."""

CHUNK_BYTES = 512 * 1024
"""What a chunk has at most, but for its last item."""

CHUNK_ITEMS = 500
"""What a chunk aims at, by the mean size of the items before it; twice as many at most."""

SPACE_BYTES = 512 * 1024
"""White space that is passed over in one step."""


NESTED = 8
"""Generators around the one that cuts. Python 3.11 counts calls and the nesting of JSON together;
so what could be cut from behind them can always be decoded."""


class MalformedBody(Exception):
    """The body is not a JSON array in UTF-8; the message says why (400)."""


class TooManyItems(Exception):
    """The array holds more items than ``max_batch_items`` (413)."""


class ItemTooLarge(Exception):
    """An item is larger than ``max_item_bytes``; the message tells its place (413)."""


class Chunk(NamedTuple):
    """Where consecutive items stand in the body: body[start:end], without the brackets."""

    start: int
    end: int


class _Cut(NamedTuple):
    """The end of a chunk, the start of what follows its comma if anything does, its items."""

    end: int
    following: int | None
    items: int


RAW_ITEMS = msgspec.json.Decoder(list[Raw])
_VALUE = msgspec.json.Decoder(Raw)
_WHITE = b" \t\r\n"
_SPACE = re.compile(rb"[ \t\r\n]*+")
_END_OF = {
    first: re.compile(last + rb"[ \t\r\n]*+,")
    for first, last in ((ord("{"), rb"\}"), (ord("["), rb"\]"), (ord('"'), rb'"'))
}
_END_OF_OTHERS = re.compile(rb"[0-9el][ \t\r\n]*+,")
_TRUNCATED = "Input data was truncated"
_MALFORMED = "JSON is malformed: "
_BEHIND_VALUE = "trailing characters"
_LONGEST_TOKEN = 12
"""Bytes of an escaped surrogate pair, the longest that is malformed when it is cut."""


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
        chunks = _passed_on(chunks)
    return chunks


def _passed_on(chunks: Iterator[Chunk | None]) -> Iterator[Chunk | None]:
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
        start = yield from _behind_space(body, start)
        if body[start : start + 1] == b"]":
            if items:
                raise _malformed("trailing comma in the array")
            yield from _expect_end(body, start + 1)
            return
        cut = _guessed(body, start, target, items, max_item_bytes)
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
            cut = yield from _walked(body, start, target, items, max_item_bytes, chunk_items)
        items += cut.items
        if items > max_items:
            raise TooManyItems(f"The batch has more than {max_items} items; send it in parts.")
        yield Chunk(start, cut.end)
        if cut.following is None:
            return
        target, is_probe = _chunk_bytes(cut.end - start, cut.items, chunk_items), False
        start = cut.following


def _chunk_bytes(size: int, items: int, chunk_items: int) -> int:
    """Return where in the last item of a chunk to look for its end, by the mean of these items."""
    return min(CHUNK_BYTES, max(1, (2 * chunk_items - 1) * size // max(1, 2 * items)))


def _malformed(reason: str) -> MalformedBody:
    return MalformedBody(f"The body is not valid JSON: {reason}.")


_NESTED_TOO_DEEP = "The body is nested too deep; items are flat objects."


def _too_large(place: int, max_item_bytes: int) -> ItemTooLarge:
    return ItemTooLarge(
        f"Item {place}, counted from 0, is larger than {max_item_bytes} bytes; no item was applied."
    )


def _behind_space(body: bytes | bytearray, start: int) -> Generator[None, None, int]:
    """Return where something else than white space stands."""
    while True:
        match = _SPACE.match(body, start, start + SPACE_BYTES)
        assert match is not None
        if match.end() < start + SPACE_BYTES:
            return match.end()
        start = match.end()
        yield


def _expect_end(body: bytes | bytearray, start: int) -> Generator[None, None, None]:
    end = yield from _behind_space(body, start)
    if end != len(body):
        raise _malformed(_BEHIND_VALUE)


def _array_start(body: bytes | bytearray) -> Generator[None, None, int]:
    start = len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0
    start = yield from _behind_space(body, start)
    first = body[start : start + 1]
    if first == b"[":
        return start + 1
    if not first:
        raise MalformedBody("The body is empty; expected a JSON array of objects.")
    got = {b"{": ", got an object", b'"': ", got a string"}.get(bytes(first), "")
    raise MalformedBody(f"Expected the body to be a JSON array of objects in UTF-8{got}.")


def _guessed(
    body: bytes | bytearray, start: int, target: int, place: int, max_item_bytes: int
) -> _Cut | None:
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
        raise MalformedBody(_NESTED_TOO_DEEP) from None
    if end - start > max_item_bytes:
        for number, raw in enumerate(raw_items):
            if memoryview(raw).nbytes > max_item_bytes:
                raise _too_large(place + number, max_item_bytes)
    return _Cut(end if following else body.rindex(b"]"), following, len(raw_items))


def _walked(
    body: bytes | bytearray,
    start: int,
    size: int,
    place: int,
    max_item_bytes: int,
    chunk_items: int,
) -> Generator[None, None, _Cut]:
    """Return the cut behind the complete items among so many bytes, or behind the first item.

    msgspec tells where a value ends by what it complains of: the characters behind it.
    """
    size = max(size, PROBE_BYTES)
    while True:
        segment = masked(bytes(body[start : start + size]))
        view = memoryview(segment)
        end = position = count = 0
        while count < chunk_items:
            reason, behind = _first_value(view[position:])
            if reason != _BEHIND_VALUE:
                break
            behind += position
            is_large = behind - position > max_item_bytes
            if is_large and len(segment[position:behind].strip(_WHITE)) > max_item_bytes:
                raise _too_large(place + count, max_item_bytes)
            count += 1
            if segment[behind] == ord("]"):
                yield from _expect_end(body, start + behind + 1)
                return _Cut(start + behind, None, count)
            if segment[behind] != ord(","):
                raise _malformed("expected ',' or ']'")
            end, position = behind, behind + 1
        if count:
            return _Cut(start + end, start + position, count)
        if start + size >= len(body):
            raise _malformed(reason or _TRUNCATED)
        if size > max_item_bytes:
            break
        size = min(2 * size, max_item_bytes + 1)
        yield
    if not reason and len(segment.rstrip(_WHITE)) <= max_item_bytes:
        return (yield from _behind_long_space(body, start + size))
    if not reason or reason == _TRUNCATED or behind > size - _LONGEST_TOKEN:
        raise _too_large(place, max_item_bytes)
    raise _malformed(reason)


def _behind_long_space(body: bytes | bytearray, start: int) -> Generator[None, None, _Cut]:
    """Return the cut behind an item that much white space follows."""
    end = yield from _behind_space(body, start)
    if body[end : end + 1] == b",":
        return _Cut(end, end + 1, 1)
    if body[end : end + 1] != b"]":
        raise _malformed("expected ',' or ']'" if end < len(body) else _TRUNCATED)
    yield from _expect_end(body, end + 1)
    return _Cut(end, None, 1)


def _first_value(json: memoryview) -> tuple[str, int]:
    """Return msgspec's complaint about what should be one value, and the place that it names.

    The complaint is empty where there is none.
    """
    try:
        _VALUE.decode(json)
    except msgspec.DecodeError as error:
        # "JSON is malformed: trailing characters (byte 17)"; nothing but truncation has no place.
        reason, _, place = str(error).removeprefix(_MALFORMED).partition(" (byte ")
        # Of what is behind a value msgspec counts from 1.
        return reason, int(place[:-1] or 0) - (reason == _BEHIND_VALUE)
    except RecursionError:
        raise MalformedBody(_NESTED_TOO_DEEP) from None
    return "", 0
