"""Records without a key (key 0): created once, with a key that the database draws."""

import asyncpg

from service import statements
from service.engine.databases import PooledConnection
from service.engine.retrying import CONNECTION_LOST, NotEncodable, Unavailable, with_connection
from service.engine.rows import BatchContext, Row, stored, suppressed
from service.engine.savepoints import SAVEPOINTS, apply_in_pieces, upsert_each
from service.engine.sqlstates import COMMIT_UNKNOWN, sqlstate_of
from service.telemetry import metrics
from service.wire import Outcome

KEY_ROUNDS = 10
"""How often keys are drawn anew for records whose drawn key was taken."""


class _LostCommit(ConnectionError):
    """The connection was lost while a transaction committed."""

    def __init__(self, transaction_id: str, outcomes: list[Outcome]) -> None:
        super().__init__(transaction_id)
        self.transaction_id = transaction_id
        self.outcomes = outcomes


async def create(rows: list[Row], context: BatchContext) -> list[Outcome]:
    """Create the records; return their outcomes in order.

    Raises Unavailable when the database cannot be reached and nothing was committed.
    """

    async def apply(piece: list[Row]) -> list[Outcome]:
        return await _create_once(piece, context, in_savepoints=True)

    try:
        return await _create_once(rows, context, in_savepoints=False)
    except (asyncpg.PostgresError, NotEncodable):
        metrics.SAVEPOINT_CHUNKS.labels(context.pool.name).inc()
        return await apply_in_pieces(rows, apply, context, SAVEPOINTS)


async def _create_once(
    rows: list[Row], context: BatchContext, *, in_savepoints: bool
) -> list[Outcome]:
    """Create records in one transaction, and only once, whatever becomes of the connection.

    When the connection is lost while the transaction commits, its fate is asked for on
    another one before anything is sent again.
    """
    lost: _LostCommit | None = None

    async def work(connection: PooledConnection) -> list[Outcome]:
        nonlocal lost
        if lost is not None:
            if await _has_committed(connection, lost):
                return lost.outcomes
            lost = None
        try:
            return await _create_on(connection, rows, context, in_savepoints=in_savepoints)
        except _LostCommit as error:
            lost = error
            raise

    try:
        return await with_connection(context.pool, work, context.activity_id)
    except Unavailable:
        if lost is None:
            raise
        return [
            _in_doubt(outcome) if outcome.status == 201 else outcome for outcome in lost.outcomes
        ]


def _in_doubt(outcome: Outcome) -> Outcome:
    return Outcome(
        outcome.key,
        503,
        f"The connection was lost while the record was committed with the key {outcome.key};"
        " send the item again with this key.",
    )


async def _create_on(
    connection: PooledConnection, rows: list[Row], context: BatchContext, *, in_savepoints: bool
) -> list[Outcome]:
    outcomes: list[Outcome] | None = None
    keys = await connection.fetch(statements.ALLOT_KEYS, len(rows))
    transaction_id = ""
    try:
        async with connection.transaction():
            ((transaction_id,),) = await connection.fetch(statements.TRANSACTION_ID)
            outcomes = await _create_with_drawn_keys(
                connection, rows, keys, context, in_savepoints=in_savepoints
            )
    except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
        # A server that is shut down (class 57) may have committed before it said so.
        was_refused = isinstance(error, asyncpg.PostgresError) and (
            sqlstate_of(error)[:2] not in COMMIT_UNKNOWN
        )
        if outcomes is None or was_refused:
            raise
        raise _LostCommit(transaction_id, outcomes) from error
    return outcomes


async def _create_with_drawn_keys(
    connection: PooledConnection,
    rows: list[Row],
    keys: list[asyncpg.Record],
    context: BatchContext,
    *,
    in_savepoints: bool,
) -> list[Outcome]:
    """Insert the rows, drawing again for those whose key is taken."""
    outcomes: dict[int, Outcome] = {}
    pending = list(range(len(rows)))
    for _ in range(KEY_ROUNDS):
        keyed = [(key, *rows[i][1:]) for (key,), i in zip(keys, pending, strict=True)]
        if in_savepoints:
            results = await upsert_each(connection, keyed, context, replacing=False)
        else:
            results = await _insert(connection, keyed, context)
        for position, outcome in zip(pending, results, strict=True):
            if outcome is not None and outcome.status == 201:
                outcomes[position] = outcome
            elif outcome is not None:
                outcomes[position] = Outcome(0, outcome.status, outcome.body)
        pending = [position for position in pending if position not in outcomes]
        if not pending:
            break
        await connection.fetch(statements.SKIP_TAKEN_KEYS, keyed[-1][0])
        keys = await connection.fetch(statements.ALLOT_KEYS, len(pending))
    for position in pending:
        outcomes[position] = suppressed(rows[position], context)
    return [outcomes[position] for position in range(len(rows))]


async def _insert(
    connection: PooledConnection, rows: list[Row], context: BatchContext
) -> list[Outcome | None]:
    """Insert the rows whose key is free, all or none; None stands for the others."""
    ((created, _),) = await connection.fetch(statements.UPSERT, rows, None, False)
    keys = set(created or ())
    return [stored(row[0], created=True) if row[0] in keys else None for row in rows]


async def _has_committed(connection: PooledConnection, lost: _LostCommit) -> bool:
    """Tell the fate of a transaction; raises ConnectionError while it is undecided.

    After a crash, an id that was not yet on disk is given to another transaction, so the
    id alone proves nothing: the rows must be there, too.
    """
    try:
        ((status,),) = await connection.fetch(statements.TRANSACTION_STATUS, lost.transaction_id)
    except asyncpg.InvalidParameterValueError:
        # This server, promoted or recovered without it, has never seen the transaction.
        return False
    if status == "in progress":
        raise ConnectionError("the transaction is still in progress")
    if status != "committed":
        return False
    keys = [outcome.key for outcome in lost.outcomes if outcome.status == 201]
    ((is_stored,),) = await connection.fetch(statements.HAS_ANY_KEY, keys)
    return bool(is_stored) or not keys
