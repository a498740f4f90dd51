"""Senders with overlapping keys, who write down what they send and what they are told."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp

from tests.model.history import AGAIN, History, Violation, Write, fields
from tests.model.history_replica import Replica
from tests.model.history_world import ABSENT, PRESENT, REFUSED_BY_CHECK, World
from tests.support.ledger import COMPLETE_OUTCOME
from tests.support.service import KEY, PATH, credentials

WAITED_FOR = PRESENT[0]
"""A key for senders that a fault lets wait; it sorts before all others."""

HOT = [*PRESENT[1:16], *ABSENT[:15]]
"""The keys that all want, all the time."""

ALL = [*PRESENT[1:], *ABSENT]

ANSWER_SECONDS = 90
"""What takes longer hangs."""

BUSY = 409
"""The answer to a whole request of which another, with the same key, is still at work."""


@dataclass(frozen=True)
class Load:
    """What the senders of a history do."""

    senders: int = 8
    services: int = 2
    is_in_opposite_order: bool = False
    """Each service gets the keys of a batch in an order of its own, up or down."""
    has_key_zero: bool = False
    """Every batch is one item without key."""
    waiting: int = 0
    """So many senders have one key in all of their batches, before what others want, too."""
    patience_seconds: tuple[float, float] | None = None
    """Senders hang up after a while between these."""
    is_idempotent: bool = False
    """Batches are sent again, whole, under an Idempotency-Key or their activityID."""


def bad(item: dict[str, Any]) -> dict[str, Any]:
    """Return the item such that the service refuses it, or only the database does."""
    return item | random.choice([{"case_Key": "not a number"}, {"study_Drug": REFUSED_BY_CHECK}])


def is_good(item: dict[str, Any]) -> bool:
    """Whether nothing in the item keeps it out."""
    return isinstance(item["case_Key"], int) and "study_Drug" not in item


class Sender:
    """One who sends one batch after the other, to one service."""

    def __init__(self, number: int, world: World, history: History, load: Load) -> None:
        self._number = number
        self._world = world
        self._history = history
        self._load = load
        self._service = world.services[number % load.services]
        self._batches = count()

    async def run(self, is_over: asyncio.Event) -> None:
        """Send until it is over."""
        while not is_over.is_set():
            request = await self.send(self._batch())
            await asyncio.sleep(random.uniform(0, 0.02 if request.is_done else 0.2))

    async def send(self, items: Sequence[dict[str, Any]]) -> "Request":
        """Send a batch, again and again if that is allowed; return the last request."""
        if not self._load.is_idempotent:
            return await self._send(items)
        # Without the header, the activityID of an answer that was read to its end is the key.
        key = items[0]["comment"] if random.random() < 0.7 else None
        has_rival = key is not None and random.random() < 0.1
        sending = asyncio.create_task(self._send(items, key, has_rival=has_rival))
        if has_rival:
            others = [item | fields(f"{item['comment']}.rival") for item in items]
            await self._send(others, key, self._any_service(), has_rival=True)
        if key is not None and random.random() < 0.1:
            await asyncio.sleep(random.uniform(0, 0.3))
            await self._send(items, key, self._any_service(), has_rival=has_rival)
        request = await sending
        key = key or request.activity_id
        for _ in range(5):
            if key is None or (request.is_done and random.random() < 0.9):
                break
            await asyncio.sleep(random.uniform(0, 0.5))
            request = await self._send(items, key, self._any_service(), has_rival=has_rival)
        return request

    def _any_service(self) -> Replica:
        return random.choice(self._world.services[: self._load.services])

    async def _send(
        self,
        items: Sequence[dict[str, Any]],
        idempotency_key: str | None = None,
        service: Replica | None = None,
        *,
        has_rival: bool = False,
    ) -> "Request":
        request = Request(self._history, service or self._service, items)
        for write in request.writes:
            write.has_rival = has_rival
        headers = credentials()
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        patience = self._load.patience_seconds
        seconds = random.uniform(*patience) if patience else ANSWER_SECONDS
        await request.send(self._world.session, headers, seconds, may_hang_up=patience is not None)
        return request

    def _batch(self) -> list[dict[str, Any]]:
        number = next(self._batches)
        keys = self._keys()
        if self._load.is_in_opposite_order:
            keys.sort(reverse=self._service is self._world.services[0])
        prefix = f"{self._history.name}.{self._number}.{number}"
        items = [{KEY: key, **fields(f"{prefix}.{place}")} for place, key in enumerate(keys)]
        share = random.choice([0, 0, 0, 0.003, 0.05])
        return [bad(item) if random.random() < share else item for item in items]

    def _keys(self) -> list[int]:
        if self._load.has_key_zero:
            return [0]
        if self._number < self._load.waiting:
            return [WAITED_FOR, *random.sample(HOT, 5)]
        key_zero = [0] * random.choice([0, 0, 1, 3])
        kind = random.random()
        if kind < 0.3:
            return [random.choice([*HOT, 0])]
        if kind < 0.6:
            keys = random.sample(HOT, random.randint(2, 10)) + key_zero
        elif kind < 0.85:
            keys = random.choices(HOT, k=random.randint(10, 40)) + key_zero
        elif kind < 0.95:
            keys = [0] * random.randint(1, 150)
        else:
            keys = random.sample(ALL, random.randint(300, 700)) + key_zero * 5
        random.shuffle(keys)
        return keys


class Request:
    """A batch on its way once, and what is told of its items."""

    _numbers = count(1)

    def __init__(self, history: History, service: Replica, items: Sequence[dict[str, Any]]) -> None:
        self._history = history
        self._service = service
        self._body = json.dumps(items).encode()
        number = next(self._numbers)
        self.writes = [
            Write(item["comment"], item[KEY], number, place, is_good=is_good(item))
            for place, item in enumerate(items)
        ]
        self.activity_id: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to send again."""
        return not any(write.status in (None, AGAIN) for write in self.writes)

    async def send(
        self,
        session: aiohttp.ClientSession,
        headers: dict[str, str],
        seconds: float,
        *,
        may_hang_up: bool,
    ) -> None:
        """Send it and read the answer, for so many seconds at most."""
        process = self._service.process
        sent = time.monotonic()
        for write in self.writes:
            write.process, write.sent = process, sent
        self._history.writes += self.writes
        try:
            async with (
                asyncio.timeout(seconds),
                session.put(self._service.url + PATH, data=self._body, headers=headers) as answer,
            ):
                await self._read(answer)
        except TimeoutError:
            if not may_hang_up:
                self._note("hung", f"no answer after {seconds} s")
        except aiohttp.ClientConnectorError as error:
            for write in self.writes:
                write.status, write.words = AGAIN, f"not sent: {error}"
        except aiohttp.ClientError as error:
            if self._service.process == process and self._service.is_up:
                self._note("hung", f"the connection ended: {error!r}")
        for write in self.writes:
            write.ended = min(write.ended, time.monotonic())
            if self._service.process != process:
                write.process = f"{process} or {self._service.process}"

    async def _read(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status != 207:
            words = await answer.text()
            for write in self.writes:
                write.status = None if answer.status == BUSY else answer.status
                write.words = words
            return
        text = bytearray()
        told = position = 0
        async for part in answer.content.iter_any():
            text += part
            for match in COMPLETE_OUTCOME.finditer(text, position):
                position = match.end()
                write = self.writes[told]
                told += 1
                write.ended = time.monotonic()
                write.told = None if match[1] is None else int(match[1])
                write.status = int(match[2])
                write.words = json.loads(match[0])["body"]
        try:
            self.activity_id = json.loads(text)["debug"]["activityID"]
        except ValueError:
            self._note("hung", f"an unfinished envelope: …{text[-100:]!r}")
        else:
            if told != len(self.writes):
                self._note("hung", f"{told} outcomes of {len(self.writes)} items")

    def _note(self, kind: str, what: str) -> None:
        first = self.writes[0]
        self._history.noted.append(
            Violation(kind, f"{first.marker} and {len(self.writes) - 1} more: {what}")
        )
