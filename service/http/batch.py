"""The one handler: request to chunks to streamed envelope (contract section 1)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from aiohttp import HttpVersion11, hdrs, web

from service.config import Server
from service.engine.databases import Databases
from service.engine.group_commit import Gatherer
from service.engine.rows import BatchContext
from service.engine.upsert import Upserter
from service.http.access import Authenticator, Caller
from service.http.admission import Admission, RateLimiter
from service.http.body import BodyReader, check_media_type
from service.http.envelope import RECORD, EnvelopeResponse, Problem
from service.items.decode import BatchDecoder, DecodedChunk
from service.items.split import Chunk, MalformedBody, TooManyItems, split_batch
from service.telemetry import metrics
from service.wire import DATABASE_HEADER, Outcome

CHUNKS_AT_ONCE = 2
"""Of one batch, each on a connection of its own, while its database has no other batch."""

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
        databases: Databases,
        reader: BodyReader,
        write_seconds: float,
    ) -> None:
        self._max_items = settings.max_batch_items
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter
        self._admission = admission
        self._databases = databases
        self._reader = reader
        self._write_seconds = write_seconds
        self._gatherers: dict[str, Gatherer] = {}
        self._decoder = BatchDecoder(ignore_unknown_fields=settings.ignore_unknown_fields)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check, read, decode and upsert the batch; stream the outcomes as chunks commit."""
        record = request[RECORD]
        caller = await self._authenticator.authenticate(request.headers)
        record.caller = caller.name
        request[RATE_LIMIT] = await self._rate_limiter.count(caller.name)
        record.database = database = self._database(request, caller)
        check_media_type(request)
        with self._admission.batch(database), self._admission.body() as counted:
            async with self._admission.turn(database, request.content_length):
                await _continue(request)
                body = await self._reader.read(request, counted)
                metrics.BODY_BYTES.labels(database).inc(len(body))
                return await self._apply(request, caller, database, body)

    async def _apply(
        self, request: web.Request, caller: Caller, database: str, body: bytearray
    ) -> web.StreamResponse:
        chunks = await self._chunks(body)
        gatherer = await self._gatherer(database)
        activity_id = request[RECORD].activity_id
        upserter = Upserter(gatherer, BatchContext(gatherer.pool, caller.user, activity_id, set()))
        response = EnvelopeResponse(request, self._write_seconds)
        if not chunks:
            await response.send([], is_last=True)
        async for outcomes, is_last in self._outcomes(body, chunks, upserter, database):
            await response.send(outcomes, is_last=is_last)
        return response.stream

    def _database(self, request: web.Request, caller: Caller) -> str:
        names = request.headers.getall(DATABASE_HEADER, [])
        if len(names) != 1 or not names[0]:
            raise Problem(400, f"Name the target database in one {DATABASE_HEADER} header.")
        # One check for both, so that they take the same time and look the same.
        if not (caller.may_use(names[0]) and names[0] in self._databases):
            raise Problem(403, "The caller may not use this database.")
        return names[0]

    async def _gatherer(self, database: str) -> Gatherer:
        if database not in self._gatherers:
            pool = await self._databases.pool(database)
            return self._gatherers.setdefault(database, Gatherer(pool))
        return self._gatherers[database]

    async def _chunks(self, body: bytearray) -> list[Chunk]:
        """Return the chunks of a body that is valid JSON to its end, before any is applied."""
        chunks: list[Chunk] = []
        try:
            for chunk in split_batch(body, self._max_items):
                chunks.append(chunk)
                await asyncio.sleep(0)
        except MalformedBody as error:
            raise Problem(400, str(error)) from None
        except TooManyItems as error:
            raise Problem(413, str(error)) from None
        return chunks

    async def _outcomes(
        self, body: bytearray, chunks: list[Chunk], upserter: Upserter, database: str
    ) -> AsyncIterator[tuple[list[Outcome], bool]]:
        """Yield the outcomes of one chunk after the other, and whether they are the last.

        While PostgreSQL works on some chunks, the next one is decoded. Chunks that share a
        key are applied one after the other.
        """
        if len(chunks) == 1:
            decoded = self._decoder.decode(body, chunks[0])
            yield decoded.in_order(await upserter.upsert(decoded.items)), True
            return
        in_work: deque[_ChunkInWork] = deque()
        try:
            for chunk in chunks:
                decoded = self._decoder.decode(body, chunk)
                keys = {item.care_case_clinical_trial_key for item in decoded.items}
                at_once = CHUNKS_AT_ONCE if self._admission.is_alone(database) else 1
                while in_work and (
                    len(in_work) >= at_once
                    or not all(keys.isdisjoint(other.keys) for other in in_work)
                ):
                    yield await in_work.popleft().outcomes(), False
                work = asyncio.create_task(upserter.upsert(decoded.items))
                in_work.append(_ChunkInWork(decoded, keys, work))
                # Lets the task send its statement before the next chunk is decoded.
                await asyncio.sleep(0)
            while in_work:
                outcomes = await in_work.popleft().outcomes()
                yield outcomes, not in_work
        finally:
            await asyncio.gather(*(chunk.work for chunk in in_work), return_exceptions=True)


class _ChunkInWork(NamedTuple):
    decoded: DecodedChunk
    keys: set[int]
    work: asyncio.Task[list[Outcome]]

    async def outcomes(self) -> list[Outcome]:
        stored: list[Outcome] = await self.work
        return self.decoded.in_order(stored)


async def _continue(request: web.Request) -> None:
    """Ask for the body, now that the headers are accepted (RFC 9110 section 10.1.1)."""
    is_expecting = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    if is_expecting and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Not part of the response, which has not begun.
        request.writer.output_size = 0
