"""A database whose statements end when and how the test says, and an event loop whose time does.

The writer and its schedule are the real ones. Every row tells in its comment whose it is.
"""

import asyncio
import selectors
from itertools import count
from typing import Any, NamedTuple, TypeAlias

from service.engine.databases import Pool, Session
from service.engine.rows import Row
from service.engine.statement import Answer
from service.statements import APPLY, in_schema
from service.wire import Item

COMMENT = Item.__struct_fields__.index("comment")
FIRST_DRAWN = 1_000_000


class Place(NamedTuple):
    """Where an item stands: in which batch, chunk of it, and place in that."""

    batch: int
    chunk: int
    position: int

    def __str__(self) -> str:
        return f"{self.batch}:{self.chunk}:{self.position}"


def row(key: int, place: Place) -> Row:
    """Return a row that tells its place."""
    values: list[Any] = [None] * len(Item.__struct_fields__)
    values[0] = key
    values[COMMENT] = str(place)
    return tuple(values)


Task: TypeAlias = "asyncio.Task[Any]"
"""A statement is one to the writer, with all its retries."""


def current_task() -> Task:
    task = asyncio.current_task()
    assert task is not None
    return task


class Sent:
    """A statement that the database works on, its rows in the order of the callers."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        rows, sequence, self.user, _is_distinct, request, _deadline, *rest = arguments
        self.lock_timeout, _transient, self.must_commute, self.mode = rest
        _id, _digest, ranges, *reserved = request or (None,) * 6
        self.reserved: list[Any] = reserved
        order = [at - 1 for at in sequence] if sequence is not None else range(len(rows))
        self.rows: list[Row] = [rows[at] for at in order]
        self.places = [_place(row) for row in self.rows]
        self.is_sorted = sequence is not None
        self.request_places = [
            place for each in ranges or () for place in range(each.lower, each.upper)
        ]
        self.task = current_task()
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"statement of {len(self.rows)} from {self.places[0]} to {self.places[-1]}"

    @property
    def keys(self) -> list[int]:
        return [row[0] for row in self.rows]


class FakeConnection:
    """Takes statements, and hands out what the test answers."""

    def __init__(self, database: "FakeDatabase") -> None:
        self.session = Session()
        self._database = database

    def get_server_pid(self) -> int:
        return 1

    async def close(self, *, timeout: float) -> None:  # noqa: ASYNC109
        pass

    def terminate(self) -> None:
        pass

    async def fetch(self, query: str, *arguments: Any, timeout: float) -> list[Any]:  # noqa: ASYNC109
        if query != in_schema(APPLY, "public"):
            # The end of a lost session.
            return [{"has_ended": True}]
        sent = Sent(arguments)
        self._database.running.append(sent)
        self._database.has_begun(sent)
        try:
            return [(await sent.answer,)]
        finally:
            self._database.running.remove(sent)


def _place(row: Row) -> Place:
    return Place(*map(int, row[COMMENT].split(":")))


class FakeDatabase(Pool):
    """A pool of connections to it; ``refusals`` of them are not to be had."""

    name = "fake"
    statement_seconds = 30
    is_shared_by_transaction = False
    is_exhausted = False
    statement_rows = 500
    is_distributed = False
    schema = "public"

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self.running: list[Sent] = []
        self.refusals = 0
        self.commutes = True
        self._drawn = count(FIRST_DRAWN)

    @property
    def max_size(self) -> int:
        return self._max_size

    async def acquire(self, timeout: float) -> Any:  # noqa: ASYNC109
        self.is_asked(current_task())
        if self.refusals:
            self.refusals -= 1
            raise ConnectionRefusedError
        return FakeConnection(self)

    async def release(self, connection: Any) -> None:
        pass

    async def close(self) -> None:
        pass

    async def expire_connections(self) -> None:
        pass

    def is_asked(self, task: Task) -> None:
        """Note that a connection is wanted: at once when a statement begins, and for each retry."""

    def has_begun(self, sent: Sent) -> None:
        """Note a statement that has come."""

    def succeed(
        self,
        sent: Sent,
        states: str = "",
        *,
        size: int | None = None,
        stopped: str | None = None,
    ) -> int:
        """Answer as the function does that dealt with the first items; return how many.

        ``states`` says how, again and again from its start, of items that name their key; of
        those that fail, the message is their place.
        """
        if sent.must_commute and not self.commutes:
            size, stopped = 0, None
        size = len(sent.rows) if size is None else size
        told, assigned, failed = "", [], []
        for at in range(size):
            state = (states or "c")[at % len(states or "c")]
            if sent.keys[at] == 0 and state in "cue":
                state = "k"
                assigned.append(next(self._drawn))
            if state == "f":
                failed.append(str(sent.places[at]))
            told += state
        is_by_key = sent.is_sorted and size == len(sent.rows) and not set(told) - set("cu")
        if is_by_key:
            order = sorted(range(size), key=sent.keys.__getitem__)
            told = "".join(told[at] for at in order)
        sent.answer.set_result(
            Answer(
                states=told,
                commutes=self.commutes,
                is_by_key=is_by_key,
                assigned=assigned,
                sqlstates=["23514"] * len(failed),
                messages=failed,
                columns=[""] * len(failed),
                stopped=stopped,
                beyond=None,
            )
        )
        return size


class _VirtualSelector(selectors.SelectSelector):
    """Waits in no time, and says how long it was."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing would ever happen again"
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeping takes no time."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now
