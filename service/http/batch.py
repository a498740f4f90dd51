"""The handler of batches: request to chunks to streamed envelope (contract section 1)."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from aiohttp import web
from msgspec.structs import astuple

from service.config import Server, Tuning
from service.engine.rows import Batch, Mode
from service.engine.writer import Writer
from service.engine.writers import WriterRegistry
from service.http.access import Access
from service.http.admission import Admission
from service.http.body import BodyReader, check_media_type, split_body
from service.http.envelope import EnvelopeResponse, Problem
from service.http.idempotency import (
    check_body,
    make_batch,
    make_still_running_problem,
    read_idempotency_key,
)
from service.http.preferences import read_preferences
from service.items.decode import BatchDecoder, DecodedChunk, read_keys
from service.items.json_scanner import ItemTooLarge, MalformedBody
from service.items.split import CHUNK_ITEMS, Chunk, TooManyItems
from service.wire import Outcome

MIN_CHUNKS_AHEAD = 2
"""Chunks of a batch that the writer has while the next one is decoded; more if two statements can
take more."""


@dataclass
class BatchHandler:
    """The handler of ``PUT {base_path}/care-case-clinical-trials-batch``."""

    settings: Server
    tuning: Tuning
    access: Access
    admission: Admission
    writers: WriterRegistry

    def __post_init__(self) -> None:
        self._reader = BodyReader(self.settings.max_body_bytes, self.tuning)
        self._decoder = BatchDecoder(ignore_unknown_fields=self.settings.ignore_unknown_fields)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check, read, decode and apply the batch; stream the outcomes as chunks commit."""
        caller, database = await self.access.grant(request, "batch")
        check_media_type(request)
        key = read_idempotency_key(request)
        preferences = read_preferences(request)
        with self.admission.count_batch(caller.name, database) as byte_count:
            body = await self._reader.read(request, byte_count)
            chunks = await self._split(body)
            writer = await self.writers.get(database)
            items = _ItemSource(body, chunks, self._decoder, preferences.mode)
            batch = make_batch(
                *(request, caller, key, body, preferences.mode, items.read_explicit_keys),
                has_more=len(chunks) > 1,
                wait_seconds=self.settings.idempotency_wait_seconds,
            )
            if key is not None:
                await check_body(writer.requests, batch, body)
            response = EnvelopeResponse(request, self.tuning.write_seconds, preferences)
            try:
                return await self._apply(response, batch, writer, items)
            finally:
                writer.requests.release(batch)

    async def _apply(
        self,
        response: EnvelopeResponse,
        batch: Batch,
        writer: Writer,
        items: "_ItemSource",
    ) -> web.StreamResponse:
        if not items.chunks:
            await response.send([], is_last=True)
        elif len(items.chunks) == 1:
            # For one chunk, a task and a generator would cost as much as applying a record.
            decoded = items.decode_chunk(0)
            rows = list(map(astuple, decoded.items))
            outcomes = await writer.apply(batch, rows, decoded.places)
            if batch.is_still_running:
                raise make_still_running_problem()
            await _send_outcomes(response, decoded, outcomes, is_last=True)
            return response.stream
        async with aclosing(_apply_chunks(items, batch, writer)) as applied_chunks:
            async for decoded, outcomes, is_last in applied_chunks:
                if batch.is_still_running and not response.stream.prepared:
                    raise make_still_running_problem()
                await _send_outcomes(response, decoded, outcomes, is_last=is_last)
                if not response.is_connected:
                    break
        return response.stream

    async def _split(self, body: bytearray) -> list[Chunk]:
        try:
            limits = self.settings
            return await split_body(body, limits.max_batch_items, limits.max_item_bytes)
        except MalformedBody as error:
            raise Problem(400, str(error), reason="json") from None
        except TooManyItems as error:
            raise Problem(413, str(error), reason="batch_items") from None
        except ItemTooLarge as error:
            raise Problem(413, str(error), reason="item_bytes") from None


class _ItemSource:
    """The items of a batch; its chunks are decoded when they are needed."""

    def __init__(
        self, body: bytearray, chunks: list[Chunk], decoder: BatchDecoder, mode: Mode
    ) -> None:
        self.body = body
        self.chunks = chunks
        self._decoder = decoder
        self._mode = mode
        self._decoded: dict[int, DecodedChunk] = {}
        self._first = 0

    def decode_chunk(self, number: int) -> DecodedChunk:
        """Return a decoded chunk, which is kept until __iter__() goes on to the next one."""
        if number not in self._decoded:
            decoded = self._decoder.decode(self.body, self.chunks[number])
            is_dated = self._mode is Mode.NEWEST
            self._decoded[number] = decoded.all_dated() if is_dated else decoded
        return self._decoded[number]

    def __iter__(self) -> Iterator[DecodedChunk]:
        for number in range(len(self.chunks)):
            self._first = number
            yield self.decode_chunk(number)
            del self._decoded[number]

    async def read_explicit_keys(self) -> list[int]:
        """Return the explicit record keys of all items whose key can be read.

        The next chunks are decoded for this, because they are needed soon anyway.
        """
        keys: list[int] = []
        for number, chunk in enumerate(self.chunks):
            if self._first <= number <= self._first + MIN_CHUNKS_AHEAD:
                keys += self.decode_chunk(number).named_keys
            else:
                keys += read_keys(self.body, chunk)
            await asyncio.sleep(0)
        return keys


async def _apply_chunks(
    items: _ItemSource, batch: Batch, writer: Writer
) -> AsyncGenerator[tuple[DecodedChunk, list[Outcome], bool]]:
    """Yield each chunk, the outcomes of its valid items, and whether it is the last.

    While the writer applies some chunks, the next one is decoded.
    """
    pending: deque[tuple[DecodedChunk, asyncio.Task[list[Outcome]]]] = deque()
    chunks_ahead = max(MIN_CHUNKS_AHEAD, 2 * writer.pool.statement_rows // CHUNK_ITEMS)
    place = 0
    try:
        for decoded in items:
            places = decoded.places_from(place)
            place += len(decoded.items) + len(decoded.refusals)
            rows = list(map(astuple, decoded.items))
            task = asyncio.create_task(writer.apply(batch, rows, places))
            pending.append((decoded, task))
            # So that the writer sends its statement before the next chunk is decoded.
            await asyncio.sleep(0)
            if len(pending) > chunks_ahead:
                first, task = pending.popleft()
                yield first, await task, False
        while pending:
            first, task = pending.popleft()
            yield first, await task, not pending
    finally:
        batch.give_up("The client disconnected")
        await asyncio.gather(*(task for _, task in pending), return_exceptions=True)


async def _send_outcomes(
    response: EnvelopeResponse, decoded: DecodedChunk, outcomes: list[Outcome], *, is_last: bool
) -> None:
    key_zero = decoded.key_zero if response.is_minimal else ()
    await response.send(decoded.in_order(outcomes), is_last=is_last, key_zero=key_zero)
