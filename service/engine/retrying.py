"""Work on a pooled connection, again after failures that pass (contract section 2)."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeVar

import asyncpg

from service.engine.databases import Pool, PooledConnection
from service.engine.sqlstates import READ_ONLY, meaning_of, sqlstate_of
from service.postgres import CANNOT_CONNECT, why_not_connected
from service.statements import END_BACKEND
from service.telemetry import metrics

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ATTEMPTS = 6
FIRST_DELAY_SECONDS = 0.1
"""Doubled after every attempt and jittered; all attempts together wait about 3 seconds."""

ACQUIRE_SECONDS = 10
"""How long a chunk waits for a connection, a new one's handshake included."""

RETRY_SECONDS = 15
"""No attempt begins later than this after the first."""


class Unavailable(Exception):
    """The database could not be reached or was overloaded, after all attempts (503).

    ``is_contention`` tells that others held locks for too long, so that the next
    chunk may succeed.
    """

    def __init__(self, reason: str, *, is_contention: bool = False) -> None:
        super().__init__(reason)
        self.is_contention = is_contention


CONNECTION_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
"""All that a statement raises whose connection is of no more use."""


class NotEncodable(Exception):
    """An argument of a statement that asyncpg cannot send: our fault, and no retry helps."""


async def with_connection(
    pool: Pool, work: Callable[[PooledConnection], Awaitable[Result]], activity_id: str
) -> Result:
    """Return what the work returns, run on a connection of the pool.

    The work runs again, on another connection if need be, after a refused or lost connection,
    a deadlock, a serialization failure and whatever else SQLSTATE says will pass. Raises
    Unavailable when it does not pass, NotEncodable, and the PostgresError of everything else.
    """
    attempt = 0
    started_at = time.monotonic()
    lost: int | None = None
    while True:
        attempt += 1
        try:
            async with _connected(pool, lost) as connection:
                lost = None
                return await _run(work, connection)
        except _Refused as refused:
            reason = "The database could not be reached"
            if isinstance(refused.cause, TimeoutError) and pool.is_exhausted:
                reason = "The service's connections to the database are all at work"
            failure = Unavailable(f"{reason}; send the item again.")
            cause, kind = why_not_connected(refused.cause), "connection"
        except _Lost as error:
            lost = error.server_process
            failure = Unavailable("The database could not be reached; send the item again.")
            cause, kind = why_not_connected(error.cause), "connection"
        except asyncpg.PostgresError as error:
            cause = sqlstate_of(error)
            kind = cause[:2]
            meaning = meaning_of(cause)
            if meaning.status != 503:
                raise
            failure = Unavailable(
                f"{meaning.words}; send the item again.", is_contention=meaning.is_contention
            )
            if cause == READ_ONLY:
                await pool.expire_connections()
            if not meaning.is_retried:
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


class _Refused(Exception):
    """No connection was to be had, for a reason that no SQLSTATE of an ill database tells."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class _Lost(Exception):
    """The connection broke when the work had begun."""

    def __init__(self, cause: Exception, server_process: int) -> None:
        super().__init__()
        self.cause = cause
        self.server_process = server_process


@asynccontextmanager
async def _connected(pool: Pool, lost: int | None) -> AsyncIterator[PooledConnection]:
    """Lend a connection, on which what a lost one left running has been ended.

    Raises _Refused, and the PostgresError of a database that says why it is not ready.
    """
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(pool.acquire(ACQUIRE_SECONDS))
            if lost is not None:
                await connection.fetch(END_BACKEND, lost)
        except CANNOT_CONNECT as error:
            # What an ill database says of itself is told; of a DSN that it refuses, the fact.
            is_ill = meaning_of(sqlstate_of(error)).status == 503
            if is_ill and not isinstance(error, CONNECTION_LOST):
                raise
            raise _Refused(error) from error
        yield connection


async def _run(
    work: Callable[[PooledConnection], Awaitable[Result]], connection: PooledConnection
) -> Result:
    server_process = connection.get_server_pid()
    try:
        return await work(connection)
    except asyncpg.DataError as error:
        # asyncpg raises it by itself, too, for an argument that it cannot encode, and quotes
        # that; it then lacks the severity that every server sends.
        if error.severity is None:
            raise NotEncodable(type(error).__name__) from None
        raise
    except CONNECTION_LOST as error:
        # Not to be used again, and not to write any more behind the retry's back. A loss that
        # asyncpg has noticed itself has taken the connection from us already.
        with suppress(asyncpg.InterfaceError):
            connection.terminate()
        raise _Lost(error, server_process) from error
