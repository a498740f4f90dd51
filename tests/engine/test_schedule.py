"""Who goes next: the rules of the schedule, under any mixture of batches and of what befalls them.

The writer and its schedule are real, the database is not, and time is virtual.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.engine.databases import Pool
from service.engine.rows import Batch, BatchKeys, Mode, RowChunk
from service.engine.schedule import (
    MAX_LONG_LOCK_WAITS,
    REDUCED_ROWS,
    RESERVED_SLOT_SECONDS,
    SLOTS,
    SMALL_ITEMS,
    Scheduler,
)
from service.engine.statement import MAX_PLACE_SPAN, SHORT_LOCK_TIMEOUT, Statement
from service.engine.writer import Writer
from service.wire import Outcome
from tests.engine.batches import make_batch
from tests.engine.fake_database import FakeDatabase, Place, Sent, Task, VirtualLoop, row

MOST_LONE = 2

FEW_KEYS = st.integers(1, 6)
run_keys = st.one_of(
    st.lists(FEW_KEYS, min_size=1, max_size=5),
    st.lists(FEW_KEYS | st.just(0), min_size=1, max_size=5),
    st.integers(1, 20).map(lambda size: list(range(3, 3 + size))),
)
states = st.text("cues", min_size=1, max_size=4) | st.text("cuesf", min_size=1, max_size=9)
TRANSIENT = ["55P03", "40P01", "53100", "XX000"]


class NotEncoded(asyncpg.DataError):
    severity = None


ERRORS = {
    "took too long": asyncpg.QueryCanceledError,
    "no answer in time": TimeoutError,
    "cut": ConnectionResetError,
    "not migrated": asyncpg.UndefinedTableError,
    "internal error": asyncpg.InternalServerError,
    "not encodable": NotEncoded,
    "a fault of ours": RuntimeError,
}


class Chunks(deque[RowChunk]):
    """The runs of a batch that are not dealt with, and all that ever were among them."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[RowChunk] = []

    def append(self, chunk: RowChunk) -> None:
        super().append(chunk)
        self.all.append(chunk)


@dataclass(eq=False)
class Sender:
    """A client, its batch, and what it was told."""

    number: int
    batch: Batch
    later: list[list[int]]
    """The keys of the runs that are not yet handed over."""
    tasks: list["asyncio.Task[list[Outcome]]"] = field(default_factory=list)
    is_gone: bool = False
    waits_since: float = 0
    """Its place in the queue: from when it was added, or had its turn last."""
    passed_by: int = 0
    """Statements of others that began since it last had one at work."""

    def __post_init__(self) -> None:
        self.batch.chunks = Chunks()

    def __repr__(self) -> str:
        return f"sender {self.number}"

    @property
    def chunks(self) -> list[RowChunk]:
        assert isinstance(self.batch.chunks, Chunks)
        return self.batch.chunks.all

    @property
    def is_waiting(self) -> bool:
        return not all(task.done() for task in self.tasks)

    def undealt(self, chunk: RowChunk) -> list[int]:
        return chunk.keys[len(chunk.outcomes) :]

    def head(self, *, commutes: bool) -> RowChunk | None:
        """Return the run that may start next."""
        for chunk in self.batch.chunks:
            undealt = self.undealt(chunk)
            if undealt and not chunk.running_rows:
                return chunk
            if not commutes or chunk.running_rows < len(undealt) or chunk.has_receipts:
                return None
        return None


class Beginning(NamedTuple):
    """What was the case when a statement began."""

    turn: int
    believed: bool
    """Whether rows of different keys were believed to commute."""
    over: set[int]
    """The batches that were over."""
    refused: list[frozenset[int]]
    """By batch, the keys that had got 503."""


