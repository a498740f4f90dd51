"""One statement: row slices sent together, and the outcome of each row."""

from collections.abc import Sequence
from itertools import chain, repeat
from typing import NamedTuple, Self

import asyncpg

from service.engine.databases import PooledConnection
from service.engine.reserved import NO_WINDOW, Window
from service.engine.retrying import CONNECTION_LOST
from service.engine.rows import Mode, Row, RowChunk
from service.engine.sqlstates import TRANSIENT_ARRAY
from service.wire import IDEMPOTENCY_HEADER, INT32, Outcome

MAX_PLACE_SPAN = 2048
"""Maximum distance in the request between the items of one statement; the lookup of receipts relies
on it (sql/functions/care_case_clinical_trial_find_receipts.sql)."""

SHORT_LOCK_TIMEOUT = "80ms"
"""lock_timeout of a statement that holds others' rows: less than deadlock_timeout, so that waiting
in a circle ends before PostgreSQL kills one of them."""

CREATED, UPDATED, DELETED = "Created", "Updated", "Deleted"
SUPPRESSED = "A database trigger suppressed the write."
DELETE_SUPPRESSED = "A database trigger prevented the deletion."
NEWER_STORED = "A newer record is stored: its update_Date is later."
EXISTS = "A record with this key already exists."
OTHER_BODY = f"This {IDEMPOTENCY_HEADER} was already used with a different body."
NOT_FOUND = "No record has this key."


RECEIPTS = "care_case_clinical_trial_receipt"
"""The table whose name in an error shows that no item caused it."""


class Answer(NamedTuple):
    """The function's result; its file in sql/functions/ describes the fields."""

    states: str
    commutes: bool
    is_by_key: bool
    assigned: Sequence[int | None]
    sqlstates: Sequence[str]
    messages: Sequence[str]
    columns: Sequence[str]
    stopped: str | None
    beyond: int | None

    @classmethod
    def from_record(cls, record: asyncpg.Record) -> Self:
        """Return the function's result; an empty array can be null in the record."""
        states, commutes, is_by_key, assigned, sqlstates, messages, columns, stopped, beyond = (
            record
        )
        return cls(
            states, commutes, is_by_key,
            assigned or (), sqlstates or (), messages or (), columns or (),
            stopped, beyond,
        )  # fmt: skip


class Applied(NamedTuple):
    """Result of a statement: outcomes of the first items, and why it stopped before the others.

    ``stopped``: the SQLSTATE for which it left the next item; ``commutes``: whether rows of
    different keys do; ``assigned``: the last key that it assigned.
    """

    outcomes: list[Outcome]
    stopped: str | None
    commutes: bool
    assigned: int | None
    has_failures: bool


class RowSlice(NamedTuple):
    """Rows of one chunk in a statement: ``chunk.rows[start:end]``."""

    chunk: RowChunk
    start: int
    end: int


