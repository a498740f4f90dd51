"""Chunks to items, or to the outcomes that say why not."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import field

from service.items.dates import AnyDateTime, parse_date_time
from service.items.split import RAW_ITEMS, Chunk
from service.items.texts import mask_unstorable
from service.wire import Item, Keyed, Outcome, StrictItem


class DecodedChunk(NamedTuple):
    """The valid items in order, and the outcomes of the others by their place in the chunk."""

    items: list[Item]
    refusals: dict[int, Outcome]

    @property
    def places(self) -> Sequence[int]:
        """The places of the valid items in the chunk."""
        count = len(self.items) + len(self.refusals)
        if not self.refusals:
            return range(count)
        return [place for place in range(count) if place not in self.refusals]

    def in_order(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Return the items' outcomes with those of the refused items in their places."""
        if not self.refusals:
            return outcomes
        accepted = iter(outcomes)
        return [
            self.refusals.get(position) or next(accepted)
            for position in range(len(outcomes) + len(self.refusals))
        ]


class _Refused(Exception):
    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.body)
        self.outcome = outcome


class _LenientItem(Item, gc=False):
    entry_date: AnyDateTime = field(name="entry_Date", default=None)  # type: ignore[assignment]
    update_date: AnyDateTime = field(name="update_Date", default=None)  # type: ignore[assignment]


class _StrictLenientItem(_LenientItem, gc=False, forbid_unknown_fields=True):
    pass


class BatchDecoder:
    """Decodes the items of chunks; one for each way of treating unknown fields.

    Tries the cheapest way first: the whole chunk by msgspec alone, then the whole chunk
    with the date-times that msgspec does not know, then item by item.
    """

    def __init__(self, *, ignore_unknown_fields: bool) -> None:
        item = Item if ignore_unknown_fields else StrictItem
        lenient = _LenientItem if ignore_unknown_fields else _StrictLenientItem
        self._chunk = msgspec.json.Decoder(list[item])  # type: ignore[valid-type]
        self._lenient_chunk = msgspec.json.Decoder(
            list[lenient],  # type: ignore[valid-type]
            dec_hook=parse_date_time,
        )
        self._lenient_item = msgspec.json.Decoder(lenient, dec_hook=parse_date_time)

    def decode(self, body: bytes | bytearray, chunk: Chunk) -> DecodedChunk:
        """Return the chunk's valid items, and the outcome with status 400 of each other.

        Every date is aware; no text holds what PostgreSQL cannot store.
        """
        array = b"[" + body[chunk.start : chunk.end] + b"]"
        # The search for one byte is many times as fast, and most short texts pass it.
        if b"\\" not in array or b"\\u0000" not in array:
            try:
                items = self._chunk.decode(array)
                if not any(map(_has_date_to_check, items)):
                    return DecodedChunk(items, {})
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
            try:
                return DecodedChunk(self._lenient_chunk.decode(array), {})
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        try:
            raw_items = RAW_ITEMS.decode(array)
        except msgspec.DecodeError:
            raw_items = RAW_ITEMS.decode(mask_unstorable(array))
        decoded = DecodedChunk([], {})
        for position, raw in enumerate(raw_items):
            try:
                decoded.items.append(self._decode_item(bytes(raw)))
            except _Refused as refused:
                decoded.refusals[position] = refused.outcome
        return decoded

    def _decode_item(self, raw: bytes) -> Item:
        try:
            try:
                return self._checked(raw)
            except UnicodeDecodeError:
                return self._checked(mask_unstorable(raw))
        except msgspec.ValidationError as error:
            raise _Refused(_refusal(raw, error)) from None

    def _checked(self, raw: bytes) -> Item:
        item = self._lenient_item.decode(raw)
        for name, json_name in zip(
            item.__struct_fields__, item.__struct_encode_fields__, strict=True
        ):
            value = getattr(item, name)
            if isinstance(value, str) and "\0" in value:
                raise msgspec.ValidationError(
                    "Expected text that PostgreSQL can store, got U+0000, a lone surrogate"
                    f" or bytes that are not UTF-8 - at `$.{json_name}`"
                )
        return item


def _has_date_to_check(item: Item) -> bool:
    """Tell whether a date's offset may move it out of the years 1 to 9999."""
    entry, update = item.entry_date, item.update_date
    return (entry is not None and not 1 < entry.year < 9999) or (
        update is not None and not 1 < update.year < 9999
    )


def _refusal(raw: bytes, error: msgspec.ValidationError) -> Outcome:
    """Return the outcome of an invalid item: "field: reason", and its key where it has one."""
    reason, _, path = str(error).partition(" - at `$.")
    if path:
        reason = f"{path.rstrip('`')}: {reason}"
    return Outcome(_key_of(raw), 400, reason)


_KEYS = msgspec.json.Decoder(list[Keyed])


def keys_of(body: bytes | bytearray, chunk: Chunk) -> list[int]:
    """Return the keys that the items of a chunk name, as far as they can be read."""
    array = b"[" + body[chunk.start : chunk.end] + b"]"
    try:
        return [item.key for item in _KEYS.decode(array) if item.key]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        raw_items = RAW_ITEMS.decode(array)
    except msgspec.DecodeError:
        raw_items = RAW_ITEMS.decode(mask_unstorable(array))
    return [key for raw in raw_items if (key := _key_of(bytes(raw)))]


def _key_of(raw: bytes) -> int | None:
    try:
        return msgspec.json.decode(raw, type=Keyed).key
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
