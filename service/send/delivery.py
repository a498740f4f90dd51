"""Sends records to a service in batches, each again until the fate of its records is known."""

import asyncio
import random
from collections.abc import Callable, Iterable
from http import HTTPStatus
from itertools import count
from typing import NamedTuple

from service.client import Answer, BatchRefused, Client, CouldNotSend
from service.send.progress import Progress
from service.send.records import Fate, Record

LONGEST_DELAY_SECONDS = 30
LONGEST_RETRY_AFTER_SECONDS = 600
"""A service that asks for more is left alone; another run goes on."""


class Pace(NamedTuple):
    """How much is sent at once, and how often again."""

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
        self._left_keys: set[int | None] = set()

    async def send(self, records: Iterable[Record]) -> None:
        """Send all batches that no earlier run has finished. Raises CouldNotSend, Unreadable."""
        batches = self._progress.unfinished(records)
        try:
            # In a thread: standard input may keep the reader waiting.
            while not self._stop.is_set() and (
                batch := await asyncio.to_thread(next, batches, None)
            ):
                keys = {record.key for record in batch if record.is_named}
                # Records with one key take effect in the order of the file: of two batches
                # at once the later might come first, so it waits for the earlier.
                while len(self._in_flight) >= self._pace.concurrency or not all(
                    keys.isdisjoint(others) for others in self._in_flight.values()
                ):
                    await self._wait(asyncio.FIRST_COMPLETED)
                if self._stop.is_set() or not keys.isdisjoint(self._left_keys):
                    break
                self._progress.begin()
                self._in_flight[asyncio.create_task(self._deliver(batch, keys))] = keys
        finally:
            if self._in_flight:
                await self._wait(asyncio.ALL_COMPLETED)
        if self._failure is not None:
            raise self._failure

    async def _wait(self, return_when: str) -> None:
        done, _ = await asyncio.wait(self._in_flight, return_when=return_when)
        for task in done:
            del self._in_flight[task]
        for task in done:
            task.result()

    async def _deliver(self, batch: list[Record], keys: set[int | None]) -> None:
        fates = {record.number: record.refusal for record in batch if record.refusal is not None}
        try:
            is_finished = await self._send([r for r in batch if r.refusal is None], fates)
        except CouldNotSend as error:
            self._failure = error
            self._stop.set()
            return
        if is_finished:
            self._progress.finish(batch, fates)
            self._on_finished()
        else:
            self._left_keys |= keys

    async def _send(self, records: list[Record], fates: dict[int, Fate]) -> bool:
        """Send records until the fate of each is known; tell whether it came to that.

        Raises CouldNotSend.
        """
        sent = records
        for attempt in count():
            if not sent:
                break
            # The same place with the same bytes: the same key, in whatever run.
            place = f"{self._progress.source} {sent[0].number}"
            try:
                answer = await self._client.put([record.item for record in sent], place)
            except BatchRefused as refused:
                return await self._send_halves(sent, fates, refused)
            again = _sort_out(sent, answer, fates)
            if not again:
                break
            if attempt >= self._pace.retries or answer.retry_after > LONGEST_RETRY_AFTER_SECONDS:
                if answer.reason or len(again) == len(records):
                    raise CouldNotSend(answer.reason or "every record of a batch got 503")
                return self._may_fail(again, fates)
            if await self._is_stopped_within(self._delay(attempt, answer.retry_after)):
                return False
            # Records without a key are created once within the same batch only.
            sent = again if all(record.is_named for record in again) else sent
        return True

    async def _send_halves(
        self, records: list[Record], fates: dict[int, Fate], refused: BatchRefused
    ) -> bool:
        """Find the records for which a batch is refused as a whole."""
        if len(records) == 1:
            fates[records[0].number] = Fate(refused.status, refused.reason)
            return True
        middle = len(records) // 2
        first, second = records[:middle], records[middle:]
        return await self._send(first, fates) and await self._send(second, fates)

    def _may_fail(self, records: list[Record], fates: dict[int, Fate]) -> bool:
        """Tell whether records whose 503 lasts may go to the failed ones, to be sent alone.

        One without a key may not: its batch is left to another run.
        """
        for record in records:
            if not record.is_named:
                reason = fates[record.number].reason
                self._failure = CouldNotSend(f"record {record.number} got 503: {reason}")
                return False
        return True

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


def _sort_out(sent: list[Record], answer: Answer, fates: dict[int, Fate]) -> list[Record]:
    """Note the fates that an answer tells; return the records to be sent again, in order."""
    if answer.reason:
        return sent
    for record, outcome in zip(sent, answer.outcomes, strict=True):
        before = fates.get(record.number)
        # Sent again with its batch, what was created is updated.
        if not before or (before.status, outcome.status) != (HTTPStatus.CREATED, HTTPStatus.OK):
            fates[record.number] = Fate(outcome.status, outcome.body)
    refused = HTTPStatus.SERVICE_UNAVAILABLE
    return [record for record in sent if fates[record.number].status == refused]
