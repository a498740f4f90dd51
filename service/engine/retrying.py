"""Runs a statement on a pooled connection and retries transient failures (contract section 2)."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import asyncpg

from service.engine.databases import (
    NotReplicated,
    Pool,
    PooledConnection,
    UnsafeSearchPath,
    get_session,
)
from service.engine.sqlstates import READ_ONLY, TIMED_OUT, get_meaning, get_sqlstate
from service.postgres import CANNOT_CONNECT, connect_error
from service.statements import TERMINATE_BACKEND
from service.telemetry import metrics

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ATTEMPTS = 6
FIRST_DELAY_SECONDS = 0.1
"""Doubled after every attempt and jittered; all attempts together wait about 3 seconds."""

ACQUIRE_SECONDS = 10
"""Maximum wait for a connection, including the handshake of a new one."""

RETRY_SECONDS = 15
"""No attempt begins later than this after the first."""

END_SECONDS = 6
"""Timeout for terminating a lost session."""

CANCEL_SECONDS = 0.5
"""Time from the deadline until the service itself cancels a statement."""

CANCELLED_SECONDS = 1
"""Maximum wait for the end of a canceled statement, which releases the rows of others."""

UNREACHABLE = "The database could not be reached"
NOT_REPLICATED = "The database's standby did not confirm the commit"


class Unavailable(Exception):
    """The database could not be reached or was overloaded, after all attempts (503).

    ``is_in_doubt``: an attempt was lost, so that it may have been committed; ``is_outage``: there
    was no connection, so that it would have been the same for every other statement.
    """

    def __init__(self, reason: str, *, is_in_doubt: bool = False, is_outage: bool = False) -> None:
        super().__init__(reason)
        self.is_in_doubt = is_in_doubt
        self.is_outage = is_outage


class TimedOut(Exception):
    """The statement timed out and has ended.

    ``is_in_doubt``: the answer of an attempt was not read, so that it may have been committed.
    """

    def __init__(self, *, is_in_doubt: bool = False) -> None:
        super().__init__()
        self.is_in_doubt = is_in_doubt


class DatabaseNotReady(Exception):
    """A migration or a privilege is missing; the log says which."""


class NotEncodable(Exception):
    """asyncpg cannot encode an argument: a fault of the service, which no retry fixes."""


CONNECTION_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
"""Errors of a statement whose connection cannot be used any more."""


class _ConnectionLost(Exception):
    """The connection broke after the statement was sent, which can run until its deadline.

    ``server_process`` is where, ``deadline`` until when by ``time.monotonic()``.
    """

    def __init__(self, cause: Exception, server_process: int, deadline: float) -> None:
        super().__init__()
        self.cause = cause
        self.server_process = server_process
        self.deadline = deadline


class _NoConnection(Exception):
    """No connection could be obtained."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


Work = Callable[[PooledConnection, float, float], Awaitable[Result]]
"""Called with the connection, the deadline by the server's clock, and the seconds until then."""


async def with_connection(
    pool: Pool, work: Work[Result], seconds: float, activity_id: str
) -> Result:
    """Run one statement on a connection of the pool and return its result.

    The statement undoes itself when it is not done within ``seconds`` of being sent. It is sent
    again, on another connection if need be, after a refused or lost connection, and whatever
    else SQLSTATE says will pass. Neither that nor an error is told before what was lost has
    ended or its deadline has passed, so that it overwrites nothing that comes later
    (contract section 2, promise 8).

    Raises Unavailable when it does not pass, TimedOut, NotEncodable, and the PostgresError of
    everything else.
    """
    attempt = 0
    started_at = sent_at = time.monotonic()
    lost: _ConnectionLost | None = None
    is_in_doubt = False
    while True:
        attempt += 1
        try:
            connection = await _connected(pool, lost)
            try:
                lost = None
                sent_at = time.monotonic()
                return await _run(work, connection, seconds)
            finally:
                await pool.release(connection)
        except _NoConnection as refused:
            cause = connect_error(refused.cause)
            kind, message = "connection", _describe_refusal(refused.cause, pool)
        except _ConnectionLost as error:
            lost = error
            if isinstance(error.cause, TimeoutError):
                await _wait_until_ended(pool, lost)
                raise TimedOut(is_in_doubt=True) from None
            is_in_doubt = True
            cause, kind = connect_error(error.cause), "connection"
            message = NOT_REPLICATED if isinstance(error.cause, NotReplicated) else UNREACHABLE
        except asyncpg.PostgresError as error:
            cause = get_sqlstate(error)
            kind = cause[:2]
            # Sooner than it may: the server's clock has been set, or this process stood still.
            is_early = time.monotonic() - sent_at < seconds / 2
            if cause == TIMED_OUT and not (is_early and attempt == 1):
                raise TimedOut(is_in_doubt=is_in_doubt) from None
            meaning = get_meaning(cause)
            is_stale = (meaning.is_stale or cause == TIMED_OUT) and attempt == 1
            if cause == READ_ONLY or is_stale:
                # It leads to a server that was demoted, knows what was dropped since, or has its
                # clock wrong; so may the others of the pool.
                await pool.expire_connections()
            if meaning.status != 503 and not is_stale:
                raise
            message = meaning.message
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
            if lost is not None:
                await _wait_until_ended(pool, lost)
            is_outage = kind == "connection"
            raise Unavailable(message, is_in_doubt=is_in_doubt, is_outage=is_outage)
        jitter = random.uniform(0.5, 1)  # noqa: S311
        await asyncio.sleep(FIRST_DELAY_SECONDS * 2 ** (attempt - 1) * jitter)


