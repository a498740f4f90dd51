"""The savepoint path: rows that fail each for themselves, and what their errors become."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import asyncpg

from . import statements
from .databases import Pool, PooledConnection
from .sqlstate import NOT_OF_AN_ITEM, SCHEMA_HINT, SCHEMA_IS_OLD, message_of, sqlstate_of, status_of
from .wire import Outcome

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]
"""An item's values in the order of the columns; the key comes first."""

SAVEPOINTS = 64
"""How many hold rows in one transaction at most (see ``upsert_each.sql``)."""

PIECE_ROWS = 500


class BatchContext(NamedTuple):
    """Where a batch goes, whose it is, and the name by which the log knows it.

    ``reported`` holds the SQLSTATEs that the log has for this batch.
    """

    pool: Pool
    caller_user: str
    activity_id: str
    reported: set[str]


def stored(key: int, *, created: bool) -> Outcome:
    """Return the outcome of a record that was written."""
    return Outcome(key, 201, "Created") if created else Outcome(key, 200, "Updated")


def suppressed(row: Row, context: BatchContext) -> Outcome:
    """Return the outcome of a row that a trigger or rule kept out without an error."""
    return _failed(row[0], "00000", "", None, context)


def _failed(
    key: int, sqlstate: str, message: str, column: str | None, context: BatchContext
) -> Outcome:
    status = status_of(sqlstate)
    if status == 500:
        if sqlstate not in context.reported:
            context.reported.add(sqlstate)
            hint = SCHEMA_HINT if sqlstate in SCHEMA_IS_OLD else "item failed"
            fields = {
                "activityID": context.activity_id,
                "database": context.pool.name,
                "sqlstate": sqlstate,
            }
            logger.error(hint, extra=fields)
        return Outcome(key, 500, f"Internal error, activityID {context.activity_id}")
    return Outcome(key, status, message_of(message, column))


async def upsert_each(
    connection: PooledConnection, rows: list[Row], context: BatchContext, *, replacing: bool
) -> list[Outcome | None]:
    """Run the savepoint path once; return outcomes of the rows it dealt with, a first part.

    None stands for a row that was neither stored nor refused.
    """
    *records, end = await connection.fetch(
        statements.UPSERT_EACH, rows, context.caller_user, replacing, NOT_OF_AN_ITEM
    )
    outcomes: list[Outcome | None] = [None] * (end["item_position"] - 1)
    for position, key, created, sqlstate, message, column in records:
        # A trigger that changed the key leaves no position to report to.
        if position is not None:
            outcomes[position - 1] = (
                stored(key, created=created)
                if sqlstate is None
                else _failed(key, sqlstate, message, column, context)
            )
    return outcomes


async def apply_in_pieces(
    rows: list[Row],
    apply: Callable[[list[Row]], Awaitable[list[Outcome]]],
    context: BatchContext,
    size: int = PIECE_ROWS,
) -> list[Outcome]:
    """Apply all rows, ``size`` at a time; ``apply`` may deal with only the first of them.

    A piece that fails as a whole is applied row by row, unless the statement itself
    cannot run.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(rows):
        piece = rows[len(outcomes) : len(outcomes) + size]
        try:
            outcomes += await apply(piece)
        except asyncpg.PostgresError as error:
            # At the commit, for the sake of an item; or, class 42, for want of a migration
            # or a privilege.
            sqlstate = sqlstate_of(error)
            if len(piece) > 1 and not sqlstate.startswith("42"):
                outcomes += await apply_in_pieces(piece, apply, context, 1)
            else:
                column = getattr(error, "column_name", None)
                outcomes += [
                    _failed(row[0], sqlstate, str(error.args[0]), column, context) for row in piece
                ]
    return outcomes
