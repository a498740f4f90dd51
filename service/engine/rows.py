"""Shared types of the engine: rows, their batch, its chunks and their outcomes."""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

from service.engine.reserved import ReservedKeys
from service.engine.sqlstates import STILL_RUNNING, format_message, get_meaning
from service.wire import IDEMPOTENCY_HEADER, Outcome

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]
"""An item's values in the order of the columns; the key comes first."""


class Mode(StrEnum):
    """Effect on a record that exists, and on an item whose record does not.

    Defined in sql/functions/care_case_clinical_trial_apply_items.sql.
    """

    UPSERT = "upsert"
    NEWEST = "newest"
    CREATE = "create"
    REPLACE = "replace"
    DELETE = "delete"

    @property
    def is_set_based(self) -> bool:
        """Return whether many rows can be written by one statement."""
        return self in {Mode.UPSERT, Mode.NEWEST}


class BatchKeys(NamedTuple):
    """The explicit keys of a whole batch, and the digest of its body."""

    named_keys: Sequence[int]
    digest: UUID


@dataclass(kw_only=True, eq=False)
class Batch:
    """One caller's batch for one database.

    Under ``key`` it can be resent; ``request_id`` identifies it in its receipts: of its key-0
    records, and of all that it creates in the mode ``create``. Only if there are such,
    ``read_keys_and_digest`` is called, and the batch acquires its request, for which it waits up to
    ``wait_seconds``. ``is_gone`` returns True once nobody waits for its outcomes, after which it
    starts nothing more; ``has_more``: it has more than one chunk. After a 503, later items with a
    key in ``refused_keys`` get 503 as well.
    """

    database: str
    caller: str
    user: str
    activity_id: str
    key: str
    read_keys_and_digest: Callable[[], Awaitable[BatchKeys]]
    mode: Mode = Mode.UPSERT
    is_gone: Callable[[], bool] = bool
    has_more: bool = False
    wait_seconds: float = 0

    digest: UUID | None = None
    reserved: ReservedKeys | None = None
    is_acquired: bool = False
    is_still_running: bool = False
    is_preparing: bool = False
    chunks: deque["RowChunk"] = field(default_factory=deque)
    refused_keys: set[int] = field(default_factory=set)
    consecutive_rejections: int = 0
    given_up: str | None = None
    reported: set[str] = field(default_factory=set)

    @cached_property
    def request_id(self) -> UUID:
        """Return the identity of the request in its receipts; most batches do not need one."""
        caller, database = self.caller, self.database
        name = f"{len(caller)} {caller} {len(database)} {database} {self.key}"
        return UUID(bytes=hashlib.sha256(name.encode()).digest()[:16])

    def give_up(self, message: str) -> None:
        """Abort the batch: pending items get 503 with this reason."""
        self.given_up = self.given_up or message

    def block(self) -> None:
        """Abort the batch because another attempt of the same request is in progress."""
        self.is_still_running = True
        self.give_up(get_meaning(STILL_RUNNING).message)

    def failed(self, key: int, sqlstate: str, message: str, column: str | None) -> Outcome:
        """Return the outcome of an item with this SQLSTATE; log a 500 once per SQLSTATE."""
        meaning = get_meaning(sqlstate)
        if meaning.status != 500:
            return Outcome(key, meaning.status, format_message(message, column))
        if sqlstate not in self.reported:
            self.reported.add(sqlstate)
            fields = {
                "activityID": self.activity_id,
                "database": self.database,
                "sqlstate": sqlstate,
            }
            logger.error(meaning.message, extra=fields)
        return Outcome(key, 500, f"Internal error, activityID {self.activity_id}")


class RowChunk:
    """Consecutive rows of a batch, passed to the writer together.

    ``places`` are those of the items in the request. Of the rows, the first ``len(outcomes)``
    are processed; the next ``solo_rows`` go one at a time; ``running_rows`` are in a statement.
    Rows before ``in_doubt`` may already be committed: the reply was lost.
    """

    def __init__(self, batch: Batch, rows: list[Row], places: Sequence[int]) -> None:
        self.batch = batch
        self.rows = rows
        self.places = places
        self.keys: list[int] = [row[0] for row in rows]
        keys = frozenset(self.keys)
        self.named_keys = keys - {0} if 0 in keys else keys
        self.has_receipts = 0 in keys or batch.mode is Mode.CREATE
        self.outcomes: list[Outcome] = []
        self.solo_rows = 0
        self.running_rows = 0
        self.in_doubt = 0
        self.result: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()

    def named_keys_between(self, start: int, end: int) -> AbstractSet[int]:
        """Return the explicit keys of these rows."""
        if end - start == len(self.keys):
            return self.named_keys
        return set(self.keys[start:end]) - {0}

    @property
    def is_waiting(self) -> bool:
        """Return whether it has pending rows and none that is running."""
        return not self.running_rows and len(self.outcomes) < len(self.rows)

    def add(self, outcomes: list[Outcome]) -> None:
        """Record the next outcomes; resolve the future when all rows are done."""
        self.outcomes += outcomes
        if len(self.outcomes) >= len(self.rows) and not self.result.done():
            self.result.set_result(self.outcomes)

    def refuse_next(
        self, message: str, *, advice: str = "resend the item", is_in_doubt: bool = False
    ) -> None:
        """Set the next outcome to 503, which later items with the same key get as well."""
        key = self.keys[len(self.outcomes)]
        if key != 0:
            self.batch.refused_keys.add(key)
        self.solo_rows = max(0, self.solo_rows - 1)
        is_in_doubt |= self.batch.is_still_running or len(self.outcomes) < self.in_doubt
        if is_in_doubt and (key == 0 or self.batch.mode is Mode.CREATE):
            advice = (
                "it may have been created anyway; resend the whole batch with"
                f" {IDEMPOTENCY_HEADER}: {self.batch.key}"
            )
        self.add([Outcome(key, 503, f"{message}; {advice}.")])

    def refuse_rest(self, message: str) -> None:
        """Set all missing outcomes to 503."""
        for _ in range(len(self.outcomes), len(self.rows)):
            self.refuse_next(message)
