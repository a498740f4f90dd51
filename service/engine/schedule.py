"""Chooses the rows of the next statement. No I/O.

A few slots take rows from each waiting batch in turn until a statement is full. A key that is
running is not taken, so items with the same key take effect in order. If rows of different keys do
not commute, there is one slot, and a chunk starts when the one before it has ended. An item that
must wait for somebody else's lock runs in a statement of its own ("solo"), outside the slots.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from itertools import dropwhile, islice, takewhile

from service.engine.reserved import NO_WINDOW, Window
from service.engine.rows import Batch, RowChunk
from service.engine.statement import (
    MAX_PLACE_SPAN,
    SHORT_LOCK_TIMEOUT,
    RowSlice,
    Statement,
)

SLOTS = 2
"""Maximum number of shared statements at a time, each on its own connection. More gained nothing on
two cores."""

SMALL_ITEMS = 50
RESERVED_SLOT_SECONDS = 0.05
"""After a batch with at most SMALL_ITEMS items arrived, larger statements leave one slot free for
this time and take fewer rows."""

MAX_LONG_LOCK_WAITS = 3
"""Number of lock timeouts of a batch after which its other items wait less long."""

UNSHARED_SECONDS = 1
"""Time for which a caller whose items failed in a shared statement shares no more."""

MANY_FAILURES = 0.1
"""Fraction of failed items from which such a caller's statements take fewer rows: a statement that
fails can take ten times as long."""

REDUCED_ROWS = 100
"""Maximum rows of a statement that others are waiting for."""


class Scheduler:
    """The waiting batches and the running statements of one database.

    ``statement_rows``: rows of one statement at most; ``max_solo``: how many items may run alone at
    once, beside the slots; ``long_lock_timeout``: how long such an item waits for a lock, in
    milliseconds. ``commutes`` is a guess that costs nothing when wrong: a statement that relies on
    it makes sure. ``is_distributed``: on Citus.
    """

    def __init__(
        self,
        statement_rows: int,
        max_solo: int,
        long_lock_timeout: int,
        now: Callable[[], float] = time.monotonic,
        *,
        is_distributed: bool = False,
    ) -> None:
        self._statement_rows = statement_rows
        # A statement goes to many servers: fewer rows would save nothing, and one that fails costs
        # more than to apply its rows one after another.
        self._reduced_rows = statement_rows if is_distributed else min(statement_rows, REDUCED_ROWS)
        self._is_cautious = is_distributed
        self.commutes = True
        self.last_assigned = 0
        self._max_solo = max_solo
        self._long_lock_timeout = f"{long_lock_timeout}ms"
        self._now = now
        self._queue: deque[Batch] = deque()
        self._running: set[Statement] = set()
        self._solo = 0
        self._has_solo = False
        self._unshared_until: dict[str, float] = {}
        self._is_slow: dict[str, bool] = {}
        self._slot_reserved_until = 0.0

    def add(self, batch: Batch) -> None:
        """Enqueue a batch that has pending rows."""
        if batch not in self._queue:
            self._queue.append(batch)
        if _is_small(batch):
            self._slot_reserved_until = self._now() + RESERVED_SLOT_SECONDS

    def next_statement(self) -> Statement | None:
        """Return the next statement that can start now, or None; it counts as running."""
        has_slot = self.slots_in_use < (SLOTS if self.commutes else 1)
        if not has_slot and not self._has_solo:
            return None
        self._forget_the_done()
        large = sum(len(statement.keys) > SMALL_ITEMS for statement in self._running)
        is_slot_reserved = large > 0 and self._awaits_small
        statement = self._next(has_slot=has_slot, may_be_large=not is_slot_reserved)
        if statement is not None:
            self._running.add(statement)
            self._solo += statement.is_solo
            for chunk, start, end in statement.slices:
                chunk.running_rows = end - start
                # To the end of the queue: the others have their turn first.
                self._queue.remove(chunk.batch)
                self._queue.append(chunk.batch)
                self._update_solo(chunk.batch)
        return statement

    def finish(self, statement: Statement) -> None:
        """Release the statement's keys and requeue its unprocessed rows."""
        self._running.discard(statement)
        self._solo -= statement.is_solo
        for chunk, _, _ in statement.slices:
            chunk.running_rows = 0
            self._update_solo(chunk.batch)

    def _update_solo(self, batch: Batch) -> None:
        """Note whether the batch has a solo item that can start."""
        self._has_solo |= any(chunk.solo_rows for chunk in batch.chunks)

    @property
    def waiting_chunks(self) -> int:
        """Number of waiting chunks."""
        return sum(chunk.is_waiting for batch in self._queue for chunk in batch.chunks)

    @property
    def slots_in_use(self) -> int:
        """Number of running statements, except solo items."""
        return len(self._running) - self._solo

    @property
    def solo_running(self) -> int:
        """Number of running solo items."""
        return self._solo

    @property
    def _awaits_small(self) -> bool:
        """Return whether more small batches are expected."""
        return self._now() < self._slot_reserved_until

    def give_up(self, message: str) -> None:
        """Fail all waiting batches after an outage."""
        for batch in self._queue:
            batch.give_up(message)

    def unshare(self, batch: Batch, failures: float) -> None:
        """Stop sharing statements with this caller for a while.

        ``failures``: the fraction of its items that failed.
        """
        self._unshared_until[batch.caller] = self._now() + UNSHARED_SECONDS
        self._is_slow[batch.caller] = failures >= MANY_FAILURES

    def _next(self, *, has_slot: bool, may_be_large: bool) -> Statement | None:
        self._has_solo = False
        slices: list[RowSlice] = []
        # The keys that are running, and those that earlier batches wait for.
        taken: list[AbstractSet[int]] = [statement.named_keys for statement in self._running]
        room = self._statement_rows
        for batch in self._queue:
            chunk = self._head(batch)
            if chunk is None:
                continue
            has_turn = has_slot and (may_be_large or _is_small(batch))
            may_start = has_turn and room > 0 and not batch.is_preparing
            if chunk.solo_rows:
                self._has_solo = True
                if not slices and self._may_run_alone(chunk, taken):
                    return self._solo_statement(chunk)
            elif may_start and (not slices or self._may_share(slices, chunk, room)):
                if not slices:
                    room = self._room(chunk.batch)
                row_slice = self._next_slice(chunk, taken, room)
                if row_slice is not None:
                    for each in [row_slice, *self._following_slices(row_slice, taken, room)]:
                        slices.append(each)
                        taken.append(each.chunk.named_keys_between(each.start, each.end))
                        room -= each.end - each.start
                    if not self._is_shareable(chunk):
                        room = 0
                    continue
            taken.append({chunk.keys[len(chunk.outcomes)]} - {0})
        if not slices:
            return None
        return Statement(
            slices,
            must_commute=self.commutes and any(s.chunk.batch.has_more for s in slices),
            window=self._window(slices[0].chunk),
            is_cautious=self._is_cautious and self._is_unshared(slices[0].chunk.batch),
        )

    def _head(self, batch: Batch) -> RowChunk | None:
        """Return the batch's first chunk that can start before earlier ones have ended."""
        for chunk in batch.chunks:
            if chunk.is_waiting:
                return chunk
            # One with receipts waits for the others of its request, which share them.
            is_whole = chunk.running_rows == len(chunk.rows) - len(chunk.outcomes)
            if not self.commutes or not is_whole or chunk.has_receipts:
                return None
        return None

    def _next_slice(
        self, chunk: RowChunk, taken: list[AbstractSet[int]], room: int
    ) -> RowSlice | None:
        """Return the chunk's first rows whose keys are free; None if the first key is not."""
        start = len(chunk.outcomes)
        end = min(len(chunk.rows), start + room)
        if chunk.has_receipts:
            first = chunk.places[start]
            while chunk.places[end - 1] - first >= MAX_PLACE_SPAN:
                end -= 1
        earlier = takewhile(lambda other: other is not chunk, chunk.batch.chunks)
        forbidden = [*taken, chunk.batch.refused_keys, *(other.named_keys for other in earlier)]
        if not all(chunk.named_keys.isdisjoint(keys) for keys in forbidden):
            for position in range(start, end):
                if any(chunk.keys[position] in keys for keys in forbidden):
                    end = position
                    break
        return RowSlice(chunk, start, end) if end > start else None

    def _following_slices(
        self, row_slice: RowSlice, taken: list[AbstractSet[int]], room: int
    ) -> Iterator[RowSlice]:
        """Yield the batch's following chunks, as long as they fit completely."""
        behind = dropwhile(lambda other: other is not row_slice.chunk, row_slice.chunk.batch.chunks)
        for chunk in islice(behind, 1, None):
            room -= row_slice.end - row_slice.start
            ends_its_run = row_slice.end == len(row_slice.chunk.rows)
            is_next = ends_its_run and self.commutes and chunk.is_waiting and not chunk.solo_rows
            if (
                not is_next
                or not self._is_shareable(row_slice.chunk)
                or not self._is_shareable(chunk)
            ):
                return
            following = self._next_slice(chunk, taken, room)
            if following is None or following.end < len(chunk.rows):
                return
            yield following
            row_slice = following

    def _may_share(self, slices: list[RowSlice], chunk: RowChunk, room: int) -> bool:
        # Do not split a large chunk across two statements.
        fits = len(chunk.rows) - len(chunk.outcomes) <= room
        batch, first = chunk.batch, slices[0].chunk.batch
        is_alike = batch.user == first.user and batch.mode is first.mode
        return fits and is_alike and self._is_shareable(chunk)

    def _is_shareable(self, chunk: RowChunk) -> bool:
        return not chunk.has_receipts and not self._is_unshared(chunk.batch)

    def _is_unshared(self, batch: Batch) -> bool:
        until = self._unshared_until.get(batch.caller)
        return until is not None and until >= self._now()

    def _room(self, batch: Batch) -> int:
        """Return the maximum number of rows of a statement that begins with this batch."""
        is_slow = self._is_unshared(batch) and self._is_slow[batch.caller]
        is_awaited = not _is_small(batch) and self._awaits_small
        return self._reduced_rows if is_slow or is_awaited else self._statement_rows

    def _may_run_alone(self, chunk: RowChunk, taken: list[AbstractSet[int]]) -> bool:
        key = chunk.keys[len(chunk.outcomes)]
        return self._solo < self._max_solo and not any(key in keys for keys in taken)

    def _solo_statement(self, chunk: RowChunk) -> Statement:
        start = len(chunk.outcomes)
        waits_long = chunk.batch.consecutive_rejections < MAX_LONG_LOCK_WAITS
        return Statement(
            [RowSlice(chunk, start, start + 1)],
            must_commute=self.commutes and chunk.batch.has_more,
            is_solo=True,
            lock_timeout=self._long_lock_timeout if waits_long else SHORT_LOCK_TIMEOUT,
            window=self._window(chunk),
        )

    def _window(self, chunk: RowChunk) -> Window:
        if chunk.batch.reserved is None:
            return NO_WINDOW
        return chunk.batch.reserved.around(self.last_assigned)

    def _forget_the_done(self) -> None:
        """Fail rows that will not be tried, and drop finished batches."""
        for batch in list(self._queue):
            if batch.is_gone():
                batch.give_up("The client disconnected")
            for chunk in batch.chunks:
                if batch.given_up is not None and chunk.is_waiting:
                    chunk.refuse_rest(batch.given_up)
            while batch.chunks:
                chunk = batch.chunks[0]
                if chunk.is_waiting and chunk.keys[len(chunk.outcomes)] in batch.refused_keys:
                    chunk.refuse_next(
                        "Not attempted: an earlier item with the same key got 503",
                        advice="resend both in order",
                    )
                elif len(chunk.outcomes) < len(chunk.rows):
                    break
                else:
                    batch.chunks.popleft()
            if not batch.chunks:
                self._queue.remove(batch)


def _is_small(batch: Batch) -> bool:
    return not batch.has_more and len(batch.chunks[0].rows) <= SMALL_ITEMS
