"""Requests by name: one at a time, always with the same bytes.

Contract section 1, "Sending again". What a request created is in its receipts, which the
statements themselves write and read.
"""

import asyncio
import logging
import random
from uuid import UUID

import asyncpg

from service.engine.databases import Pool, PooledConnection
from service.engine.retrying import TimedOut, Unavailable, served, with_connection
from service.statements import CLAIM, FORGET, RECEIPTS_KEPT
from service.telemetry import metrics

logger = logging.getLogger(__name__)

CLAIM_SECONDS = 5
ASK_AGAIN_SECONDS = 0.1

FORGET_SECONDS = 600
"""How often a process looks for requests to forget, and jittered."""

FORGET_AT_ONCE = 200


class StillRunning(Exception):
    """The same request is still at work (409)."""


class AnotherBody(Exception):
    """The same request came before with other bytes (422)."""


class Requests:
    """The requests for one database that this process works on."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ended: dict[UUID, asyncio.Event] = {}

    async def begin(
        self, request_id: UUID, activity_id: str, *, digest: UUID | None, patience: float
    ) -> None:
        """Count the request as at work until end(), when nobody else works on it any more.

        With a digest it has been sent under a key of the client's, and is claimed for these bytes.
        Raises StillRunning after so many seconds, AnotherBody, and what served() does; it then
        does not count.
        """
        if request_id in self._ended:
            await self._outwait(request_id, patience)
        self._ended[request_id] = asyncio.Event()
        if digest is None:
            return
        try:
            await self._claim(request_id, activity_id, digest, patience)
        except BaseException:
            self.end(request_id)
            raise

    def end(self, request_id: UUID) -> None:
        """Let others work on the request."""
        self._ended.pop(request_id).set()

    async def _outwait(self, request_id: UUID, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                while (ended := self._ended.get(request_id)) is not None:
                    await ended.wait()
        except TimeoutError:
            raise StillRunning from None

    async def _claim(
        self, request_id: UUID, activity_id: str, digest: UUID, patience: float
    ) -> None:
        async def work(
            connection: PooledConnection, _deadline: float, seconds: float
        ) -> asyncpg.Record:
            (claim,) = await connection.fetch(
                self._pool.sql(CLAIM), request_id, digest, timeout=seconds
            )
            return claim

        until = asyncio.get_running_loop().time() + patience
        while True:
            claim = await served(
                self._pool, work, CLAIM_SECONDS, activity_id,
                failure="the request cannot be claimed",
            )  # fmt: skip
            if claim["is_another"]:
                raise AnotherBody
            if not claim["is_running"]:
                return
            # Another process works on it.
            if asyncio.get_running_loop().time() > until:
                raise StillRunning
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def forget(self) -> int:
        """Forget some requests that are not promised any more; return how many.

        Raises what with_connection() does.
        """

        async def work(connection: PooledConnection, _deadline: float, seconds: float) -> int:
            forgotten: int = await connection.fetchval(
                self._pool.sql(FORGET), self._pool.idempotency_days, FORGET_AT_ONCE, timeout=seconds
            )
            kept = await connection.fetchval(self._pool.sql(RECEIPTS_KEPT), timeout=seconds)
            metrics.RECEIPTS.labels(self._pool.name).set(kept or 0)
            return forgotten

        return await with_connection(self._pool, work, CLAIM_SECONDS, "")

    async def forget_expired(self) -> None:
        """Forget, for as long as the process runs, the requests that are not promised any more."""
        while True:
            await asyncio.sleep(FORGET_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                forgotten = FORGET_AT_ONCE
                while forgotten >= FORGET_AT_ONCE:
                    forgotten = await self.forget()
                    await asyncio.sleep(ASK_AGAIN_SECONDS)
            except (Unavailable, TimedOut, asyncpg.PostgresError) as error:
                cause = getattr(error, "sqlstate", None) or type(error).__name__
                logger.warning(
                    "expired requests not forgotten",
                    extra={"database": self._pool.name, "cause": cause},
                )
