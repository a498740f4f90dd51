"""Requests that can be resent under an Idempotency-Key (contract section 1, "Retries").

What a request created is in its receipts, which the statements themselves write and read.
"""

import asyncio
import contextvars
import logging
import random
from collections.abc import Sequence
from uuid import UUID

import asyncpg

from service.engine.databases import Pool, PooledConnection
from service.engine.retrying import TimedOut, Unavailable, run_system_statement, with_connection
from service.engine.rows import Batch
from service.statements import DELETE_EXPIRED, OTHER_BODIES, RECEIPT_COUNT_ESTIMATE
from service.telemetry import metrics

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5
"""Timeout of a lookup of receipts, and of one round of their cleanup."""

CLEANUP_SECONDS = 600
"""Mean time between two cleanups of expired requests by one process."""

CLEANUP_REQUESTS = 200
CLEANUP_PAUSE_SECONDS = 0.1


class StillRunning(Exception):
    """The same request is still in progress (409)."""


class AnotherBody(Exception):
    """The same request created records with another body (422)."""


class RequestRegistry:
    """The requests for one database that create records in this process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ended: dict[UUID, asyncio.Event] = {}
        self._unchecked: list[tuple[UUID, UUID, asyncio.Future[bool]]] = []
        self._checking: asyncio.Task[None] | None = None

    async def check_body(self, request: UUID, digest: UUID) -> None:
        """Raise AnotherBody if the request created records with another body.

        Requests that ask during a lookup share the next one. Raises what run_system_statement()
        does.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._unchecked.append((request, digest, answer))
        if self._checking is None or self._checking.done():
            # In a context of its own, not in that of the request that happens to come first.
            self._checking = asyncio.create_task(self._check(), context=contextvars.Context())
        if await answer:
            raise AnotherBody

    async def _check(self) -> None:
        while self._unchecked:
            asked, self._unchecked = self._unchecked, []
            requests, digests, answers = zip(*asked, strict=True)
            try:
                others = await self._find_other_bodies(requests, digests)
            except Exception as error:
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for place, answer in enumerate(answers, 1):
                    if not answer.done():
                        answer.set_result(place in others)

    async def _find_other_bodies(
        self, requests: Sequence[UUID], digests: Sequence[UUID]
    ) -> set[int]:
        """Return the places, from 1, of requests that created records with another body."""

        async def work(connection: PooledConnection, _deadline: float, seconds: float) -> set[int]:
            query = self._pool.sql(OTHER_BODIES)
            rows = await connection.fetch(query, requests, digests, timeout=seconds)
            return {place for (place,) in rows}

        return await run_system_statement(
            self._pool, work, CHECK_SECONDS, "", failure="idempotency check failed"
        )

    async def acquire(self, batch: Batch) -> None:
        """Count the batch as in progress until release(), once the same request no longer is.

        Raises StillRunning.
        """
        await self.wait_for_others(batch)
        self._ended[batch.request_id] = asyncio.Event()
        batch.is_acquired = True

    async def wait_for_others(self, batch: Batch) -> None:
        """Wait until no other batch has acquired the same request.

        Raises StillRunning after ``batch.wait_seconds``.
        """
        try:
            async with asyncio.timeout(batch.wait_seconds):
                while (ended := self._ended.get(batch.request_id)) is not None:
                    await ended.wait()
        except TimeoutError:
            raise StillRunning from None

    def release(self, batch: Batch) -> None:
        """Allow others to work on the batch's request, if the batch acquired it."""
        if batch.is_acquired:
            self._ended.pop(batch.request_id).set()

    async def delete_expired(self) -> int:
        """Delete some expired requests; return their number.

        Raises what with_connection() does.
        """

        async def work(connection: PooledConnection, _deadline: float, seconds: float) -> int:
            deleted: int = await connection.fetchval(
                self._pool.sql(DELETE_EXPIRED),
                self._pool.idempotency_days,
                CLEANUP_REQUESTS,
                timeout=seconds,
            )
            kept = await connection.fetchval(
                self._pool.sql(RECEIPT_COUNT_ESTIMATE), timeout=seconds
            )
            metrics.RECEIPTS.labels(self._pool.name).set(kept or 0)
            return deleted

        return await with_connection(self._pool, work, CHECK_SECONDS, "")

    async def delete_expired_forever(self) -> None:
        """Delete expired requests until the task is canceled."""
        while True:
            await asyncio.sleep(CLEANUP_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                deleted = CLEANUP_REQUESTS
                while deleted >= CLEANUP_REQUESTS:
                    deleted = await self.delete_expired()
                    await asyncio.sleep(CLEANUP_PAUSE_SECONDS)
            except (Unavailable, TimedOut, asyncpg.PostgresError) as error:
                cause = getattr(error, "sqlstate", None) or type(error).__name__
                logger.warning(
                    "cleanup of expired requests failed",
                    extra={"database": self._pool.name, "cause": cause},
                )