class Statement:
    """Row slices of one caller's batches of one mode; of one batch alone with receipts."""

    def __init__(
        self,
        slices: Sequence[RowSlice],
        *,
        must_commute: bool,
        is_solo: bool = False,
        lock_timeout: str = SHORT_LOCK_TIMEOUT,
        window: Window = NO_WINDOW,
        is_cautious: bool = False,
    ) -> None:
        """``is_cautious``: apply the rows one at a time, because one is expected to fail."""
        self.slices = slices
        self.is_solo = is_solo
        self._must_commute = must_commute
        self._lock_timeout = lock_timeout
        self._window = window
        if len(slices) == 1:
            ((chunk, start, end),) = slices
            self.keys: list[int] = chunk.keys[start:end]
            self._rows: list[Row] = chunk.rows[start:end]
            self.named_keys = chunk.named_keys_between(start, end)
        else:
            self.keys = list(chain.from_iterable(chunk.keys[a:b] for chunk, a, b in slices))
            self._rows = list(chain.from_iterable(chunk.rows[a:b] for chunk, a, b in slices))
            self.named_keys = set(self.keys)
        self._is_cautious = is_cautious
        self.batch = slices[0].chunk.batch
        repeated = len(self.keys) - len(self.named_keys)
        key_zero = self.keys.count(0) if repeated else 0
        self._has_receipts = key_zero > 0 or self.batch.mode is Mode.CREATE
        self._is_distinct = repeated == key_zero and not is_cautious

    def sequential_cause(self, applied: Applied) -> str | None:
        """Return why its items were tried one at a time; None if they were not."""
        if self.is_solo:
            return "solo"
        if applied.has_failures or applied.stopped is not None or self._is_cautious:
            return "failure"
        if not applied.commutes:
            return "table"
        if len(self.keys) > 1 and not self.batch.mode.is_set_based:
            return "mode"
        return None if self._is_distinct else "keys"

    async def run(
        self, query: str, connection: PooledConnection, deadline: float, seconds: float
    ) -> Applied:
        """Send it, as the query APPLY; it undoes itself past the deadline.

        After so many seconds it is canceled.
        """
        keys = self.keys
        rows, sequence, request = self._rows, None, None
        if self._has_receipts:
            ((chunk, start, end),) = self.slices
            places = chunk.places[start:end]
            if self.named_keys and self.batch.mode is not Mode.CREATE:
                places = [place for place, key in zip(places, keys, strict=True) if not key]
                # Key-0 items come first.
                keys = [key or INT32[0] - 1 for key in keys]
            batch = self.batch
            request = (batch.request_id, batch.digest, _ranges(places), *self._window)
        ordered = sorted(keys)
        if ordered != keys:
            order = sorted(range(len(keys)), key=keys.__getitem__)
            rows = [rows[at] for at in order]
            positions = sorted(range(len(order)), key=order.__getitem__)
            sequence = [position + 1 for position in positions]
        try:
            ((record,),) = await connection.fetch(
                query,
                rows,
                sequence,
                self.batch.user,
                self._is_distinct,
                request,
                deadline,
                self._lock_timeout,
                TRANSIENT_ARRAY,
                self._must_commute,
                self.batch.mode,
                timeout=seconds,
            )
        except CONNECTION_LOST:
            for chunk, _, end in self.slices:
                chunk.in_doubt = end
            raise
        answer = Answer.from_record(record)
        return self._read(answer, order if sequence and answer.is_by_key else None)

    def _read(self, answer: Answer, order: list[int] | None) -> Applied:
        states = answer.states
        keys = self.keys
        if not states.strip("u"):
            outcomes = list(map(Outcome, keys[: len(states)], repeat(200), repeat(UPDATED)))
        elif not states.strip("c"):
            outcomes = list(map(Outcome, keys[: len(states)], repeat(201), repeat(CREATED)))
        elif not states.strip("k"):
            outcomes = list(map(Outcome, answer.assigned, repeat(201), repeat(CREATED)))
        else:
            if order is not None:
                by_position = dict(zip(order, states, strict=True))
                states = "".join(by_position[at] for at in range(len(order)))
            outcomes = self._outcomes(states, answer)
        assigned = answer.beyond or (answer.assigned[-1] if "k" in states else None)
        has_failures = "f" in states
        return Applied(outcomes, answer.stopped, answer.commutes, assigned, has_failures)

    def _outcomes(self, states: str, answer: Answer) -> list[Outcome]:
        assigned = (key for key in answer.assigned if key is not None)
        errors = zip(answer.sqlstates, answer.messages, answer.columns, strict=True)
        owners = chain.from_iterable(
            zip(repeat(chunk), range(start, end), strict=False) for chunk, start, end in self.slices
        )
        outcomes = []
        for state, key, (chunk, position) in zip(states, self.keys, owners, strict=False):
            match state:
                case "u" | "e":
                    outcomes.append(Outcome(key, 200, UPDATED))
                case "c":
                    outcomes.append(Outcome(key, 201, CREATED))
                case "k":
                    outcomes.append(Outcome(next(assigned), 201, CREATED))
                case "d":
                    outcomes.append(Outcome(key, 204, DELETED))
                case "a" if chunk.batch.mode is Mode.DELETE and position < chunk.in_doubt:
                    # An attempt whose reply was lost may have deleted it.
                    outcomes.append(Outcome(key, 204, DELETED))
                case "a":
                    outcomes.append(Outcome(key, 404, NOT_FOUND))
                case "x":
                    next(errors)
                    outcomes.append(Outcome(key, 409, EXISTS))
                case "o":
                    outcomes.append(Outcome(key, 422, OTHER_BODY))
                case "n":
                    outcomes.append(Outcome(key, 409, NEWER_STORED))
                case "s":
                    is_delete = chunk.batch.mode is Mode.DELETE
                    outcomes.append(
                        Outcome(key, 409, DELETE_SUPPRESSED if is_delete else SUPPRESSED)
                    )
                case _:
                    outcomes.append(chunk.batch.failed(key, *next(errors)))
        return outcomes


def _ranges(places: Sequence[int]) -> list["asyncpg.Range[int]"]:
    """Return ascending places as ranges: mostly one, which costs nothing to send."""
    first, last = places[0], places[-1]
    if last - first == len(places) - 1:
        return [asyncpg.Range(first, last + 1)]
    return [asyncpg.Range(place, place + 1) for place in places]
