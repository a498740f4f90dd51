"""What a process takes on at once; beyond it, a request is refused at once instead of late."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from . import metrics
from .config import Server
from .problems import Problem

RETRY_AFTER_SECONDS = "2"

LARGE_BYTES = 65_536
LARGE_AT_ONCE = 4
"""Of the batches with larger bodies, so many are read and applied at once for each database and
the others wait their turn, unread: more at once would make each slower, and none faster."""


class Admission:
    """Counts the batches in work, and the bytes of their bodies, against the limits.

    Each of several workers takes its share of what the limits allow.
    """

    def __init__(self, settings: Server) -> None:
        self._max_batches = math.ceil(settings.max_batches_in_flight / settings.workers)
        share = settings.max_bytes_in_flight // settings.workers
        self._max_bytes = max(share, settings.max_body_bytes)
        self._max_wait_seconds = settings.max_queue_seconds
        self._batches: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._bytes = 0

    @contextmanager
    def batch(self, database: str) -> Iterator[None]:
        """Count a batch while it lasts. Raises Problem 503 when its database has too many.

        The limit holds for each database, so that one tenant cannot keep out another.
        """
        if self._batches[database] >= self._max_batches:
            raise _overloaded("Too many batches for this database are in work")
        self._batches[database] += 1
        try:
            with metrics.BATCHES_IN_FLIGHT.labels(database).track_inprogress():
                yield
        finally:
            self._batches[database] -= 1

    @asynccontextmanager
    async def turn(self, database: str, size: int | None) -> AsyncIterator[None]:
        """Wait until a body of this size, None where it was not told, may be read and applied.

        Raises Problem 503 when that takes too long.
        """
        if size is not None and size <= LARGE_BYTES:
            yield
            return
        turns = self._turns.setdefault(database, asyncio.Semaphore(LARGE_AT_ONCE))
        try:
            async with asyncio.timeout(self._max_wait_seconds):
                await turns.acquire()
        except TimeoutError:
            raise _overloaded("Too many batches wait for this database") from None
        try:
            yield
        finally:
            turns.release()

    def is_alone(self, database: str) -> bool:
        """Tell whether the database has one batch in work at most."""
        return self._batches[database] <= 1

    @contextmanager
    def body(self) -> Iterator["BodyBytes"]:
        """Count the bytes of a body while it is in memory."""
        body = BodyBytes(self)
        try:
            yield body
        finally:
            self._bytes -= body.counted

    def take(self, size: int) -> None:
        """Count bytes. Raises Problem 503 when all bodies together would be too large."""
        if self._bytes + size > self._max_bytes:
            raise _overloaded("Too many bytes of other batches are in work")
        self._bytes += size


class BodyBytes:
    """The part of one body in the count."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.counted = 0

    def grow_to(self, size: int) -> None:
        """Count the body as this large, if it was less. Raises Problem 503."""
        if size > self.counted:
            self._admission.take(size - self.counted)
            self.counted = size


def _overloaded(reason: str) -> Problem:
    return Problem(503, f"{reason}; send this one again.", {"Retry-After": RETRY_AFTER_SECONDS})
