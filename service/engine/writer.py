"""Writer of one database: runs the statements that the scheduler chooses, and returns outcomes."""

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Sequence
from functools import partial

import asyncpg

from service.engine.databases import Pool
from service.engine.requests import RequestRegistry, StillRunning
from service.engine.reserved import ReservedKeys
from service.engine.retrying import NotEncodable, TimedOut, Unavailable, with_connection
from service.engine.rows import Batch, Row, RowChunk
from service.engine.schedule import SLOTS, Scheduler
from service.engine.sqlstates import (
    LOCK_NOT_AVAILABLE,
    NO_PRIVILEGE,
    NO_RECEIPTS,
    NOT_RUNNABLE,
    STILL_RUNNING,
    TIMED_OUT,
    get_meaning,
    get_sqlstate,
)
from service.engine.statement import RECEIPTS, Applied, Statement
from service.statements import APPLY
from service.telemetry import metrics
from service.telemetry.logs import without_message
from service.wire import Outcome

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 3
"""Deadline of a statement, after which it is rolled back; solo items have a longer one."""

LOCK_SECONDS = 5
"""Total lock wait of a solo item, in attempts within its time limit. No statement of this or
another service holds a lock for that long for the sake of other items."""

MAX_CONSECUTIVE_REJECTIONS = 8
"""Number of solo items in a row that the database rejected after which the rest of the batch gets
503 untried: with a full disk or a locked table it would take hours."""

SOLO_ATTEMPTS = 5
SOLO_DELAY_SECONDS = 0.05
"""Doubled after every attempt of a solo item."""


