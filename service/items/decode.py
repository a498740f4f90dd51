"""Chunks to items, or to the outcomes of invalid items."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import ValidationError, field

from service import messages
from service.items.dates import parse_date_time, parse_date_times
from service.items.split import RAW_ITEMS, Chunk
from service.json_text import KINDS, describe_unstorable, masked
from service.wire import (
    INT32,
    KEY_FIELD,
    PREFER_HEADER,
    Int32,
    Item,
    KeyOnlyItem,
    Outcome,
    StrictItem,
    shorten_message,
)


class DecodedChunk(NamedTuple):
    """The valid items in order, and the outcomes of the others by their place in the chunk."""

    items: list[Item]
    refusals: dict[int, Outcome]

    @property
    def places(self) -> Sequence[int]:
        """The places of the valid items in the chunk."""
        return self.places_from(0)

    def places_from(self, first: int) -> Sequence[int]:
        """Return their places in the request, in which the chunk begins at ``first``."""
        count = len(self.items) + len(self.refusals)
        if not self.refusals:
            return range(first, first + count)
        return [first + place for place in range(count) if place not in self.refusals]

    @property
    def named_keys(self) -> list[int]:
        """The keys that the items name, valid or not."""
        keys = [item.care_case_clinical_trial_key for item in self.items]
        keys += [outcome.key or 0 for outcome in self.refusals.values()]
        return list(filter(None, keys))

    @property
    def key_zero(self) -> set[int]:
        """The places of the valid items of key 0."""
        return {
            place
            for place, item in zip(self.places, self.items, strict=True)
            if item.care_case_clinical_trial_key == 0
        }

    def all_dated(self) -> "DecodedChunk":
        """Return the chunk with the items refused that do not say when they were updated."""
        if all(item.update_date is not None for item in self.items):
            return self
        undated = {
            place: Outcome(item.care_case_clinical_trial_key, 400, _UNDATED)
            for place, item in zip(self.places, self.items, strict=True)
            if item.update_date is None
        }
        items = [item for item in self.items if item.update_date is not None]
        return DecodedChunk(items, self.refusals | undated)

    def in_order(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Return the items' outcomes with those of the refused items in their places."""
        if not self.refusals:
            return outcomes
        accepted = iter(outcomes)
        return [
            self.refusals.get(position) or next(accepted)
            for position in range(len(outcomes) + len(self.refusals))
        ]


class _LenientItem(Item, gc=False):
    """An item whose dates and integers are still as they were written."""

    care_case_clinical_trial_key: Int32 | float = field(name=KEY_FIELD)  # type: ignore[assignment]
    case_key: Int32 | float | None = field(name="case_Key", default=None)  # type: ignore[assignment]
    entry_date: str = field(name="entry_Date", default=None)  # type: ignore[assignment]
    update_date: str = field(name="update_Date", default=None)  # type: ignore[assignment]


class _StrictLenientItem(_LenientItem, gc=False, forbid_unknown_fields=True):
    pass


class BatchDecoder:
    """Decodes the items of chunks; one for each way of treating unknown fields.

    Tries the cheapest way first: the whole chunk by msgspec alone, then the whole chunk
    with the dates and integers that msgspec does not know, then item by item.
    """

    def __init__(self, *, ignore_unknown_fields: bool) -> None:
        item = Item if ignore_unknown_fields else StrictItem
        lenient = _LenientItem if ignore_unknown_fields else _StrictLenientItem
        self._chunk = msgspec.json.Decoder(list[item])  # type: ignore[valid-type]
        self._lenient_chunk = msgspec.json.Decoder(list[lenient])  # type: ignore[valid-type]
        self._item = msgspec.json.Decoder(item)
        self._lenient_item = msgspec.json.Decoder(lenient)

    def decode(self, body: bytes | bytearray, chunk: Chunk) -> DecodedChunk:
        """Return the chunk's valid items, and the outcome with status 400 of each other.

        Every date is aware; no text holds what PostgreSQL cannot store.
        """
        array = b"[" + body[chunk.start : chunk.end] + b"]"
        # The search for one byte is many times as fast, and most short texts pass it.
        if b"\\" not in array or _NUL not in array:
            items = self._decode_whole(array)
            if items is not None:
                return DecodedChunk(items, {})
        decoded = DecodedChunk([], {})
        for position, (raw, readable) in enumerate(_split_items(array)):
            item = _NOT_OBJECTS.get(raw[0]) or self._decode_item(raw, readable)
            if isinstance(item, Outcome):
                decoded.refusals[position] = item
            else:
                decoded.items.append(item)
        return decoded

    def _decode_whole(self, array: bytes) -> list[Item] | None:
        """Return the items of a chunk, or None if not all are valid."""
        try:
            try:
                items: list[Item] = self._chunk.decode(array)
                if not any(map(_has_date_to_check, items)):
                    return items
            except ValidationError as error:
                if not _is_about_form(error):
                    return None
            return _settled(self._lenient_chunk.decode(array))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None

    def _decode_item(self, raw: bytes, readable: bytes) -> Item | Outcome:
        try:
            item = self._convert_item(raw)
            if _NUL in raw:
                _check_texts(item)
            return item
        except ValidationError as error:
            message = messages.describe_invalid(str(error))
        except (msgspec.DecodeError, UnicodeDecodeError):
            message = describe_unstorable(raw, Item.__struct_encode_fields__)
        except ValueError as error:
            message = str(error)
        except RecursionError:
            message = messages.NESTED
        return Outcome(_read_key(readable), 400, shorten_message(message))

    def _convert_item(self, raw: bytes) -> Item:
        try:
            item = self._item.decode(raw)
            if not _has_date_to_check(item):
                return item
        except ValidationError as error:
            if not _is_about_form(error):
                raise
        return _settled_alone(self._lenient_item.decode(raw))


