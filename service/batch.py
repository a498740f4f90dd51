"""The one handler: request to chunks to streamed envelope (contract section 1)."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from operator import attrgetter
from typing import NamedTuple

from aiohttp import HttpVersion11, web

from . import body as request_body
from . import metrics
from .admission import Admission
from .auth import Authenticator, Caller
from .chunking import Chunk, MalformedBody, TooManyItems, split_batch
from .config import Settings
from .databases import Databases
from .decoding import BatchDecoder, DecodedChunk
from .gathering import Gatherer
from .logs import RequestRecord
from .problems import Problem, negotiate
from .ratelimit import RateLimiter
from .savepoints import BatchContext
from .upsert import Upserter
from .wire import ENVELOPE_START, Outcome, encode_outcomes, envelope_end

logger = logging.getLogger(__name__)

WRITE_SECONDS = 60
"""How long a client may keep an outcome waiting before it counts as gone."""

CHUNKS_AT_ONCE = 2
"""Of one batch, each on a connection of its own, while its database has no other batch."""

_status = attrgetter("status")

DATABASE_HEADER = "vbasoftware-database"
RECORD = web.RequestKey("record", RequestRecord)
RATE_LIMIT = web.RequestKey("rate_limit", dict[str, str])
"""Headers for the response, whatever it will be."""


class BatchHandler:
    """Answers ``PUT {base_path}/care-case-clinical-trials-batch``."""

    def __init__(
        self, settings: Settings, authenticator: Authenticator, databases: Databases
    ) -> None:
        self._server = settings.server
        self._known_databases = frozenset(settings.databases)
        self._authenticator = authenticator
        self._databases = databases
        self._rate_limiter = RateLimiter(settings.auth.api_keys, settings.server.workers)
        self._admission = Admission(settings.server)
        self._gatherers: dict[str, Gatherer] = {}
        self._decoder = BatchDecoder(ignore_unknown_fields=settings.server.ignore_unknown_fields)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check, read, decode and upsert the batch; stream the outcomes as chunks commit."""
        record = request[RECORD]
        caller = await self._authenticator.authenticate(request.headers)
        record.caller = caller.name
        request[RATE_LIMIT] = await self._rate_limiter.count(caller.name)
        record.database = database = self._database(request, caller)
        request_body.check_media_type(request)
        with self._admission.batch(database), self._admission.body() as counted:
            async with self._admission.turn(database, request.content_length):
                await _continue(request)
                body = await request_body.read(request, self._server.max_body_bytes, counted)
                metrics.BODY_BYTES.labels(database).inc(len(body))
                return await self._apply(request, caller, database, body)

    async def _apply(
        self, request: web.Request, caller: Caller, database: str, body: bytearray
    ) -> web.StreamResponse:
        chunks = await self._chunks(body)
        gatherer = await self._gatherer(database)
        activity_id = request[RECORD].activity_id
        upserter = Upserter(gatherer, BatchContext(gatherer.pool, caller.user, activity_id, set()))
        response = EnvelopeResponse(request)
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
        if not (caller.may_use(names[0]) and names[0] in self._known_databases):
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
            for chunk in split_batch(body, self._server.max_batch_items):
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
    is_expecting = request.headers.get("Expect", "").lower() == "100-continue"
    if is_expecting and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Not part of the response, which has not begun.
        request.writer.output_size = 0


class EnvelopeResponse:
    """A 207 whose envelope goes out piece by piece.

    A client that hangs up does not end the batch: what it sent is finished unseen.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._record = request[RECORD]
        self._has_outcomes = False
        self._is_read = True
        self._headers = {"Content-Type": negotiate(request.headers.get("Accept", ""))}
        self.stream = web.StreamResponse(status=207, headers=self._headers)

    async def send(self, outcomes: list[Outcome], *, is_last: bool) -> None:
        """Write the outcomes of a committed chunk, and complete the envelope after the last."""
        self._record.outcomes.update(map(_status, outcomes))
        start = b"," if self._has_outcomes else ENVELOPE_START
        self._has_outcomes = True
        data = start + encode_outcomes(outcomes)
        if is_last:
            data += envelope_end(self._record.activity_id)
        if not self._is_read:
            return
        try:
            if not self.stream.prepared:
                if is_last:
                    self._send_whole(data)
                    return
                await self.stream.prepare(self._request)
            async with asyncio.timeout(WRITE_SECONDS):
                if is_last:
                    await self.stream.write_eof(data)
                else:
                    await self.stream.write(data)
        except (ConnectionError, TimeoutError):
            self._is_read = False
            if self._request.transport is not None:
                # Half an envelope must not end like a whole one.
                self._request.transport.abort()
            logger.info(
                "client reads no more; its batch is finished",
                extra={"activityID": self._record.activity_id},
            )

    def _send_whole(self, data: bytes) -> None:
        """Leave an envelope of one piece to aiohttp, which sends it with the headers at once."""
        self.stream = web.Response(status=207, headers=self._headers, body=data)
        if self._request.version >= HttpVersion11:
            self.stream.enable_chunked_encoding()
