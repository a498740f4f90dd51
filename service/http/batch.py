"""The one handler: request to chunks to streamed envelope (contract section 1)."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from aiohttp import web
from msgspec.structs import astuple

from service.config import Server
from service.engine.requests import request_id
from service.engine.rows import Batch, Mode, Whole
from service.engine.writer import Writer, Writers
from service.http.access import Access, Caller
from service.http.admission import Admission
from service.http.body import BodyReader, check_media_type, chunks_of
from service.http.envelope import RECORD, EnvelopeResponse, Problem
from service.http.idempotency import check_body, digest_of, idempotency_key, still_running
from service.http.preferences import preferences_of
from service.items.decode import BatchDecoder, DecodedChunk, keys_of
from service.items.split import CHUNK_ITEMS, Chunk, TooManyItems
from service.items.walk import ItemTooLarge
from service.telemetry import metrics
from service.wire import Outcome

RUNS_AHEAD = 2
"""How many chunks of a batch are with the writer while the next is decoded; as many more as two
statements may take."""


class BatchHandler:
    """Answers ``PUT {base_path}/care-case-clinical-trials-batch``."""

    def __init__(
        self,
        settings: Server,
        access: Access,
        admission: Admission,
        writers: Writers,
        reader: BodyReader,
        write_seconds: float,
    ) -> None:
        self._max_items = settings.max_batch_items
        self._max_item_bytes = settings.max_item_bytes
        self._wait_seconds = settings.max_queue_seconds
        self._access = access
        self._admission = admission
        self._writers = writers
        self._reader = reader
        self._write_seconds = write_seconds
        self._decoder = BatchDecoder(ignore_unknown_fields=settings.ignore_unknown_fields)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check, read, decode and apply the batch; stream the outcomes as chunks commit."""
        record = request[RECORD]
        caller, database = await self._access.grant(request, "batch")
        check_media_type(request)
        key = idempotency_key(request)
        preferences = preferences_of(request)
        with self._admission.batch(caller.name, database) as counted:
            body = await self._reader.read(request, counted)
            record.bytes = len(body)
            metrics.BODY_BYTES.labels(database).inc(len(body))
            chunks = await self._chunks(body)
            writer = await self._writers.of(database)
            items = _Items(body, chunks, self._decoder, preferences.mode)
            batch = self._batch(request, caller, key, preferences.mode, items)
            if key is not None:
                batch.digest = await check_body(writer.requests, batch, body)
            response = EnvelopeResponse(request, self._write_seconds, preferences)
            try:
                return await self._apply(response, batch, writer, items)
            finally:
                writer.requests.release(batch)

    def _batch(
        self,
        request: web.Request,
        caller: Caller,
        key: str | None,
        mode: Mode,
        items: "_Items",
    ) -> Batch:
        async def look_whole() -> Whole:
            digest = batch.digest or await digest_of(items.body)
            return Whole(await items.named_keys(), digest)

        record = request[RECORD]
        database, key = record.database or "", key or record.activity_id
        batch = Batch(
            database=database,
            caller=caller.name,
            user=caller.user,
            activity_id=record.activity_id,
            key=key,
            name_request=lambda: request_id(caller.name, database, key),
            look_whole=look_whole,
            mode=mode,
            is_gone=lambda: request.transport is None,
            has_more=len(items.chunks) > 1,
            wait_seconds=self._wait_seconds,
        )
        return batch

    async def _apply(
        self,
        response: EnvelopeResponse,
        batch: Batch,
        writer: Writer,
        items: "_Items",
    ) -> web.StreamResponse:
        if not items.chunks:
            await response.send([], is_last=True)
        elif len(items.chunks) == 1:
            # A task, and a generator of one, would cost as much as to apply a record.
            decoded = items.decoded(0)
            rows = list(map(astuple, decoded.items))
            applied = await writer.apply(batch, rows, decoded.places)
            if batch.is_still_running:
                raise still_running()
            await _send(response, decoded, applied, is_last=True)
            return response.stream
        async with aclosing(_outcomes(items, batch, writer)) as parts:
            async for decoded, applied, is_last in parts:
                if batch.is_still_running and not response.stream.prepared:
                    raise still_running()
                await _send(response, decoded, applied, is_last=is_last)
                if not response.is_read:
                    break
        return response.stream

    async def _chunks(self, body: bytearray) -> list[Chunk]:
        try:
            return await chunks_of(body, self._max_items, self._max_item_bytes)
        except TooManyItems as error:
            raise Problem(413, str(error), reason="items") from None
        except ItemTooLarge as error:
            raise Problem(413, str(error), reason="item_bytes") from None


class _Items:
    """The items of a batch, whose chunks are decoded as they are asked for."""

    def __init__(
        self, body: bytearray, chunks: list[Chunk], decoder: BatchDecoder, mode: Mode
    ) -> None:
        self.body = body
        self.chunks = chunks
        self._decoder = decoder
        self._mode = mode
        self._decoded: dict[int, DecodedChunk] = {}
        self._first = 0

    def decoded(self, number: int) -> DecodedChunk:
        """Return a chunk decoded, which is kept until another one is asked for by __iter__()."""
        if number not in self._decoded:
            decoded = self._decoder.decode(self.body, self.chunks[number])
            is_dated = self._mode is Mode.NEWEST
            self._decoded[number] = decoded.all_dated() if is_dated else decoded
        return self._decoded[number]

    def __iter__(self) -> Iterator[DecodedChunk]:
        for number in range(len(self.chunks)):
            self._first = number
            yield self.decoded(number)
            del self._decoded[number]

    async def named_keys(self) -> list[int]:
        """Return the keys that the items name, as far as they can be read.

        Of the next chunks they are those of the decoded items, which will be wanted anyway.
        """
        keys: list[int] = []
        for number, chunk in enumerate(self.chunks):
            if self._first <= number <= self._first + RUNS_AHEAD:
                keys += self.decoded(number).named_keys
            else:
                keys += keys_of(self.body, chunk)
            await asyncio.sleep(0)
        return keys


async def _outcomes(
    items: _Items, batch: Batch, writer: Writer
) -> AsyncGenerator[tuple[DecodedChunk, list[Outcome], bool]]:
    """Yield one chunk after the other, what became of its items, and whether it is the last.

    While the writer works on some chunks, the next one is decoded.
    """
    at_work: deque[tuple[DecodedChunk, asyncio.Task[list[Outcome]]]] = deque()
    runs_ahead = max(RUNS_AHEAD, 2 * writer.pool.run_items // CHUNK_ITEMS)
    place = 0
    try:
        for decoded in items:
            places = decoded.places_from(place)
            place += len(decoded.items) + len(decoded.refusals)
            rows = list(map(astuple, decoded.items))
            task = asyncio.create_task(writer.apply(batch, rows, places))
            at_work.append((decoded, task))
            # Lets the writer send its statement before the next chunk is decoded.
            await asyncio.sleep(0)
            if len(at_work) > runs_ahead:
                first, task = at_work.popleft()
                yield first, await task, False
        while at_work:
            first, task = at_work.popleft()
            yield first, await task, not at_work
    finally:
        batch.give_up("The client hung up")
        await asyncio.gather(*(task for _, task in at_work), return_exceptions=True)


async def _send(
    response: EnvelopeResponse, decoded: DecodedChunk, applied: list[Outcome], *, is_last: bool
) -> None:
    keyless = decoded.keyless if response.is_minimal else ()
    await response.send(decoded.in_order(applied), is_last=is_last, keyless=keyless)
