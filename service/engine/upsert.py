"""The upsert engine: a chunk of items and a pool to outcomes. It knows nothing of HTTP."""

import time
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter

import asyncpg
from msgspec.structs import astuple

from service.engine.databases import PooledConnection
from service.engine.group_commit import Gatherer
from service.engine.keyless import create
from service.engine.retrying import NotEncodable, Unavailable, with_connection
from service.engine.rows import BatchContext, Row, stored, suppressed
from service.engine.savepoints import apply_in_pieces, upsert_each
from service.telemetry import metrics
from service.wire import Item, Outcome

_key_of = itemgetter(0)

Apply = Callable[[list[Row]], Awaitable[list[Outcome]]]


class Upserter:
    """One batch's way into one database.

    Once the database has proved unreachable, the items of later chunks get their 503
    without another try.
    """

    def __init__(self, gatherer: Gatherer, context: BatchContext) -> None:
        self._gatherer = gatherer
        self._context = context
        self._unavailable: Unavailable | None = None

    async def upsert(self, items: Sequence[Item]) -> list[Outcome]:
        """Create or replace the records; return their outcomes, in order, once committed.

        Items of one key take effect in order. Those that name their key go before those
        whose key is drawn, so that no drawn key is one that the chunk names later.
        """
        started_at = time.monotonic()
        outcomes = await self._upsert([self._row(item) for item in items])
        seconds = time.monotonic() - started_at
        metrics.CHUNK_SECONDS.labels(self._context.pool.name).observe(seconds)
        return outcomes

    def _row(self, item: Item) -> Row:
        """Return the item's row, with the caller's user name where it names none."""
        if item.entry_user is None:
            item.entry_user = self._context.caller_user
        if item.update_user is None:
            item.update_user = self._context.caller_user
        return astuple(item)

    async def _upsert(self, rows: list[Row]) -> list[Outcome]:
        keys = set(map(_key_of, rows))
        if len(keys) == len(rows) and 0 not in keys:
            return await self._in_key_order(rows, self._replace)
        firsts, repeats, keyless = _turns(rows)
        outcomes: dict[int, Outcome] = {}
        for positions, apply in (
            (firsts, self._replace),
            (repeats, self._replace_each),
            (keyless, self._create),
        ):
            applied = await self._in_key_order([rows[i] for i in positions], apply)
            outcomes.update(zip(positions, applied, strict=True))
        return [outcomes[position] for position in range(len(rows))]

    async def _in_key_order(self, rows: list[Row], apply: Apply) -> list[Outcome]:
        """Apply rows sorted by key, the one global order of locks; rows of a key stay in order.

        Returns the outcomes in the order of ``rows``.
        """
        if not rows:
            return []
        order = sorted(range(len(rows)), key=lambda position: rows[position][0])
        outcomes = await self._unless_unavailable([rows[i] for i in order], apply)
        placed = dict(zip(order, outcomes, strict=True))
        return [placed[position] for position in range(len(rows))]

    async def _unless_unavailable(self, rows: list[Row], apply: Apply) -> list[Outcome]:
        unavailable = self._unavailable
        if unavailable is None:
            try:
                return await apply(rows)
            except Unavailable as error:
                unavailable = error
                if not error.is_contention:
                    self._unavailable = error
        return [Outcome(row[0], 503, str(unavailable)) for row in rows]

    async def _replace(self, rows: list[Row]) -> list[Outcome]:
        """Create or replace records of distinct keys: the fast path, else in savepoints."""
        try:
            created = await self._gatherer.upsert(rows, self._context.activity_id)
        except (asyncpg.PostgresError, NotEncodable):
            metrics.SAVEPOINT_CHUNKS.labels(self._context.pool.name).inc()
            return await self._replace_each(rows)
        return [
            stored(row[0], created=created[row[0]])
            if row[0] in created
            else suppressed(row, self._context)
            for row in rows
        ]

    async def _replace_each(self, rows: list[Row]) -> list[Outcome]:
        """Create or replace records, each failing for itself; their keys may repeat."""

        async def apply(piece: list[Row]) -> list[Outcome]:
            async def work(connection: PooledConnection) -> list[Outcome | None]:
                return await upsert_each(connection, piece, self._context, replacing=True)

            outcomes = await with_connection(self._context.pool, work, self._context.activity_id)
            return [
                outcome or suppressed(row, self._context)
                for row, outcome in zip(piece, outcomes, strict=False)
            ]

        return await apply_in_pieces(rows, apply, self._context)

    async def _create(self, rows: list[Row]) -> list[Outcome]:
        return await create(rows, self._context)


def _turns(rows: list[Row]) -> tuple[list[int], list[int], list[int]]:
    """Return the places of each key's first row, of its other rows, and of rows without key."""
    firsts: list[int] = []
    repeats: list[int] = []
    keyless: list[int] = []
    seen: set[int] = set()
    for position, row in enumerate(rows):
        key = row[0]
        if key == 0:
            keyless.append(position)
        elif key in seen:
            repeats.append(position)
        else:
            seen.add(key)
            firsts.append(position)
    return firsts, repeats, keyless
