"""The upsert engine: a chunk of items and a pool to outcomes. It knows nothing of HTTP."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
from msgspec.structs import astuple

from . import statements
from .databases import Pool, PooledConnection
from .retrying import CONNECTION_ERRORS, Unavailable, with_connection
from .sqlstate import NOT_OF_AN_ITEM, message_of, sqlstate_of, status_of
from .wire import Item, Outcome

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]
"""An item's values in the order of the columns; the key comes first."""

SAVEPOINTS = 64
"""How many hold rows in one transaction at most (see ``upsert_each.sql``)."""

KEY_ROUNDS = 10
"""How often keys are drawn anew for records whose drawn key was taken."""


class Upserter:
    """One batch's way into one database.

    Once the database has proved unreachable, the items of later chunks get their 503
    without another try.
    """

    def __init__(self, pool: Pool, caller_user: str, activity_id: str) -> None:
        self._pool = pool
        self._caller_user = caller_user
        self._activity_id = activity_id
        self._unavailable: Unavailable | None = None

    async def upsert(self, items: Sequence[Item]) -> list[Outcome]:
        """Create or replace the records; return their outcomes, in order, once committed.

        Items of one key take effect in order. Those that name their key go before those
        whose key is drawn, so that no drawn key is one that the chunk names later.
        """
        firsts: list[tuple[Row, int]] = []
        repeats: list[tuple[Row, int]] = []
        keyless: list[tuple[Row, int]] = []
        seen = {0}
        for position, item in enumerate(items):
            row = astuple(item)
            key = row[0]
            if key not in seen:
                seen.add(key)
                firsts.append((row, position))
            elif key == 0:
                keyless.append((row, position))
            else:
                repeats.append((row, position))
        outcomes: dict[int, Outcome] = {}
        for placed, apply in (
            (firsts, self._replace),
            (repeats, self._replace_each),
            (keyless, self._create),
        ):
            if placed:
                # Sorting by key makes one global order of locks; it is stable, so
                # items of one key stay in their order.
                placed.sort(key=_key_of)
                applied = await self._unless_unavailable(apply, [row for row, _ in placed])
                outcomes.update(zip((position for _, position in placed), applied, strict=True))
        return [outcomes[position] for position in range(len(items))]

    async def _unless_unavailable(
        self, apply: Callable[[list[Row]], Awaitable[list[Outcome]]], rows: list[Row]
    ) -> list[Outcome]:
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
        """Create or replace records of distinct keys: the fast path, else one by one."""

        async def work(connection: PooledConnection) -> list[asyncpg.Record]:
            return await connection.fetch(statements.UPSERT, rows, self._caller_user, True)

        try:
            records = await with_connection(self._pool, work, self._activity_id)
        except asyncpg.PostgresError:
            return await self._replace_each(rows)
        created = {record["key"]: record["created"] for record in records}
        return [self._stored(row, created.get(row[0])) for row in rows]

    async def _replace_each(self, rows: list[Row]) -> list[Outcome]:
        """Create or replace records, each failing for itself; their keys may repeat."""

        async def apply(piece: list[Row]) -> list[Outcome]:
            async def work(connection: PooledConnection) -> list[Outcome | None]:
                return await self._in_savepoints(connection, piece, replacing=True)

            outcomes = await with_connection(self._pool, work, self._activity_id)
            return [
                outcome or self._suppressed(row)
                for row, outcome in zip(piece, outcomes, strict=False)
            ]

        return await self._each(rows, apply)

    async def _create(self, rows: list[Row]) -> list[Outcome]:
        """Create records whose keys the database draws."""

        async def apply(piece: list[Row]) -> list[Outcome]:
            return await self._create_once(piece, in_savepoints=True)

        try:
            return await self._create_once(rows, in_savepoints=False)
        except asyncpg.PostgresError:
            return await self._each(rows, apply, SAVEPOINTS)

    async def _each(
        self,
        rows: list[Row],
        apply: Callable[[list[Row]], Awaitable[list[Outcome]]],
        size: int = 500,
    ) -> list[Outcome]:
        """Apply rows in pieces, of which ``apply`` may deal with the first part only."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(rows):
            piece = rows[len(outcomes) : len(outcomes) + size]
            try:
                outcomes += await apply(piece)
            except asyncpg.PostgresError as error:
                # Failed as a whole: at its commit for the sake of an item, or, as an
                # error of class 42 says, because the statement itself cannot run.
                if len(piece) == 1 or sqlstate_of(error).startswith("42"):
                    outcomes += [self._refused(row, error) for row in piece]
                else:
                    outcomes += await self._each(piece, apply, 1)
        return outcomes

    async def _in_savepoints(
        self, connection: PooledConnection, rows: list[Row], *, replacing: bool
    ) -> list[Outcome | None]:
        """Run the savepoint path once; return outcomes for the rows that it dealt with.

        None stands for a row that was neither stored nor refused.
        """
        *records, end = await connection.fetch(
            statements.UPSERT_EACH, rows, self._caller_user, replacing, NOT_OF_AN_ITEM
        )
        outcomes: list[Outcome | None] = [None] * (end["item_position"] - 1)
        for position, key, created, sqlstate, message, column in records:
            if position is None:
                continue
            outcomes[position - 1] = (
                _stored(key, created)
                if sqlstate is None
                else self._failed(key, sqlstate, message, column)
            )
        return outcomes

    async def _create_once(self, rows: list[Row], *, in_savepoints: bool) -> list[Outcome]:
        """Create records in one transaction, and only once, whatever becomes of the connection.

        When the connection is lost while the transaction commits, its fate is asked for
        on another one before anything is sent again.
        """
        lost: _LostCommit | None = None

        async def work(connection: PooledConnection) -> list[Outcome]:
            nonlocal lost
            if lost is not None:
                if await _has_committed(connection, lost.transaction_id):
                    return lost.outcomes
                lost = None
            try:
                return await self._create_on(connection, rows, in_savepoints=in_savepoints)
            except _LostCommit as error:
                lost = error
                raise

        try:
            return await with_connection(self._pool, work, self._activity_id)
        except Unavailable as unavailable:
            if lost is None:
                raise
            self._unavailable = unavailable
            return [
                outcome
                if outcome.status != 201
                else Outcome(
                    outcome.key,
                    503,
                    f"The connection was lost while the record was committed with the key"
                    f" {outcome.key}; send the item again with this key.",
                )
                for outcome in lost.outcomes
            ]

    async def _create_on(
        self, connection: PooledConnection, rows: list[Row], *, in_savepoints: bool
    ) -> list[Outcome]:
        outcomes: list[Outcome] | None = None
        transaction_id = ""
        try:
            async with connection.transaction():
                transaction_id, outcomes = await self._create_with_drawn_keys(
                    connection, rows, in_savepoints=in_savepoints
                )
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            was_refused = isinstance(error, asyncpg.PostgresError) and sqlstate_of(error)[
                :2
            ] not in ("08", "57")
            if outcomes is None or was_refused:
                raise
            raise _LostCommit(transaction_id, outcomes) from error
        return outcomes

    async def _create_with_drawn_keys(
        self, connection: PooledConnection, rows: list[Row], *, in_savepoints: bool
    ) -> tuple[str, list[Outcome]]:
        """Insert the rows; draw again for those whose key turned out to be taken."""
        outcomes: dict[int, Outcome] = {}
        pending = list(range(len(rows)))
        for _ in range(KEY_ROUNDS):
            drawn = await connection.fetch(statements.ALLOT_KEYS, len(pending))
            keyed = [
                (key, *rows[position][1:])
                for (key, _), position in zip(drawn, pending, strict=True)
            ]
            if in_savepoints:
                results = await self._in_savepoints(connection, keyed, replacing=False)
            else:
                records = await connection.fetch(statements.UPSERT, keyed, self._caller_user, False)
                created = {key for key, _ in records}
                results = [_stored(row[0], True) if row[0] in created else None for row in keyed]
            for position, outcome in zip(pending, results, strict=True):
                if outcome is not None:
                    outcomes[position] = (
                        outcome
                        if outcome.status == 201
                        else Outcome(0, outcome.status, outcome.body)
                    )
            pending = [position for position in pending if position not in outcomes]
            if not pending:
                break
            await connection.fetch(statements.SKIP_TAKEN_KEYS, keyed[-1][0])
        for position in pending:
            outcomes[position] = self._suppressed(rows[position])
        return drawn[0]["transaction_id"], [outcomes[i] for i in range(len(rows))]

    def _stored(self, row: Row, created: bool | None) -> Outcome:
        return self._suppressed(row) if created is None else _stored(row[0], created)

    def _suppressed(self, row: Row) -> Outcome:
        """A trigger or rule kept the record out without an error: nothing was stored."""
        return self._failed(row[0], "00000", "", None)

    def _refused(self, row: Row, error: asyncpg.PostgresError) -> Outcome:
        column = getattr(error, "column_name", None)
        return self._failed(row[0], sqlstate_of(error), str(error.args[0]), column)

    def _failed(self, key: int, sqlstate: str, message: str, column: str | None) -> Outcome:
        status = status_of(sqlstate)
        if status == 500:
            logger.error(
                "item failed", extra={"activityID": self._activity_id, "sqlstate": sqlstate}
            )
            return Outcome(key, 500, f"Internal error, activityID {self._activity_id}")
        return Outcome(key, status, message_of(message, column))


class _LostCommit(ConnectionError):
    """The connection was lost while a transaction committed."""

    def __init__(self, transaction_id: str, outcomes: list[Outcome]) -> None:
        super().__init__(transaction_id)
        self.transaction_id = transaction_id
        self.outcomes = outcomes


async def _has_committed(connection: PooledConnection, transaction_id: str) -> bool:
    """Tell the fate of a transaction; raises ConnectionError while it is undecided."""
    try:
        status = await connection.fetchval(statements.TRANSACTION_STATUS, transaction_id)
    except asyncpg.InvalidParameterValueError:
        # This server, promoted without it, has never seen the transaction.
        return False
    if status == "in progress":
        raise ConnectionError("the transaction is still in progress")
    return bool(status == "committed")


def _stored(key: int, created: bool) -> Outcome:
    return Outcome(key, 201, "Created") if created else Outcome(key, 200, "Updated")


def _key_of(placed: tuple[Row, int]) -> int:
    key: int = placed[0][0]
    return key
