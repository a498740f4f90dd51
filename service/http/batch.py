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
from service.http.access import Authenticator, Caller
from service.http.admission import Admission, RateLimiter
from service.http.body import BodyReader, check_media_type
from service.http.envelope import RECORD, EnvelopeResponse, Problem
from service.http.idempotency import claimed, digest_of, idempotency_key, request_id
from service.items.decode import BatchDecoder, DecodedChunk, keys_of
from service.items.split import (
    CHUNK_ITEMS,
    Chunk,
    ItemTooLarge,
    MalformedBody,
    TooManyItems,
    split_batch,
)
from service.telemetry import metrics
from service.wire import DATABASE_HEADER, Outcome

RUNS_AHEAD = 2
"""How many chunks of a batch are with the writer while the next is decoded; as many more as two
statements may take."""

RATE_LIMIT = web.RequestKey("rate_limit", dict[str, str])
"""Headers for the response, whatever it will be."""


class BatchHandler:
    """Answers ``PUT {base_path}/care-case-clinical-trials-batch``."""

    def __init__(
        self,
        settings: Server,
        authenticator: Authenticator,
        rate_limiter: RateLimiter,
        admission: Admission,
        writers: Writers,
        reader: BodyReader,
        write_seconds: float,
    ) -> None:
        self._max_items = settings.max_batch_items
        self._max_item_bytes = settings.max_item_bytes
        self._patience = settings.max_queue_seconds
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter
        self._admission = admission
        self._writers = writers
        self._reader = reader
        self._write_seconds = write_seconds
        self._decoder = BatchDecoder(ignore_unknown_fields=settings.ignore_unknown_fields)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check, read, decode and apply the batch; stream the outcomes as chunks commit."""
        record = request[RECORD]
        caller = await self._authenticator.authenticate(request.headers)
        record.caller = caller.name
        request[RATE_LIMIT] = await self._rate_limiter.count(caller.name)
        record.database = database = self._database(request, caller)
        check_media_type(request)
        key = idempotency_key(request)
        with self._admission.batch(database), self._admission.body(database) as counted:
            body = await self._reader.read(request, counted)
            record.bytes = len(body)
            metrics.BODY_BYTES.labels(database).inc(len(body))
            chunks = await self._chunks(body)
            writer = await self._writers.of(database)
            name = request_id(caller.name, database, key or record.activity_id)
            digest = await digest_of(body) if key is not None else None
            async with claimed(
                writer.requests, name, record.activity_id, digest=digest, patience=self._patience
            ):
                batch = self._batch(request, caller, name, key, body, chunks)
                return await self._apply(request, batch, writer, body, chunks)

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

    def _database(self, request: web.Request, caller: Caller) -> str:
        names = request.headers.getall(DATABASE_HEADER, [])
        if len(names) != 1 or not names[0]:
            raise Problem(
                400,
                f"Name the target database in one {DATABASE_HEADER} header.",
                reason="database_header",
            )
        # One check for both, so that they take the same time and look the same.
        if not (caller.may_use(names[0]) and names[0] in self._writers):
            raise Problem(403, "The caller may not use this database.", reason="database")
        if "batch" not in caller.allow:
            raise Problem(403, "This API key may not send batches.", reason="allow")
        return names[0]

    async def _chunks(self, body: bytearray) -> list[Chunk]:
        """Return the chunks of a body that is valid JSON to its end, before any is applied."""
        chunks: list[Chunk] = []
        try:
            for chunk in split_batch(body, self._max_items, self._max_item_bytes):
                if chunk is not None:
                    chunks.append(chunk)
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
        runs_ahead = max(RUNS_AHEAD, 2 * writer.pool.run_items // CHUNK_ITEMS)
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
                if len(at_work) > runs_ahead:
                    decoded, task = at_work.popleft()
                    yield decoded.in_order(await task), False
            while at_work:
                decoded, task = at_work.popleft()
                yield decoded.in_order(await task), not at_work
        finally:
            batch.give_up("The client hung up")
            await asyncio.gather(*(task for _, task in at_work), return_exceptions=True)
