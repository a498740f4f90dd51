"""Client of the service, for programs: ``Client``, ``CouldNotSend`` and ``Outcome``.

    async with Client("http://127.0.0.1:8080", "acme", api_key, token) as client:
        async for record, outcome in client.send(records):
            print(outcome.status, outcome.body, record)

Modeled on Elasticsearch's ``streaming_bulk``: yields each record with its outcome.
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
MAX_DELAY_SECONDS = 30

Record = TypeVar("Record")


class CouldNotSend(Exception):
    """The service did not accept a batch.

    ``status`` is the status of the response, if any. ``retry_after`` is the time in seconds after
    which another attempt can succeed; None if it cannot.
    """

    def __init__(self, reason: str, status: int | None = None, retry_after: float | None = None):
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


class _Item(NamedTuple):
    """A record, its JSON, and its key; None if the key cannot be read."""

    record: Any
    text: bytes
    key: int | None


@dataclass
class Client:
    """Sends records to one database of a service; used by ``async with``.

    A batch has at most ``batch_items`` records and ``batch_bytes`` of JSON, and ends after
    ``timeout_seconds``. At most ``concurrency`` batches are in flight. After 429, 503 or a broken
    connection a batch is resent, at most ``retries`` times, with growing delays that include the
    service's Retry-After. Before each retry ``pause`` is awaited with the reason, the seconds to
    wait and the number of the next attempt; an exception that it raises ends the sending.
    ``in_flight`` is the number of records that were sent and not yet returned.
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

        A record is anything that msgspec encodes as a JSON object: a dict, a Struct, or JSON as
        ``msgspec.Raw``. Records with the same key take effect in their order. An outcome with 503
        remained so after all retries; for a record with key 0, CouldNotSend is raised instead.

        Records with key 0 are created once, however often a batch is resent. If a name is given,
        this includes later calls: the same records in the same order under the same name are
        created once, while the service remembers them (its ``idempotency_days``).
        """
        async with aclosing(self.batches(records, name or str(uuid4()))) as batches:
            async for batch in batches:
                for pair in batch:
                    yield pair

    async def batches(
        self, records: Iterable[Record] | AsyncIterable[Record], name: str, place: int = 0
    ) -> AsyncGenerator[list[tuple[Record, Outcome]]]:
        """Yield the pairs of send() per batch; ``place`` is the first record's under the name.

        A later call that starts at the record after a batch cuts the rest into the same batches.
        """
        pending: deque[tuple[set[int], asyncio.Task[list[tuple[Any, Outcome]]]]] = deque()
        try:
            async for items in self._cut(records):
                keys = {item.key for item in items if item.key}
                # The later of two concurrent batches could be applied first.
                limit = self.concurrency if items else 1  # an empty batch: wait for all
                while len(pending) >= limit or any(keys & others for others, _ in pending):
                    batch = await pending.popleft()[1]
                    self.in_flight -= len(batch)
                    yield batch
                if items:
                    task = asyncio.create_task(self._deliver(items, f"{name}\n{place}"))
                    pending.append((keys, task))
                    self.in_flight += len(items)
                    place += len(items)
        finally:
            for _, task in pending:
                task.cancel()
            await asyncio.gather(*(task for _, task in pending), return_exceptions=True)

    async def _cut(self, records: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterable[list[_Item]]:
        """Yield batches, then an empty one, even before an error of ``records`` is raised."""
        batch: list[_Item] = []
        size = 0
        try:
            async for record in records if isinstance(records, AsyncIterable) else _iter(records):
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
        """Send a batch; split one that is rejected as a whole to find the records at fault."""
        try:
            outcomes = await self._send_with_retries(items, name)
        except CouldNotSend as error:
            if error.status not in (400, 413):
                raise
            if len(items) > 1:
                middle = len(items) // 2
                first = await self._deliver(items[:middle], f"{name} first half")
                return first + await self._deliver(items[middle:], f"{name} second half")
            outcomes = [Outcome(items[0].key, error.status, str(error))]
        return [(item.record, outcome) for item, outcome in zip(items, outcomes, strict=True)]

    async def _send_with_retries(self, items: Sequence[_Item], name: str) -> list[Outcome]:
        """Send items until each has an outcome, which is 503 after all retries.

        Raises CouldNotSend.
        """
        results: dict[int, Outcome] = {}
        sent: Sequence[int] = range(len(items))
        for attempt in count(1):
            try:
                outcomes = await self._put([items[index] for index in sent], name)
                results.update(zip(sent, outcomes, strict=True))
                failed = [index for index in sent if results[index].status == 503]
                # Records with key 0 are created once only if the same batch is resent.
                have_keys = all(items[index].key for index in failed)
                is_last = attempt > self.retries and have_keys and len(failed) < len(items)
                if not failed or is_last:
                    break
                sent = failed if have_keys else sent
                message = f"{len(failed)} records got 503: {results[failed[0]].body}"
                raise CouldNotSend(message, 503, retry_after=0)
            except CouldNotSend as error:
                if error.retry_after is None or attempt > self.retries:
                    raise
                backoff = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** (attempt - 1))
                seconds = error.retry_after + backoff * random.uniform(0.5, 1)  # noqa: S311
                await self.pause(str(error), seconds, attempt + 1)
        return list(results.values())

    async def _put(self, items: Sequence[_Item], name: str) -> list[Outcome]:
        """Send a batch one time. Raises CouldNotSend.

        The same items under the same name have the same Idempotency-Key.
        """
        body = b"[" + b",".join(item.text for item in items) + b"]"
        digest = hashlib.sha256(f"{name}\n".encode() + body).hexdigest()
        try:
            async with self._session.put(
                self.url.rstrip("/") + wire.BATCH_PATH,
                data=body,
                headers={wire.IDEMPOTENCY_HEADER: digest},
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except (aiohttp.ClientSSLError, ValueError) as error:
            raise CouldNotSend(f"{error}; check URL (https?), certificate, credentials") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or "the response timed out"
            if isinstance(error, aiohttp.ClientConnectorError) and (error.errno or 0) > 0:
                reason += f": {os.strerror(error.errno or 0)}"
            raise CouldNotSend(reason, retry_after=0) from None
        envelope = None
        with suppress(ValueError):
            envelope = msgspec.json.decode(content, type=Envelope)
        if envelope is None or envelope.data is None:
            raise _describe_rejection(response, envelope)
        if len(envelope.data) != len(items):
            raise CouldNotSend("the response is incomplete", retry_after=0)
        return [
            Outcome(int(value) if (value := item.id[0].value) else None, item.status, item.body)
            for item in envelope.data
        ]


async def _iter(records: Iterable[Record]) -> AsyncGenerator[Record]:
    for record in records:
        yield record


def _describe_rejection(
    response: aiohttp.ClientResponse, envelope: Envelope | None
) -> CouldNotSend:
    """Return the error for a response without outcomes."""
    status, retry_after = response.status, response.headers.get(hdrs.RETRY_AFTER, "")
    reason = f"the service returned {status}"
    if envelope and envelope.error:
        reason += ": " + "".join(filter(str.isprintable, envelope.error.detail))[:500]
    elif status <= 400:
        # Not from the service, whose rejections of a batch have an envelope.
        return CouldNotSend(f"unexpected response {status}; is this the right URL?")
    # 409: the same batch is still in progress, for an earlier run or a concurrent one.
    if status >= 500 or status == 429 or (status == 409 and retry_after):
        return CouldNotSend(reason, status, float(retry_after) if retry_after.isdecimal() else 0)
    return CouldNotSend(reason, status)
