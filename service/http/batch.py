"""The one handler: request to chunks to streamed envelope (contract section 1)."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import UUID

from aiohttp import web
from msgspec.structs import astuple

from service.config import Server
from service.engine.rows import Batch, Whole
from service.engine.writer import Writer, Writers
from service.http.access import Access, Caller
from service.http.admission import Admission
from service.http.body import BodyReader, check_media_type
from service.http.envelope import RECORD, EnvelopeResponse, Problem
from service.http.idempotency import claim, digest_of, idempotency_key, request_id
from service.items.decode import BatchDecoder, DecodedChunk, keys_of
from service.items.split import Chunk, ItemTooLarge, MalformedBody, TooManyItems, split_batch
from service.telemetry import metrics
from service.wire import Outcome

RUNS_AHEAD = 2
"""How many chunks of a batch are with the writer while the next is decoded."""

SHORT_BODY_BYTES = 16 * 1024
"""A body of which no part takes so long that others would miss their turn."""


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
        self._patience = settings.max_queue_seconds
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
        with self._admission.batch(database) as counted:
            body = await self._reader.read(request, counted)
            record.bytes = len(body)
            metrics.BODY_BYTES.labels(database).inc(len(body))
            chunks = await self._chunks(body)
            writer = await self._writers.of(database)
            name = request_id(caller.name, database, key or record.activity_id)
            digest = await digest_of(body) if key is not None else None
            await claim(writer.requests, name, record.activity_id, digest, self._patience)
            try:
                batch = self._batch(request, caller, name, key, body, chunks)
                return await self._apply(request, batch, writer, body, chunks)
            finally:
                writer.requests.end(name)

    def _batch(
        self,
        request: web.Request,
        caller: Caller,
        name: UUID,
        key: str | None,
        body: bytearray,
        chunks: list[Chunk],
    ) -> Batch:
        async def look_whole() -> Whole:
            keys: list[int] = []
            for chunk in chunks:
                keys += keys_of(body, chunk)
                await asyncio.sleep(0)
            return Whole(keys, await digest_of(body))

        record = request[RECORD]
        return Batch(
            database=record.database or "",
            caller=caller.name,
            user=caller.user,
            activity_id=record.activity_id,
            key=key or record.activity_id,
            request_id=name,
            look_whole=look_whole,
            is_gone=lambda: request.transport is None,
            has_more=len(chunks) > 1,
        )

    async def _apply(
        self,
        request: web.Request,
        batch: Batch,
        writer: Writer,
        body: bytearray,
        chunks: list[Chunk],
    ) -> web.StreamResponse:
        response = EnvelopeResponse(request, self._write_seconds)
        if not chunks:
            await response.send([], is_last=True)
        elif len(chunks) == 1:
            # A task, and a generator of one, would cost as much as to apply a record.
            decoded = self._decoder.decode(body, chunks[0])
            rows = list(map(astuple, decoded.items))
            applied = await writer.apply(batch, rows, decoded.places)
            await response.send(decoded.in_order(applied), is_last=True)
            return response.stream
        async with aclosing(self._outcomes(body, chunks, batch, writer)) as parts:
            async for outcomes, is_last in parts:
                await response.send(outcomes, is_last=is_last)
                if not response.is_read:
                    break
        return response.stream

    async def _chunks(self, body: bytearray) -> list[Chunk]:
        """Return the chunks of a body that is valid JSON to its end, before any is applied."""
        chunks: list[Chunk] = []
        try:
            for chunk in split_batch(body, self._max_items, self._max_item_bytes):
                if chunk is not None:
                    chunks.append(chunk)
                if len(body) > SHORT_BODY_BYTES:
                    await asyncio.sleep(0)
        except MalformedBody as error:
            raise Problem(400, str(error), reason="json") from None
        except TooManyItems as error:
            raise Problem(413, str(error), reason="items") from None
        except ItemTooLarge as error:
            raise Problem(413, str(error), reason="item_bytes") from None
        return chunks

    async def _outcomes(
        self, body: bytearray, chunks: list[Chunk], batch: Batch, writer: Writer
    ) -> AsyncGenerator[tuple[list[Outcome], bool]]:
        """Yield the outcomes of one chunk after the other, and whether they are the last.

        While the writer works on some chunks, the next one is decoded.
        """
        at_work: deque[tuple[DecodedChunk, asyncio.Task[list[Outcome]]]] = deque()
        place = 0
        try:
            for chunk in chunks:
                decoded = self._decoder.decode(body, chunk)
                places = [place + offset for offset in decoded.places]
                place += len(decoded.items) + len(decoded.refusals)
                rows = list(map(astuple, decoded.items))
                task = asyncio.create_task(writer.apply(batch, rows, places))
                at_work.append((decoded, task))
                # Lets the writer send its statement before the next chunk is decoded.
                await asyncio.sleep(0)
                if len(at_work) > RUNS_AHEAD:
                    decoded, task = at_work.popleft()
                    yield decoded.in_order(await task), False
            while at_work:
                decoded, task = at_work.popleft()
                yield decoded.in_order(await task), not at_work
        finally:
            batch.give_up("The client hung up")
            await asyncio.gather(*(task for _, task in at_work), return_exceptions=True)