class WatchedWriter(Writer):
    """Tells which tasks execute a statement; one that waits for its run may do so, too."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.executing: set[Task] = set()

    async def _execute(self, statement: Statement) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.executing.add(task)
        try:
            await super()._execute(statement)
        finally:
            self.executing.discard(task)


class Senders(RuleBasedStateMachine):
    """Clients that send batches, hang up, and a database to which everything happens."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.database = FakeDatabase(max_size=SLOTS + MOST_LONE)
        self.database.is_asked = self.note_begun  # type: ignore[method-assign]
        self.database.has_begun = self.look_at  # type: ignore[method-assign]
        self.writer = self.runner.run(self.made())
        self.senders: list[Sender] = []
        self.turns = 0
        self.begun: dict[Task, Beginning] = {}
        self.looked_at: set[Task] = set()
        self.sent_twice: set[Place] = set()
        self.applied: set[Place] = set()
        self.violations: list[str] = []

    async def made(self) -> WatchedWriter:
        return WatchedWriter(self.database)

    # What happens

    @rule(
        user=st.sampled_from(["ann", "bob"]),
        caller=st.sampled_from(["x", "y"]),
        chunks=st.lists(run_keys, min_size=1, max_size=4),
        handed=st.integers(1, 3),
        mode=st.sampled_from(Mode),
    )
    def send(
        self,
        user: str,
        caller: str,
        chunks: list[list[int]],
        handed: int,
        mode: Mode = Mode.UPSERT,
    ) -> None:
        async def read_keys_and_digest() -> BatchKeys:
            return BatchKeys([key for keys in chunks for key in keys if key], uuid.uuid4())

        number = len(self.senders)
        batch = Batch(
            database="fake",
            caller=caller,
            user=user,
            activity_id=f"{number}",
            key=f"{number}",
            read_keys_and_digest=read_keys_and_digest,
            is_gone=lambda: sender.is_gone,
            mode=mode,
            has_more=len(chunks) > 1,
        )
        sender = Sender(number, batch, list(chunks))
        self.senders.append(sender)
        for _ in range(min(handed, len(chunks))):
            self.hand(sender)

    def hand(self, sender: Sender) -> None:
        """Hand over the next run of a batch."""
        keys = sender.later.pop(0)
        places = [Place(sender.number, len(sender.tasks), at) for at in range(len(keys))]
        rows = [row(key, place) for key, place in zip(keys, places, strict=True)]
        first = 3000 * len(sender.tasks)

        async def apply() -> None:
            if not sender.is_waiting:
                self.turns += 1
                sender.waits_since = self.turns
                sender.passed_by = 0
            task = asyncio.create_task(
                self.writer.apply(sender.batch, rows, range(first, first + len(rows)))
            )
            sender.tasks.append(task)

        self.run(apply())

    @precondition(lambda self: any(sender.later for sender in self.senders))
    @rule(data=st.data())
    def hand_over_more(self, data: st.DataObject) -> None:
        sender = data.draw(st.sampled_from([s for s in self.senders if s.later]))
        self.hand(sender)

    @precondition(lambda self: self.database.running)
    @rule(data=st.data(), states=states)
    def succeed(self, data: st.DataObject, states: str) -> None:
        self.finish(data.draw(self.statements), states)

    @precondition(lambda self: self.database.running)
    @rule(data=st.data(), states=states, stopped=st.none() | st.sampled_from(TRANSIENT))
    def stop(self, data: st.DataObject, states: str, stopped: str | None) -> None:
        sent = data.draw(self.statements)
        # Without a reason it stops only after a while, so not before the first.
        least = 0 if stopped is not None else 1
        size = data.draw(st.integers(least, max(least, len(sent.rows) - 1)))
        self.finish(sent, states, size=size, stopped=stopped if size < len(sent.rows) else None)

    @precondition(lambda self: self.database.running)
    @rule(data=st.data(), error=st.sampled_from(sorted(ERRORS)))
    def fail(self, data: st.DataObject, error: str) -> None:
        sent = data.draw(self.statements)
        self.sent_twice.update(sent.places)
        sent.answer.set_exception(ERRORS[error]("of the test"))
        self.pass_time()

    @precondition(lambda self: any(sender.is_waiting for sender in self.senders))
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([s for s in self.senders if s.is_waiting])).is_gone = True

    @rule(refusals=st.integers(1, 8))
    def be_out_of_reach(self, refusals: int) -> None:
        self.database.refusals = refusals

    @rule()
    def change_the_table(self) -> None:
        self.database.commutes = not self.database.commutes

    @rule()
    def pass_time(self) -> None:
        self.run(asyncio.sleep(0.1))

    @property
    def believes_commuting(self) -> bool:
        return self.writer._scheduler.commutes

    @property
    def statements(self) -> st.SearchStrategy[Sent]:
        return st.sampled_from(self.database.running)

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        async def settle() -> None:
            await work
            for _ in range(20):
                await asyncio.sleep(0)

        self.runner.run(settle())

    def finish(
        self, sent: Sent, states: str = "c", *, size: int | None = None, stopped: str | None = None
    ) -> None:
        """Answer a statement, and note what it did."""
        size = self.database.succeed(sent, states, size=size, stopped=stopped)
        self.note_applied(sent.places[:size])
        self.run(asyncio.sleep(0))

    def note_applied(self, places: list[Place]) -> None:
        """Note items that a statement dealt with, before the writer knows."""
        twice = self.applied.intersection(places) - self.sent_twice
        self.violations += [f"{place} is applied twice" for place in twice]
        self.applied.update(places)
        for chunk, group in groupby(places, lambda place: place[:2]):
            sender = self.senders[chunk[0]]
            positions = [place.position for place in group]
            first = len(sender.chunks[chunk[1]].outcomes)
            if positions != list(range(first, first + len(positions))):
                self.violations.append(f"{positions} are applied where {first} is next")
            keys = set(sender.chunks[chunk[1]].keys[first : first + len(positions)]) - {0}
            for earlier in sender.chunks[: chunk[1]]:
                undealt = set(sender.undealt(earlier))
                if not keys.isdisjoint(undealt) or (undealt and not self.database.commutes):
                    self.violations.append(f"chunk {chunk} is applied before another of its batch")

    # What must hold when a statement begins

    def note_begun(self, task: Task) -> None:
        """A statement wants a connection."""
        if task in self.begun:
            return
        self.turns += 1
        # One that waits out a retry may hold a key that others wait for.
        counts = not self.some_are_away
        for sender in self.senders:
            is_at_work = any(chunk.running_rows for chunk in sender.chunks)
            sender.passed_by = 0 if is_at_work else sender.passed_by + counts
        over = {s.number for s in self.senders if s.is_gone or s.batch.given_up}
        refused = [frozenset(sender.batch.refused_keys) for sender in self.senders]
        self.begun[task] = Beginning(self.turns, self.believes_commuting, over, refused)

    def look_at(self, sent: Sent) -> None:
        """A statement has come, perhaps again."""
        if sent.task in self.looked_at:
            return
        self.looked_at.add(sent.task)
        beginning = self.begun[sent.task]
        chunks = {place[:2]: self.senders[place.batch].chunks[place.chunk] for place in sent.places}
        senders = [self.senders[number] for number in dict.fromkeys(b for b, _ in chunks)]
        self.violations += self.broken_rules(sent, beginning, senders, list(chunks.values()))
        for at, sender in enumerate(senders):
            sender.waits_since = beginning.turn + at / len(self.senders)

    @property
    def some_are_away(self) -> bool:
        """Whether some statements are at work that the database does not see."""
        seen = {sent.task for sent in self.database.running}
        return not (self.begun.keys() & self.writer.executing) <= seen

    def broken_rules(
        self, sent: Sent, beginning: Beginning, senders: list[Sender], chunks: list[RowChunk]
    ) -> Iterator[str]:
        """Yield what is wrong with a statement that begins."""
        if len(sent.rows) > self.database.statement_rows:
            yield f"{len(sent.rows)} rows in one statement"
        if len(senders) != len(chunks) and not beginning.believed:
            yield "two runs of a batch in one statement where rows do not commute"
        if {sender.batch.user for sender in senders} != {sent.user}:
            yield "users share a statement"
        if {sender.batch.mode for sender in senders} != {sent.mode}:
            yield "modes share a statement"
        if 0 in sent.keys or sent.mode is Mode.CREATE:
            if len(chunks) > 1:
                yield "a batch with receipts shares a statement"
            created = [
                senders[0].chunks[place.chunk].places[place.position]
                for place, key in zip(sent.places, sent.keys, strict=True)
                if key == 0 or sent.mode is Mode.CREATE
            ]
            if sent.request_places != created:
                yield f"receipts of {sent.request_places} for {created}"
            if sent.request_places[-1] - sent.request_places[0] >= MAX_PLACE_SPAN:
                yield "places too far apart for receipts"
            if (
                sum(chunk.running_rows > 0 and chunk.has_receipts for chunk in senders[0].chunks)
                > 1
            ):
                yield "receipts beside another run of its batch that has some"
        if sent.must_commute != (
            beginning.believed and any(sender.batch.has_more for sender in senders)
        ):
            yield f"must_commute is {sent.must_commute}"
        for sender in senders:
            if sender.number in beginning.over:
                yield "a batch that is over goes on"
            first = next(chunk for chunk in sender.chunks if sender.undealt(chunk))
            if not beginning.believed and first not in chunks:
                yield "a run starts before those in front where rows do not commute"
        for place, key in zip(sent.places, sent.keys, strict=True):
            if key in beginning.refused[place.batch]:
                yield f"{place} goes on, though its key {key} got 503"
        for chunk in chunks:
            alone = chunk.solo_rows > 0
            if alone and len(sent.rows) > 1:
                yield "one that goes alone does not"
            waits_long = alone and chunk.batch.consecutive_rejections < MAX_LONG_LOCK_WAITS
            if (sent.lock_timeout != SHORT_LOCK_TIMEOUT) != waits_long:
                yield f"lock timeout of {sent.lock_timeout}"

    # What must hold at any time

    @invariant()
    def no_rule_is_broken(self) -> None:
        assert self.violations == []

    @invariant()
    def no_key_is_in_two_statements_at_work(self) -> None:
        taken: set[int] = set()
        for sender in self.senders:
            for chunk in sender.chunks:
                keys = set(sender.undealt(chunk)[: chunk.running_rows]) - {0}
                assert taken.isdisjoint(keys)
                taken |= keys

    @invariant()
    def only_so_many_statements_are_at_work(self) -> None:
        lone = [sent for sent in self.database.running if self.is_solo(sent)]
        others = [sent for sent in self.database.running if not self.is_solo(sent)]
        assert len(lone) <= MOST_LONE
        assert len(others) <= SLOTS
        beginnings = sorted(self.begun[sent.task] for sent in others)
        assert all(beginning.believed for beginning in beginnings[1:])

    @invariant()
    def whoever_could_start_has(self) -> None:
        if self.some_are_away:
            return
        lone = sum(self.is_solo(sent) for sent in self.database.running)
        slots = SLOTS if self.believes_commuting else 1
        taken = {key for sent in self.database.running for key in sent.keys} - {0}
        for sender in sorted(self.senders, key=lambda sender: sender.waits_since):
            head = sender.head(commutes=self.believes_commuting)
            if head is None:
                continue
            key = head.keys[len(head.outcomes)]
            # A run waits for all keys of those before it, as long as the first is not done.
            chunks = list(sender.batch.chunks)
            before = [chunk.named_keys for chunk in chunks[: chunks.index(head)]]
            is_free = not any(key in keys for keys in (taken, sender.batch.refused_keys, *before))
            has_room = (
                lone < MOST_LONE if head.solo_rows else len(self.database.running) - lone < slots
            )
            # One slot may be kept for small batches.
            is_large = len(head.rows) > SMALL_ITEMS or sender.batch.has_more
            may_wait = is_large and any(
                len(sent.rows) > SMALL_ITEMS for sent in self.database.running
            )
            # That a client has hung up is noticed when the next statement begins.
            is_over = sender.is_gone or sender.batch.given_up
            assert not (is_free and has_room) or is_over or may_wait
            taken |= {key} - {0}

    def is_solo(self, sent: Sent) -> bool:
        place = sent.places[0]
        return self.senders[place.batch].chunks[place.chunk].solo_rows > 0

    # What must hold in the end

    def teardown(self) -> None:
        try:
            self.database.refusals = 0
            self.end_well()
            assert self.violations == []
            for sender in self.senders:
                self.check_answers(sender)
        finally:
            self.run(self.writer.close())
            self.runner.close()

    def end_well(self) -> None:
        """Let everything succeed, the oldest statement first; nobody waits for long."""
        waiting = sum(len(s.undealt(chunk)) for s in self.senders for chunk in s.chunks)
        for _ in range(waiting + 2 * len(self.senders) + 10):
            # Before more begins, so that nobody waits out a retry while the others have turns.
            if self.some_are_away or not self.database.running:
                self.run(asyncio.sleep(30))
            else:
                self.finish(self.database.running[0])
            patient = [s for s in self.senders if s.is_waiting and not s.batch.given_up]
            for sender in patient:
                assert sender.passed_by <= 2 * len(self.senders) + 2 * (SLOTS + MOST_LONE)
            if not any(sender.is_waiting for sender in self.senders):
                return
        raise AssertionError("some wait for ever")

    def check_answers(self, sender: Sender) -> None:
        refused: set[int] = set()
        for number, (chunk, task) in enumerate(zip(sender.chunks, sender.tasks, strict=True)):
            outcomes = task.result()
            assert len(outcomes) == len(chunk.keys)
            for position, (key, outcome) in enumerate(zip(chunk.keys, outcomes, strict=True)):
                place = Place(sender.number, number, position)
                assert outcome.key == key or (key == 0 and outcome.status == 201)
                assert (outcome.status == 503) or key not in refused
                assert place in self.applied or outcome.status in (500, 503)
                if outcome.status == 400:
                    assert outcome.body == str(place)
                if outcome.status == 503:
                    refused |= {key} - {0}
                    assert place not in self.applied or place in self.sent_twice


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep no records of all that befalls the batches."""
    caplog.set_level(logging.CRITICAL, "service")


def test_the_rules_hold_whatever_befalls_the_batches() -> None:
    run_state_machine_as_test(
        Senders,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )


@pytest.fixture
def senders() -> Iterator[Senders]:
    """Clients of which the test says what happens to them."""
    senders = Senders()
    yield senders
    senders.teardown()


def test_a_statement_takes_from_several_batches_as_many_as_fit(senders: Senders) -> None:
    for first in (1, 2, 3):
        senders.send("ann", "x", [[10 * first]], 1)
    blocking = senders.database.running[0]
    for first in (1, 2, 3):
        senders.send("ann", "x", [list(range(1000 * first, 1000 * first + 200))], 1)
    time.sleep(RESERVED_SLOT_SECONDS)

    senders.finish(blocking)

    (shared,) = (sent for sent in senders.database.running if len(sent.rows) > 1)
    # Not a hundred rows of the third, which would then be two.
    assert shared.keys[-400:] == [*range(1000, 1200), *range(2000, 2200)]


def test_a_run_that_is_too_large_goes_on_after_the_others_had_their_turn(
    senders: Senders,
) -> None:
    senders.send("ann", "x", [list(range(1000, 2200))], 1)
    senders.send("bob", "x", [[1]], 1)
    senders.send("ann", "x", [[2]], 1)
    time.sleep(RESERVED_SLOT_SECONDS)

    begun = []
    while senders.database.running:
        (first, *_) = senders.database.running
        begun.append(first.keys)
        senders.finish(first)

    assert [len(keys) for keys in begun] == [500, 1, 500, 1, 200]


@pytest.mark.parametrize(
    ("states", "sizes"),
    [("fc", [500, 100, 100, 100, 100]), ("f" + 99 * "c", [500, 400])],
    ids=["half", "1%"],
)
def test_who_sends_many_items_that_fail_holds_a_slot_for_fewer(
    senders: Senders, states: str, sizes: list[int]
) -> None:
    senders.send("ann", "x", [list(range(1000, 1900))], 1)

    begun = []
    while senders.database.running:
        (first,) = senders.database.running
        begun.append(len(first.keys))
        senders.finish(first, states)

    assert begun == sizes


def test_an_item_alone_starts_behind_a_run_that_has_taken_the_last_slot(senders: Senders) -> None:
    senders.send("ann", "x", [[1, 1], [0]], 2)
    for sent in list(senders.database.running):
        senders.finish(sent, size=0, stopped="55P03")
    senders.send("ann", "x", [[3]], 1)
    (alone,) = filter(senders.is_solo, senders.database.running)

    senders.finish(alone)

    assert [sent.keys for sent in senders.database.running] == [[3], [1], [0]]
    senders.whoever_could_start_has()


async def test_large_batches_leave_room_for_small_ones_while_some_come() -> None:
    now = [0.0]
    scheduler = Scheduler(500, 1, 1000, lambda: now[0])

    def send(*keys: int) -> None:
        batch = make_batch()
        batch.chunks.append(RowChunk(batch, [(key,) for key in keys], range(len(keys))))
        scheduler.add(batch)

    def end(statement: Statement) -> None:
        for chunk, start, stop in statement.slices:
            chunk.add([Outcome(key, 200, "Updated") for key in chunk.keys[start:stop]])
        scheduler.finish(statement)

    def begin() -> Statement:
        statement = scheduler.next_statement()
        assert statement is not None
        return statement

    for first in (1000, 2000, 3000, 4000):
        send(*range(first, first + 500))
    large = [begin(), begin()]
    assert [len(each.keys) for each in large] == [500, 500]
    send(1)
    end(large[0])
    small = begin()
    assert small.keys == [1]
    end(small)
    assert scheduler.next_statement() is None
    end(large[1])
    assert begin().keys == list(range(3000, 3000 + REDUCED_ROWS))
    assert scheduler.next_statement() is None
    now[0] += RESERVED_SLOT_SECONDS
    assert len(begin().keys) == 500


def test_of_others_as_many_rows_go_as_ever_beside_one_who_must_wait(senders: Senders) -> None:
    senders.send("ann", "x", [[1, 2]], 1)
    senders.finish(senders.database.running[0], "f")
    senders.send("bob", "y", [[3]], 1)
    senders.send("ann", "x", [[3]], 1)
    time.sleep(RESERVED_SLOT_SECONDS)
    senders.send("bob", "y", [list(range(1000, 1400))], 1)

    assert [len(sent.keys) for sent in senders.database.running] == [1, 400]
