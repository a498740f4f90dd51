"""Where the values of a body end, found one by one and without decoding them.

It is left to msgspec to say what is JSON; it skips a value about ten times as fast as ``re`` can.
"""

import re
from collections.abc import Generator
from typing import NamedTuple

import msgspec
from msgspec import Raw

from service.items.texts import masked

MIN_BYTES = 16 * 1024
"""How much is looked at in one step at least."""

SPACE_BYTES = 512 * 1024
"""White space that is passed over in one step."""


class MalformedBody(Exception):
    """The body is not a JSON array in UTF-8; the message says why (400)."""


class ItemTooLarge(Exception):
    """An item is larger than ``max_item_bytes``; the message tells its place (413)."""


class Cut(NamedTuple):
    """The end of a chunk, the start of what follows its comma if anything does, its items."""

    end: int
    following: int | None
    items: int


_VALUE = msgspec.json.Decoder(Raw)
_WHITE = b" \t\r\n"
_SPACE = re.compile(rb"[ \t\r\n]*+")
NESTED_TOO_DEEP = "The body is nested too deep; items are flat objects."
_TRUNCATED = "Input data was truncated"
_MALFORMED = "JSON is malformed: "
_BEHIND_VALUE = "trailing characters"
_LONGEST_TOKEN = 12
"""Bytes of an escaped surrogate pair, the longest that is malformed when it is cut."""


def malformed(reason: str) -> MalformedBody:
    """Return what to raise for a body that is not JSON."""
    return MalformedBody(f"The body is not valid JSON: {reason}.")


def too_large(place: int, max_item_bytes: int) -> ItemTooLarge:
    """Return what to raise for the item at this place."""
    return ItemTooLarge(
        f"Item {place}, counted from 0, is larger than {max_item_bytes} bytes; no item was applied."
    )


def skip_whitespace(body: bytes | bytearray, start: int) -> Generator[None, None, int]:
    """Return where something else than white space stands."""
    while True:
        match = _SPACE.match(body, start, start + SPACE_BYTES)
        assert match is not None
        if match.end() < start + SPACE_BYTES:
            return match.end()
        start = match.end()
        yield


def expect_end(body: bytes | bytearray, start: int) -> Generator[None, None, None]:
    """Raise MalformedBody where something else than white space follows the array."""
    end = yield from skip_whitespace(body, start)
    if end != len(body):
        raise malformed(_BEHIND_VALUE)


def scan_cut(
    body: bytes | bytearray,
    start: int,
    size: int,
    place: int,
    max_item_bytes: int,
    chunk_items: int,
) -> Generator[None, None, Cut]:
    """Return the cut behind the complete items among so many bytes, or behind the first item.

    msgspec tells where a value ends by what it complains of: the characters behind it. Raises
    MalformedBody and ItemTooLarge.
    """
    size = max(size, MIN_BYTES)
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
                raise too_large(place + count, max_item_bytes)
            count += 1
            if segment[behind] == ord("]"):
                yield from expect_end(body, start + behind + 1)
                return Cut(start + behind, None, count)
            if segment[behind] != ord(","):
                raise malformed("expected ',' or ']'")
            end, position = behind, behind + 1
        if count:
            return Cut(start + end, start + position, count)
        if start + size >= len(body):
            raise malformed(reason or _TRUNCATED)
        if size > max_item_bytes:
            break
        size = min(2 * size, max_item_bytes + 1)
        yield
    if not reason and len(segment.rstrip(_WHITE)) <= max_item_bytes:
        return (yield from _skip_long_whitespace(body, start + size))
    if not reason or reason == _TRUNCATED or behind > size - _LONGEST_TOKEN:
        raise too_large(place, max_item_bytes)
    raise malformed(reason)


def _skip_long_whitespace(body: bytes | bytearray, start: int) -> Generator[None, None, Cut]:
    """Return the cut behind an item that much white space follows."""
    end = yield from skip_whitespace(body, start)
    if body[end : end + 1] == b",":
        return Cut(end, end + 1, 1)
    if body[end : end + 1] != b"]":
        raise malformed("expected ',' or ']'" if end < len(body) else _TRUNCATED)
    yield from expect_end(body, end + 1)
    return Cut(end, None, 1)


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
        raise MalformedBody(NESTED_TOO_DEEP) from None
    return "", 0
