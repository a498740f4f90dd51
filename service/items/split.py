"""Bytes to chunks: where a body may be cut between its items.

A body is cut without decoding it at once, so that the event loop is never held for long: a cut
is right exactly when what lies before it is a complete JSON array, and that is what
:func:`split_batch` tries.
"""

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from msgspec import Raw

from service.items.texts import mask_unstorable

PROBE_BYTES = 16 * 1024
"""How much of the body tells the size of its items."""

CHUNK_BYTES = 512 * 1024
"""At most, unless a single item is larger."""

CHUNK_ITEMS = 500
"""What a chunk aims at, by the mean size of the items before it."""


class MalformedBody(Exception):
    """The body is not a JSON array in UTF-8; the message says why (400)."""


class TooManyItems(Exception):
    """The array holds more items than ``max_batch_items`` (413)."""


class Chunk(NamedTuple):
    """Where consecutive items stand in the body: body[start:end], without the brackets."""

    start: int
    end: int


_ITEM_END = re.compile(rb"\}[ \t\r\n]*,")
RAW_ITEMS = msgspec.json.Decoder(list[Raw])


def split_batch(
    body: bytes | bytearray,
    max_items: int,
    *,
    probe_bytes: int = PROBE_BYTES,
    chunk_items: int = CHUNK_ITEMS,
) -> Iterator[Chunk]:
    """Yield the chunks of a batch; every one is valid JSON once the iterator has ended.

    Raises MalformedBody (a body that is not an array, is cut short, or is nested deeper than
    msgspec follows) and TooManyItems. The work between two yields is bounded by
    the size of a chunk, as long as the body is well-formed.
    """
    start = first = _array_start(body)
    end, _, count = _next_cut(body, start, probe_bytes)
    target, items = _chunk_bytes(end - start, count, chunk_items), 0
    while True:
        end, following, count = _next_cut(body, start, target)
        if count == 0 and start != first:
            raise MalformedBody("The body is not valid JSON: trailing comma in the array.")
        items += count
        if items > max_items:
            raise TooManyItems(f"The batch has more than {max_items} items; send it in parts.")
        if count:
            yield Chunk(start, end)
            target = _chunk_bytes(end - start, count, chunk_items)
        if following == len(body):
            return
        start = following


def _chunk_bytes(size: int, items: int, chunk_items: int) -> int:
    """Return where in the last item of a chunk to look for its end, by the mean of these items."""
    return min(CHUNK_BYTES, max(1, (2 * chunk_items - 1) * size // max(1, 2 * items)))


def _array_start(body: bytes | bytearray) -> int:
    start = len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0
    while start < len(body) and body[start] in b" \t\r\n":
        start += 1
    if start == len(body):
        raise MalformedBody("The body is empty; expected a JSON array of objects.")
    if body[start] != ord("["):
        try:
            got = type(msgspec.json.decode(body[start:])).__name__
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MalformedBody(
                "The body is not valid JSON in UTF-8; expected a JSON array of objects."
            ) from None
        got = {"dict": "an object", "str": "a string", "NoneType": "null"}.get(got, f"a {got}")
        raise MalformedBody(f"Expected a JSON array of objects, got {got}.")
    return start + 1


def _next_cut(body: bytes | bytearray, start: int, target: int) -> tuple[int, int, int]:
    """Return the end of a chunk, the start of what follows, and the number of items."""
    while True:
        candidate = _ITEM_END.search(body, start + target)
        if candidate is None:
            return _last_cut(body, start)
        end = candidate.start() + 1
        try:
            return end, candidate.end(), _count(b"[" + body[start:end] + b"]")
        except msgspec.DecodeError:
            # Inside a text or a nested value, or the body is malformed: look further, in
            # steps that grow so that a hostile body costs no more than twice its size.
            target *= 2


def _last_cut(body: bytes | bytearray, start: int) -> tuple[int, int, int]:
    try:
        count = _count(b"[" + body[start:])
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ").split(" (byte ")[0]
        raise MalformedBody(f"The body is not valid JSON: {reason}.") from None
    return body.rindex(b"]"), len(body), count


def _count(array: bytes | bytearray) -> int:
    try:
        try:
            return len(RAW_ITEMS.decode(array))
        except msgspec.DecodeError:
            masked = mask_unstorable(array)
            if masked == array:
                raise
            return len(RAW_ITEMS.decode(masked))
    except RecursionError:
        raise MalformedBody("The body is nested too deep; items are flat objects.") from None
