"""Work on a pooled connection, again after failures that pass (contract section 2)."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from . import metrics
from .databases import Pool, PooledConnection
from .sqlstate import reason_of, sqlstate_of, status_of
from .statements import END_BACKEND

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ATTEMPTS = 6
FIRST_DELAY_SECONDS = 0.1
"""Doubled after every attempt and jittered; all attempts together wait about 3 seconds."""

ACQUIRE_SECONDS = 10
"""How long a chunk waits for a connection, a new one's handshake included."""

RETRY_SECONDS = 15
"""No attempt begins later than this after the first."""

READ_ONLY_TRANSACTION = "25006"
STATEMENT_TIMEOUT = "57014"
CONTENTION = {"40001", "40P01", "55P03"}


class Unavailable(Exception):
    """The database could not be reached or was overloaded, after all attempts (503).

    ``is_contention`` tells that others held locks for too long, so that the next
    chunk may succeed.
    """

    def __init__(self, reason: str, *, is_contention: bool = False) -> None:
        super().__init__(reason)
        self.is_contention = is_contention


CONNECTION_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)


async def with_connection(
    pool: Pool, work: Callable[[PooledConnection], Awaitable[Result]], activity_id: str
) -> Result:
    """Return what the work returns, run on a connection of the pool.

    The work runs again, on another connection if need be, after a lost connection, a
    deadlock, a serialization failure and whatever else SQLSTATE says will pass. Raises
    Unavailable when it does not pass, and the PostgresError of everything else.
    """
    attempt = 0
    started_at = time.monotonic()
    lost: int | None = None
    while True:
        attempt += 1
        try:
            async with pool.acquire(ACQUIRE_SECONDS) as connection:
                if lost is not None:
                    await connection.fetch(END_BACKEND, lost)
                server_process = connection.get_server_pid()
                try:
                    return await work(connection)
                except CONNECTION_ERRORS:
                    # Not to be used again, and not to write any more behind the retry's back.
                    connection.terminate()
                    lost = server_process
                    raise
        except CONNECTION_ERRORS as error:
            reason = "The database could not be reached"
            if isinstance(error, TimeoutError) and pool.is_exhausted:
                reason = "The service's connections to the database are all at work"
            failure = Unavailable(f"{reason}; send the item again.")
            cause = getattr(error, "sqlstate", None) or type(error).__name__
            kind = "connection"
        except asyncpg.PostgresError as error:
            cause = sqlstate_of(error)
            kind = cause[:2]
            if status_of(cause) != 503:
                raise
            failure = Unavailable(
                f"{reason_of(cause)}; send the item again.",
                is_contention=cause in CONTENTION,
            )
            if cause == READ_ONLY_TRANSACTION:
                # The connection leads to a server that was demoted; others in the pool may too.
                await pool.expire_connections()
            elif cause == STATEMENT_TIMEOUT:
                # It has waited long enough, and so has the caller.
                attempt = ATTEMPTS
        metrics.RETRIES.labels(kind, pool.name).inc()
        logger.warning(
            "database attempt failed",
            extra={
                "activityID": activity_id,
                "database": pool.name,
                "cause": cause,
                "attempt": attempt,
            },
        )
        if attempt >= ATTEMPTS or time.monotonic() - started_at > RETRY_SECONDS:
            raise failure
        jitter = random.uniform(0.5, 1)  # noqa: S311
        await asyncio.sleep(FIRST_DELAY_SECONDS * 2 ** (attempt - 1) * jitter)
