"""The savepoint path: rows that fail each for themselves, and what their errors become."""

from collections.abc import Awaitable, Callable

import asyncpg

from service import statements
from service.engine.databases import PooledConnection
from service.engine.retrying import NotEncodable
from service.engine.rows import BatchContext, Row, failed, stored
from service.engine.sqlstates import ENDING_CLASSES, NOT_RUNNABLE, sqlstate_of
from service.wire import Outcome

SAVEPOINTS = 64
"""How many hold rows in one transaction at most (see ``upsert_each.sql``)."""

PIECE_ROWS = 500


async def upsert_each(
    connection: PooledConnection, rows: list[Row], context: BatchContext, *, replacing: bool
) -> list[Outcome | None]:
    """Run the savepoint path once; return outcomes of the rows it dealt with, a first part.

    None stands for a row that was neither stored nor refused.
    """
    *records, end = await connection.fetch(
        statements.UPSERT_EACH, rows, None, replacing, ENDING_CLASSES
    )
    outcomes: list[Outcome | None] = [None] * (end["item_position"] - 1)
    for position, key, created, sqlstate, message, column in records:
        # A trigger that changed the key leaves no position to report to.
        if position is not None:
            outcomes[position - 1] = (
                stored(key, created=created)
                if sqlstate is None
                else failed(key, sqlstate, message, column, context)
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
        except (asyncpg.PostgresError, NotEncodable) as error:
            # At the commit, for the sake of an item; or for every row.
            sqlstate = sqlstate_of(error)
            if len(piece) > 1 and not sqlstate.startswith(NOT_RUNNABLE):
                outcomes += await apply_in_pieces(piece, apply, context, 1)
            else:
                column = getattr(error, "column_name", None)
                outcomes += [failed(row[0], sqlstate, str(error), column, context) for row in piece]
    return outcomes