async def run_system_statement(
    pool: Pool, work: Work[Result], seconds: float, activity_id: str, *, failure: str
) -> Result:
    """Return what with_connection() does, for a statement that no caller's values can make fail.

    Raises Unserved in place of a PostgresError, once the log has told the ``failure``; else what
    with_connection() does.
    """
    try:
        return await with_connection(pool, work, seconds, activity_id)
    except asyncpg.PostgresError as error:
        fields = {"activityID": activity_id, "database": pool.name, "sqlstate": get_sqlstate(error)}
        logger.error(failure, extra=fields)
        raise DatabaseNotReady from None


def _describe_refusal(cause: Exception, pool: Pool) -> str:
    """Return a sentence on why no connection could be obtained."""
    if isinstance(cause, UnsafeSearchPath):
        return "The database is not safe to use; run: care-trials check-config"
    if isinstance(cause, TimeoutError) and pool.is_exhausted:
        return "All database connections are in use"
    meaning = get_meaning(getattr(cause, "sqlstate", None) or "")
    return meaning.message if meaning.status == 503 else UNREACHABLE


async def _connected(pool: Pool, lost: _ConnectionLost | None) -> PooledConnection:
    """Return a connection once the statements of lost ones have ended. Raises _NoConnection."""
    started_at = time.monotonic()
    try:
        connection = await pool.acquire(ACQUIRE_SECONDS)
    except CANNOT_CONNECT as error:
        raise _NoConnection(error) from error
    metrics.POOL_WAIT_SECONDS.labels(pool.name).observe(time.monotonic() - started_at)
    if lost is not None:
        try:
            if not await _has_ended(pool, connection, lost):
                await _wait_for_deadline(lost)
        except BaseException:
            await pool.release(connection)
            raise
    return connection


async def _wait_for_deadline(lost: _ConnectionLost) -> None:
    await asyncio.sleep(max(0.0, lost.deadline - time.monotonic()))


async def _has_ended(pool: Pool, connection: PooledConnection, lost: _ConnectionLost) -> bool:
    """Terminate a lost session; return whether it was seen to end."""
    if pool.is_shared_by_transaction:
        return False
    try:
        ended = await connection.fetch(TERMINATE_BACKEND, lost.server_process, timeout=END_SECONDS)
    except CANNOT_CONNECT as error:
        with suppress(asyncpg.InterfaceError):
            connection.terminate()
        raise _NoConnection(error) from error
    return all(session["has_ended"] for session in ended)


async def _wait_until_ended(pool: Pool, lost: _ConnectionLost) -> None:
    """Wait until a lost statement has ended, or its deadline has passed."""
    try:
        async with asyncio.timeout(lost.deadline - time.monotonic()):
            await pool.release(await _connected(pool, lost))
    except (_NoConnection, TimeoutError):
        await _wait_for_deadline(lost)


async def _run(work: Work[Result], connection: PooledConnection, seconds: float) -> Result:
    try:
        server_process, session = connection.get_server_pid(), get_session(connection)
    except asyncpg.InterfaceError as error:
        # Lost before anything was sent.
        raise _NoConnection(error) from error
    deadline = time.monotonic() + seconds
    try:
        return await work(connection, deadline + session.clock_offset, seconds + CANCEL_SECONDS)
    except asyncpg.DataError as error:
        # asyncpg raises it by itself, too, for an argument that it cannot encode, and quotes
        # that; it then lacks the severity that every server sends.
        if error.severity is None:
            raise NotEncodable(type(error).__name__) from None
        raise
    except CONNECTION_LOST as error:
        if isinstance(error, TimeoutError):
            # Waits for the end of what asyncpg has begun to cancel; terminate() would not let it.
            with suppress(*CONNECTION_LOST):
                await connection.close(timeout=CANCELLED_SECONDS)
        # Not to be used again. A loss that asyncpg has noticed itself has taken it from us already.
        with suppress(asyncpg.InterfaceError):
            connection.terminate()
        cause = NotReplicated() if session.is_unreplicated else error
        raise _ConnectionLost(cause, server_process, deadline) from error
