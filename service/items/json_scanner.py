"""Where the values of a body end, found one by one and without decoding them.

msgspec skips a value about ten times as fast as ``re`` can. It reports where a value ends by what
it complains of: the characters after it.
"""

import re
from collections.abc import Generator
from typing import NamedTuple

from service.json_text import (
    END,
    TRAILING_CHARACTERS,
    TRUNCATED,
    describe_syntax_error,
    find_first_value,
    find_syntax_error,
    masked,
)

MIN_BYTES = 16 * 1024
"""How much is looked at in one step at least."""

SPACE_BYTES = 512 * 1024
"""White space that is passed over in one step."""


class MalformedBody(Exception):
    """The body is not a JSON array in UTF-8; the message says why (400)."""


class NestedTooDeeply(MalformedBody):
    """The body is nested more deeply than msgspec follows."""

    def __init__(self) -> None:
        super().__init__("The body is nested too deeply; items must be flat objects.")


class ItemTooLarge(Exception):
    """An item is larger than ``max_item_bytes``; the message contains its index (413)."""


class Cut(NamedTuple):
    """The end of a chunk, the start of what follows its comma if anything does, its items."""

    end: int
    following: int | None
    items: int


_WHITE = b" \t\r\n"
_SPACE = re.compile(rb"[ \t\r\n]*+")
_NO_SEPARATOR = "expected ',' or ']'"
_LONGEST_TOKEN = 12
"""Bytes of an escaped surrogate pair, the longest that is malformed when it is cut."""


def malformed(reason: str, offset: int, item: int | None = None) -> MalformedBody:
    """Return what to raise for a body that is not JSON from this byte on, in or after an item."""
    return MalformedBody(f"The body is {describe_syntax_error(reason, offset, item)}.")


def too_large(place: int, max_item_bytes: int) -> ItemTooLarge:
    """Return what to raise for the item at this place."""
    return ItemTooLarge(
        f"Item {place} (counting from 0) exceeds {max_item_bytes} bytes; no items were applied."
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
        raise malformed(TRAILING_CHARACTERS, end)


def scan_cut(
    body: bytes | bytearray,
    start: int,
    size: int,
    place: int,
    max_item_bytes: int,
    chunk_items: int,
) -> Generator[None, None, Cut]:
    """Return the cut behind the complete items among so many bytes, or behind the first item.

    Raises MalformedBody and ItemTooLarge.
    """
    size = max(size, MIN_BYTES)
    while True:
        segment = masked(bytes(body[start : start + size]))
        view = memoryview(segment)
        end = position = count = 0
        while count < chunk_items:
            try:
                reason, behind = find_first_value(view[position:])
            except RecursionError:
                raise NestedTooDeeply from None
            if reason != TRAILING_CHARACTERS:
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
                raise malformed(_NO_SEPARATOR, start + behind, place + count - 1)
            end, position = behind, behind + 1
        if count:
            return Cut(start + end, start + position, count)
        if start + size >= len(body):
            raise _malformed_item(segment, start, place)
        if size > max_item_bytes:
            break
        size = min(2 * size, max_item_bytes + 1)
        yield
    if not reason and len(segment.rstrip(_WHITE)) <= max_item_bytes:
        return (yield from _skip_long_whitespace(body, start + size, place))
    if not reason or reason == TRUNCATED or behind > size - _LONGEST_TOKEN:
        raise too_large(place, max_item_bytes)
    raise _malformed_item(segment, start, place)


def _skip_long_whitespace(
    body: bytes | bytearray, start: int, place: int
) -> Generator[None, None, Cut]:
    """Return the cut behind an item that much white space follows."""
    end = yield from skip_whitespace(body, start)
    if body[end : end + 1] == b",":
        return Cut(end, end + 1, 1)
    if body[end : end + 1] != b"]":
        raise malformed(_NO_SEPARATOR if end < len(body) else END, end, place)
    yield from expect_end(body, end + 1)
    return Cut(end, None, 1)


def _malformed_item(segment: bytes, start: int, place: int) -> MalformedBody:
    """Return what to raise for an item at ``start`` that is not JSON or is cut short."""
    reason, offset = find_error(segment) or (END, len(segment))
    return malformed(reason, start + offset, place)


def find_error(json: bytes) -> tuple[str, int] | None:
    """Return what find_syntax_error() does. Raises NestedTooDeeply."""
    try:
        return find_syntax_error(json)
    except RecursionError:
        raise NestedTooDeeply from None
