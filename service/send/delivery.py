"""Sends records to a service in batches: again what may be sent again, nothing else twice."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from itertools import islice
from typing import NamedTuple

from service.client import Answer, BatchRefused, Client, CouldNotSend
from service.send.progress import Progress
from service.send.records import Record, with_key
from service.wire import MultiCodeResponse

LONGEST_DELAY_SECONDS = 30
LONGEST_RETRY_AFTER_SECONDS = 600
"""A service that asks for more is left alone; another run goes on."""


class Pace(NamedTuple):
    """How much is sent at once, and how often again."""

    batch_size: int = 1000
    concurrency: int = 4
    retries: int = 6
    first_delay_seconds: float = 0.5
    """Before the first retry; doubled after every attempt, and jittered."""


class Sender:
    """Sends a file's records; ends early when told to stop, or when nothing can be sent."""

    def __init__(
        self,
        client: Client,
        progress: Progress,
        pace: Pace,
        stop: asyncio.Event,
        on_finished: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._progress = progress
        self._pace = pace
        self._stop = stop
        self._on_finished = on_finished
        self._failure: CouldNotSend | None = None
        self._in_flight: dict[asyncio.Task[None], set[int | None]] = {}

    async def send(self, records: Iterable[Record]) -> None:
        """Send all records that no earlier run has finished. Raises CouldNotSend, Unreadable."""
        batches = self._batches(records)
        try:
            # In a thread: standard input may keep the reader waiting.
            while not self._stop.is_set() and (
                batch := await asyncio.to_thread(next, batches, None)
            ):
                keys = {record.key for record in batch if record.is_repeatable}
                # Records with one key take effect in the order of the file: of two batches
                # at once the later might come first, so it waits for the earlier.
                while len(self._in_flight) >= self._pace.concurrency or not all(
                    keys.isdisjoint(others) for others in self._in_flight.values()
                ):
                    await self._wait(asyncio.FIRST_COMPLETED)
                if self._stop.is_set():
                    break
                self._in_flight[asyncio.create_task(self._deliver(batch))] = keys
        finally:
            if self._in_flight:
                await self._wait(asyncio.ALL_COMPLETED)
        if self._failure is not None:
            raise self._failure

    def _batches(self, records: Iterable[Record]) -> Iterator[list[Record]]:
        unfinished = (record for record in records if not self._progress.is_finished(record))
        while batch := list(islice(unfinished, self._pace.batch_size)):
            yield batch

    async def _wait(self, return_when: str) -> None:
        done, _ = await asyncio.wait(self._in_flight, return_when=return_when)
        for task in done:
            del self._in_flight[task]
        for task in done:
            task.result()

    async def _deliver(self, batch: list[Record]) -> None:
        delivery = _Delivery(self._client, self._progress, self._pace, self._stop)
        self._progress.begin(batch)
        try:
            await delivery.run(batch)
        except CouldNotSend as error:
            self._failure = self._failure or error
            self._stop.set()
        # Not when cancelled: what may have been sent then stays noted as begun.
        self._progress.end(batch, delivery.finished)
        self._on_finished()


class _Again(NamedTuple):
    """A record to be sent again, and what became of it; no status where that was not read."""

    record: Record
    status: int | None
    reason: str


class _Delivery:
    """One batch on its way; ``finished`` are its records whose fate is known and noted."""

    def __init__(self, client: Client, progress: Progress, pace: Pace, stop: asyncio.Event) -> None:
        self._client = client
        self._progress = progress
        self._pace = pace
        self._stop = stop
        self.finished: list[Record] = []

    async def run(self, batch: list[Record]) -> None:
        """Send the batch, and again what may be; what waits when told to stop stays unfinished.

        Raises CouldNotSend.
        """
        sendable = []
        for record in batch:
            if record.refusal is not None:
                self._finish(record, *record.refusal)
            elif self._progress.is_in_doubt(record) and not record.is_repeatable:
                self._doubt(record, "an earlier run was killed while it was sent")
            else:
                sendable.append(record)
        await self._send(sendable)

    async def _send(self, records: list[Record]) -> None:
        again: list[_Again] = []
        attempt, size = 0, len(records)
        while records:
            try:
                answer = await self._client.put([record.item for record in records])
            except CouldNotSend:
                self._leave(again)
                raise
            except BatchRefused as refused:
                await self._send_halves(records, refused)
                return
            again = self._sort_out(records, answer)
            if not again:
                return
            if attempt >= self._pace.retries or answer.retry_after > LONGEST_RETRY_AFTER_SECONDS:
                self._give_up(again, is_whole_batch=len(again) == size)
                return
            if await self._is_stopped_within(self._delay(attempt, answer.retry_after)):
                self._leave(again)
                return
            records = [record for record, _, _ in again]
            attempt += 1

    async def _send_halves(self, records: list[Record], refused: BatchRefused) -> None:
        """Find the records for which a batch is refused as a whole."""
        if len(records) == 1:
            self._finish(records[0], refused.status, refused.reason)
            return
        middle = len(records) // 2
        await self._send(records[:middle])
        if not self._stop.is_set():
            await self._send(records[middle:])

    def _sort_out(self, records: list[Record], answer: Answer) -> list[_Again]:
        """Finish the records whose fate is known; return those to be sent again, in order."""
        again: list[_Again] = []
        keys_again: set[int | None] = set()
        for record, outcome in zip(records, answer.outcomes, strict=False):
            # After one that is sent again those of its key are too: they would be overwritten.
            if outcome.status == HTTPStatus.SERVICE_UNAVAILABLE or record.key in keys_again:
                again.append(_Again(_rekeyed(record, outcome), outcome.status, outcome.body))
                if record.is_repeatable:
                    keys_again.add(record.key)
            else:
                self._finish(record, outcome.status, outcome.body)
        for record in records[len(answer.outcomes) :]:
            if answer.is_untouched or record.is_repeatable:
                again.append(_Again(record, None, answer.reason))
            else:
                self._doubt(record, answer.reason)
        return again

    def _give_up(self, again: list[_Again], *, is_whole_batch: bool) -> None:
        """End the attempts. Raises CouldNotSend, save where only some records are at fault."""
        if again[-1].status is None or is_whole_batch:
            self._leave(again)
            raise CouldNotSend(
                again[-1].reason if again[-1].status is None else "every record of a batch got 503"
            )
        for record, status, reason in again:
            self._finish(record, status, reason)

    def _leave(self, again: list[_Again]) -> None:
        """Leave records to another run, but not with key 0 those that may be stored with one."""
        for record, status, reason in again:
            if record.is_drawn:
                self._finish(record, status or HTTPStatus.SERVICE_UNAVAILABLE, reason)

    def _delay(self, attempt: int, retry_after: float) -> float:
        backoff: float = min(LONGEST_DELAY_SECONDS, self._pace.first_delay_seconds * 2**attempt)
        return retry_after + backoff * random.uniform(0.5, 1)  # noqa: S311

    async def _is_stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    def _doubt(self, record: Record, reason: str) -> None:
        self._finish(record, None, f"in doubt: {reason}; check before sending again")

    def _finish(self, record: Record, status: int | None, reason: str) -> None:
        self._progress.note(record, status, reason)
        self.finished.append(record)


def _rekeyed(record: Record, outcome: MultiCodeResponse) -> Record:
    """Return the record as it may be sent again.

    One without a key whose commit is in doubt comes back with the key it may be stored with.
    """
    value = (outcome.id[0].value if outcome.id else None) or ""
    is_drawn = record.key == 0 and value.isdecimal() and int(value) != 0
    return with_key(record, int(value)) if is_drawn else record
