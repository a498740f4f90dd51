"""The fast path: one statement for a chunk, or for the small batches of many callers.

A statement and its commit cost PostgreSQL about as much for one record as for twenty, so
small batches that arrive while others run share one. Nothing waits for company: a batch that
finds the gatherer idle runs at once.
"""

import asyncio
from typing import NamedTuple

import asyncpg

from service import statements
from service.engine.databases import Pool, PooledConnection
from service.engine.retrying import with_connection
from service.engine.rows import Row

SMALL_ROWS = 50
"""Batches of up to so many rows are gathered."""

ROWS_AT_ONCE = 500

STATEMENTS_AT_ONCE = 2
"""While so many run, what arrives is gathered …"""

PATIENCE_SECONDS = 0.02
"""… but for no longer than this, since they may wait for locks that the newcomer does not need."""

Created = dict[int, bool]
"""The keys of the records written, and whether each was created."""


async def upsert_all(pool: Pool, rows: list[Row], activity_id: str) -> Created:
    """Create or replace records, sorted by distinct keys, all or none.

    A key that is missing from what it returns was suppressed by a trigger. Raises
    Unavailable, and asyncpg.PostgresError for an error that lies in an item.
    """

    async def work(connection: PooledConnection) -> list[asyncpg.Record]:
        return await connection.fetch(statements.UPSERT, rows, None, True)

    ((created, updated),) = await with_connection(pool, work, activity_id)
    return dict.fromkeys(created or (), True) | dict.fromkeys(updated or (), False)


class _Waiting(NamedTuple):
    rows: list[Row]
    activity_id: str
    result: asyncio.Future[Created]


class Gatherer:
    """Gathers the small batches for one database; each gets what its own statement would give.

    When a statement of several batches fails, every one of them is told the error, as if it
    had been alone, and takes the savepoint path by itself.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._waiting: list[_Waiting] = []
        self._running: set[asyncio.Task[None]] = set()
        self._patience: asyncio.TimerHandle | None = None

    async def upsert(self, rows: list[Row], activity_id: str) -> Created:
        """Create or replace records as upsert_all() does; the result may hold others' keys."""
        if len(rows) > SMALL_ROWS:
            return await upsert_all(self.pool, rows, activity_id)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(rows, activity_id, loop.create_future())
        self._waiting.append(waiting)
        if len(self._running) < STATEMENTS_AT_ONCE:
            self._start()
        elif self._patience is None:
            self._patience = loop.call_later(PATIENCE_SECONDS, self._lose_patience)
        return await waiting.result

    def _lose_patience(self) -> None:
        self._patience = None
        if self._waiting and len(self._running) < self.pool.max_size:
            self._start()

    def _start(self) -> None:
        """Run one statement for all that wait, but for those whose keys are in it already."""
        rows: dict[int, Row] = {}
        group: list[_Waiting] = []
        others: list[_Waiting] = []
        for waiting in self._waiting:
            keys = {row[0] for row in waiting.rows}
            if keys.isdisjoint(rows) and len(rows) + len(keys) <= ROWS_AT_ONCE:
                group.append(waiting)
                rows.update(zip((row[0] for row in waiting.rows), waiting.rows, strict=True))
            else:
                others.append(waiting)
        self._waiting = others
        task = asyncio.create_task(self._run(group, [rows[key] for key in sorted(rows)]))
        self._running.add(task)
        task.add_done_callback(self._end)

    async def _run(self, group: list[_Waiting], rows: list[Row]) -> None:
        try:
            created = await upsert_all(self.pool, rows, group[0].activity_id)
        except Exception as error:
            for waiting in group:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
        else:
            for waiting in group:
                if not waiting.result.done():
                    waiting.result.set_result(created)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._waiting:
            self._start()