# By the first byte, which shows that they need no decoding.
_NOT_OBJECTS = {
    first: Outcome(None, 400, messages.not_an_object(kind))
    for first, kind in KINDS.items()
    if first != ord("{")
}

_UNDATED = f"update_Date: required with {PREFER_HEADER}: resolution=newest"
_NUL = b"\\u0000"
_BETWEEN_ITEMS = re.compile(rb"[ \t\r\n]*+,?[ \t\r\n]*+")


def _split_items(array: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the items of an array as they are written, and as their structure can be read."""
    try:
        yield from ((item, item) for item in map(bytes, RAW_ITEMS.decode(array)))
    except msgspec.DecodeError:
        end = len(b"[")
        for raw in RAW_ITEMS.decode(masked(array)):
            match = _BETWEEN_ITEMS.match(array, end)
            assert match is not None
            readable = bytes(raw)
            end = match.end() + len(readable)
            yield array[match.end() : end], readable


def _has_date_to_check(item: Item) -> bool:
    """Return whether a date's offset can move it out of the years 1 to 9999."""
    entry, update = item.entry_date, item.update_date
    return (entry is not None and not 1 < entry.year < 9999) or (
        update is not None and not 1 < update.year < 9999
    )


def _is_about_form(error: ValidationError) -> bool:
    """Return whether msgspec may have rejected only the form of a date or of an integer."""
    reason = str(error)
    return "RFC3339" in reason or "timezone" in reason or "got `float`" in reason


def _whole(number: float, expected: str = "an integer") -> int:
    """Return the integer that a number is, however it is written.

    Raises ValueError, whose message is the reason.
    """
    if number > INT32[-1]:
        raise ValueError(messages.AT_MOST.format(INT32[-1]))
    if number < INT32[0]:
        raise ValueError(messages.AT_LEAST.format(INT32[0]))
    if not number.is_integer():
        raise ValueError(messages.FRACTION.format(expected))
    return int(number)


def _settled(items: list[Any]) -> list[Item]:
    """Return lenient items with their dates and integers read. Raises ValueError."""
    moments = iter(
        parse_date_times(
            [
                text
                for item in items
                for text in (item.entry_date, item.update_date)
                if text is not None
            ]
        )
    )
    for item in items:
        if item.entry_date is not None:
            item.entry_date = next(moments)
        if item.update_date is not None:
            item.update_date = next(moments)
        if type(item.care_case_clinical_trial_key) is float:
            item.care_case_clinical_trial_key = _whole(item.care_case_clinical_trial_key)
        if type(item.case_key) is float:
            item.case_key = _whole(item.case_key)
    return items


def _settled_alone(item: Any) -> Item:
    """Return a lenient item with its dates and integers read. Raises ValueError with a message."""
    for name, json_name in _NAMES:
        value = getattr(item, name)
        try:
            if type(value) is float:
                expected = "an integer or null" if name == "case_key" else "an integer"
                setattr(item, name, _whole(value, expected))
            elif name in ("entry_date", "update_date") and value is not None:
                setattr(item, name, parse_date_time(value))
        except ValueError as error:
            raise ValueError(f"{json_name}: {error}") from None
    settled: Item = item
    return settled


def _check_texts(item: Item) -> None:
    for name, json_name in _NAMES:
        value = getattr(item, name)
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{json_name}: {messages.NUL}")


_NAMES = list(zip(Item.__struct_fields__, Item.__struct_encode_fields__, strict=True))


_KEYS = msgspec.json.Decoder(list[KeyOnlyItem])
_KEY = msgspec.json.Decoder(KeyOnlyItem)


def read_keys(body: bytes | bytearray, chunk: Chunk) -> list[int]:
    """Return the keys that the items of a chunk name, as far as they can be read."""
    array = masked(b"[" + body[chunk.start : chunk.end] + b"]")
    try:
        # The rest of the look costs less than to ask each item of key 0 for its property.
        return [key for item in _KEYS.decode(array) if item.number and (key := item.key)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return [key for raw in RAW_ITEMS.decode(array) if (key := _read_key(raw))]


def _read_key(readable: bytes) -> int | None:
    try:
        return _KEY.decode(readable).key
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
