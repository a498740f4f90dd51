"""A client of the service, to import: ``Client``, ``CouldNotSend`` and ``Outcome``.

    async with Client("http://127.0.0.1:8080", "acme", api_key, token) as client:
        async for record, outcome in client.send(records):
            print(outcome.status, outcome.body, record)

After Elasticsearch's ``streaming_bulk``: records go in, and each comes back with its outcome.
"""

import asyncio
import hashlib
import os
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, Self, TypeVar
from uuid import uuid4

import aiohttp
import msgspec
from aiohttp import hdrs

from service import wire
from service.wire import Envelope, Outcome

__all__ = ["Client", "CouldNotSend", "Outcome"]

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30

Record = TypeVar("Record")


class CouldNotSend(Exception):
    """The service takes no batch from this caller now; the message says why.

    ``status`` is that of the answer, if there was one. Another attempt may help, after so many
    seconds, unless ``retry_after`` is None.
    """

    def __init__(self, reason: str, status: int | None = None, retry_after: float | None = None):
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


class _Item(NamedTuple):
    """A record, its JSON, and its key; None where it cannot be read."""

    record: Any
    text: bytes
    key: int | None


@dataclass
class Client:
    """The service at a URL, as one caller sees one of its databases; ``async with`` opens it.

    A batch holds at most ``batch_items`` records and ``batch_bytes`` of JSON and may take
    ``timeout_seconds``; ``concurrency`` of them are under way at once. What met 429, 503 or a
    broken connection is sent again, ``retries`` times at most, later each time, and not before
    the service's Retry-After. Before each retry ``pause`` is awaited with the reason, the seconds
    to wait and the number of the attempt that follows; what it raises ends the sending.
    ``in_flight`` counts the records that were sent and have not come back with their outcomes.
    """

    url: str
    database: str
    api_key: str = field(repr=False)
    token: str = field(repr=False)
    concurrency: int = 4
    retries: int = 6
    timeout_seconds: float = 300.0
    batch_items: int = 1000
    batch_bytes: int = 8_000_000
    pause: Callable[[str, float, int], Awaitable[None]] = lambda _, s, __: asyncio.sleep(s)
    in_flight: int = field(default=0, init=False)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={
                wire.API_KEY_HEADER: self.api_key,
                hdrs.AUTHORIZATION: f"Bearer {self.token}",
                wire.DATABASE_HEADER: self.database,
                hdrs.CONTENT_TYPE: "application/json",
                hdrs.ACCEPT: "application/json",
            },
            timeout=aiohttp.ClientTimeout(self.timeout_seconds, sock_connect=10),
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._session.close()

    async def send(
        self, records: Iterable[Record] | AsyncIterable[Record], name: str = ""
    ) -> AsyncGenerator[tuple[Record, Outcome]]:
        """Yield each record with its outcome, in the order of the records. Raises CouldNotSend.

        A record is what msgspec encodes as a JSON object: a dict, a Struct, or JSON as
        ``msgspec.Raw``. Records of one key take effect in their order. A 503 is one that
        lasted through all retries; of a record with key 0 it ends the sending.

        Records with key 0 are created once, however often a batch is sent again. With a name
        that holds for later calls, too: the same records in the same order under the same name
        are created once, for as long as the service remembers (its ``idempotency_days``).
        """
        async with aclosing(self.batches(records, name or str(uuid4()))) as batches:
            async for batch in batches:
                for pair in batch:
                    yield pair

    async def batches(
        self, records: Iterable[Record] | AsyncIterable[Record], name: str, place: int = 0
    ) -> AsyncGenerator[list[tuple[Record, Outcome]]]:
        """Yield the same batch by batch; ``place`` is that of the first record under the name.

        Who goes on after a batch, with the place of the next record, cuts the rest as before.
        """
        at_work: deque[tuple[set[int], asyncio.Task[list[tuple[Any, Outcome]]]]] = deque()
        try:
            async for items in self._cut(records):
                keys = {item.key for item in items if item.key}
                # Of two batches at once the later might come first.
                most = self.concurrency if items else 1  # an empty one: await all
                while len(at_work) >= most or any(keys & each for each, _ in at_work):
                    batch = await at_work.popleft()[1]
                    self.in_flight -= len(batch)
                    yield batch
                if items:
                    task = asyncio.create_task(self._deliver(items, f"{name}\n{place}"))
                    at_work.append((keys, task))
                    self.in_flight += len(items)
                    place += len(items)
        finally:
            for _, task in at_work:
                task.cancel()
            await asyncio.gather(*(task for _, task in at_work), return_exceptions=True)

    async def _cut(self, records: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterable[list[_Item]]:
        """Yield batches, then an empty one; likewise before an error of ``records`` is raised."""
        batch: list[_Item] = []
        size = 0
        try:
            async for record in records if isinstance(records, AsyncIterable) else _each(records):
                text = msgspec.json.encode(record)
                key = None
                with suppress(ValueError, RecursionError):
                    key = msgspec.json.decode(text, type=wire.KeyOnlyItem).key
                size += len(text)
                if batch and (len(batch) == self.batch_items or size > self.batch_bytes):
                    yield batch
                    batch, size = [], len(text)
                batch.append(_Item(record, text, key))
        except Exception:  # the next record could have belonged to an unfinished batch
            yield batch if len(batch) == self.batch_items else []
            yield []
            raise
        yield batch
        yield []

    async def _deliver(self, items: Sequence[_Item], name: str) -> list[tuple[Any, Outcome]]:
        """Send a batch, and find the records for which it is refused whole."""
        try:
            outcomes = await self._persist(items, name)
        except CouldNotSend as error:
            if error.status not in (400, 413):
                raise
            if len(items) > 1:
                middle = len(items) // 2
                first = await self._deliver(items[:middle], f"{name} first half")
                return first + await self._deliver(items[middle:], f"{name} second half")
            outcomes = [Outcome(items[0].key, error.status, str(error))]
        return [(item.record, outcome) for item, outcome in zip(items, outcomes, strict=True)]

    async def _persist(self, items: Sequence[_Item], name: str) -> list[Outcome]:
        """Send items until the outcome of each is known, or 503 lasts. Raises CouldNotSend."""
        known: dict[int, Outcome] = {}
        sent: Sequence[int] = range(len(items))
        for attempt in count(1):
            try:
                outcomes = await self._put([items[index] for index in sent], name)
                known.update(zip(sent, outcomes, strict=True))
                again = [index for index in sent if known[index].status == 503]
                # Records without a key are created once within the same batch only.
                are_named = all(items[index].key for index in again)
                if not again or (attempt > self.retries and are_named and len(again) < len(items)):
                    break
                sent = again if are_named else sent
                raise CouldNotSend(f"{len(again)} records got 503: {known[again[0]].body}", 503, 0)
            except CouldNotSend as error:
                if error.retry_after is None or attempt > self.retries:
                    raise
                backoff = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** (attempt - 1))
                seconds = error.retry_after + backoff * random.uniform(0.5, 1)  # noqa: S311
                await self.pause(str(error), seconds, attempt + 1)
        return list(known.values())

    async def _put(self, items: Sequence[_Item], name: str) -> list[Outcome]:
        """Send a batch; the same items under the same name are the same request."""
        body = b"[" + b",".join(item.text for item in items) + b"]"
        digest = hashlib.sha256(f"{name}\n".encode() + body).hexdigest()
        try:
            async with self._session.put(
                self.url.rstrip("/") + wire.BATCH_PATH,
                data=body,
                headers={wire.IDEMPOTENCY_HEADER: digest},
                allow_redirects=False,
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientSSLError, ValueError) as error:
            raise CouldNotSend(f"{error}; check URL (https?), certificate, credentials") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or "no answer came in time"
            if isinstance(error, aiohttp.ClientConnectorError) and (error.errno or 0) > 0:
                reason += f": {os.strerror(error.errno or 0)}"
            raise CouldNotSend(reason, retry_after=0) from None
        envelope = None
        with suppress(ValueError):
            envelope = msgspec.json.decode(answer, type=Envelope)
        if envelope is None or envelope.data is None:
            raise _refusal(response, envelope)
        if len(envelope.data) != len(items):
            raise CouldNotSend("the answer is incomplete", retry_after=0)
        return [
            Outcome(int(value) if (value := each.id[0].value) else None, each.status, each.body)
            for each in envelope.data
        ]


async def _each(records: Iterable[Record]) -> AsyncGenerator[Record]:
    for record in records:
        yield record


def _refusal(response: aiohttp.ClientResponse, envelope: Envelope | None) -> CouldNotSend:
    """Return what an answer without outcomes means."""
    status, retry_after = response.status, response.headers.get(hdrs.RETRY_AFTER, "")
    reason = f"the service answered {status}"
    if envelope and envelope.error:
        reason += ": " + "".join(filter(str.isprintable, envelope.error.detail))[:500]
    elif status <= 400:
        # Of something between: a batch that the service refuses is told in an envelope.
        return CouldNotSend(f"{reason}, as it never does; check the URL")
    # 409: the same batch is still at work, for an earlier run or another one.
    if status >= 500 or status == 429 or (status == 409 and retry_after):
        return CouldNotSend(reason, status, float(retry_after) if retry_after.isdecimal() else 0)
    return CouldNotSend(reason, status)
