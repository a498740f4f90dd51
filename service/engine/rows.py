"""What all of the engine speaks of: rows, their batch, and what became of them."""

import logging
from typing import Any, NamedTuple

from service.engine.databases import Pool
from service.engine.sqlstates import SUPPRESSED, meaning_of, message_of
from service.wire import Outcome

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]
"""An item's values in the order of the columns; the key comes first."""


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
    return failed(row[0], SUPPRESSED, "", None, context)


def failed(
    key: int, sqlstate: str, message: str, column: str | None, context: BatchContext
) -> Outcome:
    """Return the outcome of an item that failed with this SQLSTATE; the log tells of a 500."""
    meaning = meaning_of(sqlstate)
    if meaning.status == 500:
        if sqlstate not in context.reported:
            context.reported.add(sqlstate)
            fields = {
                "activityID": context.activity_id,
                "database": context.pool.name,
                "sqlstate": sqlstate,
            }
            logger.error(meaning.words, extra=fields)
        return Outcome(key, 500, f"Internal error, activityID {context.activity_id}")
    return Outcome(key, meaning.status, message_of(message, column))