class Writer:
    """Applies the chunks of all batches for one database. Every row gets an outcome."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        # Less than the statement can take, so that a lock timeout comes first.
        lock_timeout = min(LOCK_SECONDS, 0.75 * pool.statement_seconds)
        self._lock_attempts = math.ceil(LOCK_SECONDS / lock_timeout)
        max_solo = max(1, pool.max_size - SLOTS)
        self._scheduler = Scheduler(
            pool.statement_rows,
            max_solo,
            int(1000 * lock_timeout),
            is_distributed=pool.is_distributed,
        )
        self._query = pool.sql(APPLY)
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests = RequestRegistry(pool)
        # In a context of its own, not in that of the request which happened to be the first.
        self._cleanup = asyncio.create_task(
            self.requests.delete_expired_forever(), context=contextvars.Context()
        )

    def sample(self) -> None:
        """Update the metrics of waiting and running rows."""
        self.pool.sample()
        scheduler, name = self._scheduler, self.pool.name
        metrics.WAITING_CHUNKS.labels(name).set(scheduler.waiting_chunks)
        metrics.SLOTS_IN_USE.labels(name).set(scheduler.slots_in_use)
        metrics.SOLO_IN_USE.labels(name).set(scheduler.solo_running)

    async def close(self) -> None:
        """Close the pool without waiting for running statements."""
        self._cleanup.cancel()
        await asyncio.gather(self._cleanup, return_exceptions=True)
        await self.pool.close()

    async def apply(self, batch: Batch, rows: list[Row], places: Sequence[int]) -> list[Outcome]:
        """Apply the next items of the batch; return their outcomes once they are committed.

        It may be called again for the items that follow before this returns.
        """
        if not rows:
            return []
        started_at = time.monotonic()
        chunk = RowChunk(batch, rows, places)
        # Before any await, so that the chunks are in the order of the calls.
        batch.chunks.append(chunk)
        if chunk.has_receipts and batch.reserved is None:
            await self._prepare(batch)
        if not batch.is_preparing:
            self._scheduler.add(batch)
        statement = self._wake(chunk)
        if statement is not None:
            await self._execute(statement)
        outcomes = await chunk.result
        seconds = time.monotonic() - started_at
        metrics.CHUNK_SECONDS.labels(self.pool.name).observe(seconds)
        return outcomes

    async def _prepare(self, batch: Batch) -> None:
        """Acquire the request and read the whole batch, before the batch is enqueued."""
        batch.reserved = ReservedKeys(())
        batch.is_preparing = True
        try:
            await self.requests.acquire(batch)
            named_keys, batch.digest = await batch.read_keys_and_digest()
            batch.reserved = ReservedKeys(named_keys)
        except StillRunning:
            batch.block()
        except BaseException:
            # Its other chunks must get outcomes as well.
            batch.give_up("The batch could not be read")
            self._scheduler.add(batch)
            self._wake()
            raise
        finally:
            batch.is_preparing = False

    def _wake(self, chunk: RowChunk | None = None) -> Statement | None:
        """Start all statements that can start, except the one with this chunk, which is returned.

        The caller executes that one itself: a task would cost a one-item request 4% of its time.
        """
        own = None
        while (statement := self._scheduler.next_statement()) is not None:
            if own is None and any(row_slice.chunk is chunk for row_slice in statement.slices):
                own = statement
                continue
            task = asyncio.create_task(self._execute(statement))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return own

    async def _execute(self, statement: Statement) -> None:
        try:
            applied = await self._apply(statement)
        except TimedOut as error:
            self._time_out(statement, is_in_doubt=error.is_in_doubt)
        except Unavailable as error:
            _refuse(statement, str(error), is_in_doubt=error.is_in_doubt)
            if error.is_outage:
                self._scheduler.give_up(str(error))
        except (NotEncodable, asyncpg.PostgresError) as error:
            _fail(statement, error)
        except Exception as error:
            logger.exception(
                "statement failed",
                extra={"activityID": statement.batch.activity_id},
                exc_info=without_message(error),
            )
            _fail(statement, error)
        else:
            self._settle(statement, applied)
        finally:
            self._scheduler.finish(statement)
            self._wake()

    async def _apply(self, statement: Statement) -> Applied:
        """Send the statement; retry a solo item while its failure is transient."""
        seconds = float(self.pool.statement_seconds)
        if not statement.is_solo:
            seconds = min(STATEMENT_SECONDS, seconds)
        work = partial(statement.run, self._query)
        attempt = 0
        while True:
            attempt += 1
            applied = await with_connection(self.pool, work, seconds, statement.batch.activity_id)
            stopped = applied.stopped
            if not statement.is_solo or stopped is None or not get_meaning(stopped).is_retried:
                return applied
            has_waited = stopped == LOCK_NOT_AVAILABLE
            if attempt >= (self._lock_attempts if has_waited else SOLO_ATTEMPTS):
                return applied
            metrics.RETRIES.labels(stopped[:2], self.pool.name).inc()
            await asyncio.sleep(0 if has_waited else SOLO_DELAY_SECONDS * 2**attempt)

    def _settle(self, statement: Statement, applied: Applied) -> None:
        """Record the outcomes, and decide how the next item is sent."""
        self._scheduler.commutes = applied.commutes
        if applied.assigned is not None:
            self._scheduler.last_assigned = applied.assigned
        metrics.STATEMENT_ROWS.labels(self.pool.name).observe(len(statement.keys))
        cause = statement.sequential_cause(applied)
        if cause is not None:
            metrics.SEQUENTIAL_STATEMENTS.labels(cause, self.pool.name).inc()
        outcomes = applied.outcomes
        for chunk, start, end in statement.slices:
            # A reply that was read also settles the fate of an earlier attempt.
            chunk.in_doubt = 0
            own, outcomes = outcomes[: end - start], outcomes[end - start :]
            if own:
                chunk.batch.consecutive_rejections = 0
                chunk.solo_rows = max(0, chunk.solo_rows - len(own))
                failed = applied.has_failures and sum(outcome.status >= 400 for outcome in own)
                if failed:
                    self._scheduler.unshare(chunk.batch, failed / len(own))
                chunk.add(own)
            if len(own) < end - start:
                # Those that follow in the statement were not tried.
                if applied.stopped is not None and statement.is_solo:
                    self._refuse_item(chunk, applied.stopped)
                elif applied.stopped is not None:
                    chunk.solo_rows = 1
                break

    def _time_out(self, statement: Statement, *, is_in_doubt: bool) -> None:
        """Requeue the rows of a statement that timed out, to be sent one at a time."""
        for chunk, start, end in statement.slices:
            if statement.is_solo:
                self._refuse_item(chunk, TIMED_OUT, is_in_doubt=is_in_doubt)
            else:
                chunk.solo_rows = end - start

    def _refuse_item(self, chunk: RowChunk, sqlstate: str, *, is_in_doubt: bool = False) -> None:
        """Set the outcome of a solo item that the database rejected."""
        batch = chunk.batch
        meaning = get_meaning(sqlstate)
        if meaning.status != 503:
            chunk.add([batch.failed(chunk.keys[len(chunk.outcomes)], sqlstate, "", None)])
            return
        metrics.RETRIES.labels(sqlstate[:2], self.pool.name).inc()
        logger.warning(
            "item rejected by the database",
            extra={"activityID": batch.activity_id, "database": self.pool.name, "cause": sqlstate},
        )
        if sqlstate == STILL_RUNNING:
            batch.block()
        chunk.refuse_next(meaning.message, is_in_doubt=is_in_doubt)
        batch.consecutive_rejections += 1
        if batch.consecutive_rejections >= MAX_CONSECUTIVE_REJECTIONS:
            batch.give_up(meaning.message)


def _refuse(statement: Statement, message: str, *, is_in_doubt: bool) -> None:
    """Abort the statement's batches, because the database is unavailable or unhealthy."""
    for chunk, start, end in statement.slices:
        chunk.batch.give_up(message)
        for _ in range(start, end):
            chunk.refuse_next(message, is_in_doubt=is_in_doubt)


def _fail(statement: Statement, error: Exception) -> None:
    """Requeue the rows of a statement that cannot run, to find the cause one at a time.

    Of class 42, a migration or a privilege is missing, for all alike.
    """
    sqlstate = get_sqlstate(error)
    is_of_all = statement.is_solo or sqlstate.startswith(NOT_RUNNABLE)
    if sqlstate == NO_PRIVILEGE and RECEIPTS in str(error):
        sqlstate = NO_RECEIPTS
    message = str(error) if isinstance(error, asyncpg.PostgresError) else ""
    column = getattr(error, "column_name", None)
    for chunk, start, end in statement.slices:
        if is_of_all:
            chunk.solo_rows = max(0, chunk.solo_rows - (end - start))
            chunk.add(
                [chunk.batch.failed(k, sqlstate, message, column) for k in chunk.keys[start:end]]
            )
        else:
            chunk.solo_rows = end - start
