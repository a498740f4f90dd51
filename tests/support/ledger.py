"""Load that keeps account: what was sent, what was acknowledged, and whether it is true."""

import asyncio
import json
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support.service import KEY, PATH, ServiceUnderTest, credentials

STORED = (200, 201)
COMPLETE_OUTCOME = re.compile(
    rb'\{"id":\[\{"key":"\w+","value":(?:null|"(-?\d+)")\}\],"status":(\d+),"body":"(?:[^"\\]|\\.)*"\}'
)


@dataclass
class Ledger:
    """What senders sent to one database, and what they were told."""

    service: ServiceUnderTest
    database: str = "acme"
    service_may_die: bool = False
    requests: int = 0
    items: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    refusals: Counter[int] = field(default_factory=Counter)
    unfinished: int = 0
    unanswered: int = 0
    sent: dict[int, int] = field(default_factory=dict)
    """By key, the request in which its item was sent last."""
    acknowledged: dict[int, int] = field(default_factory=dict)
    """By key, the request whose item was acknowledged last."""
    created: dict[str, int] = field(default_factory=dict)
    """By the unique text of an item without a key, the key that was acknowledged."""

    async def send(self, sender: int, *, size: int = 20, key_zero: int = 3) -> bool:
        """Send records of a sender's own keys; return whether all of them were stored."""
        self.requests += 1
        number = self.requests
        first = sender * 10_000 + 1
        batch: list[dict[str, Any]] = [
            {KEY: key, "comment": f"{number}"} for key in range(first, first + size)
        ]
        batch += [{KEY: 0, "comment": f"new {number} {i}"} for i in range(key_zero)]
        batch.insert(size // 2, {KEY: first, "case_Key": "invalid"})
        for item in batch:
            if item[KEY] and "comment" in item:
                self.sent[item[KEY]] = number
        self.items += len(batch)
        outcomes = await self._outcomes(batch)
        for item, (key, status) in zip(batch, outcomes, strict=False):
            self.statuses[status] += 1
            if "comment" not in item:
                assert status == 400
            elif status in STORED and item[KEY]:
                assert key == item[KEY]
                self.acknowledged[item[KEY]] = number
            elif status in STORED:
                assert status == 201
                assert key is not None
                self.created[item["comment"]] = key
        return len(outcomes) == len(batch) and sum(s in STORED for _, s in outcomes) == (
            len(batch) - 1
        )

    async def _outcomes(self, batch: Sequence[Any]) -> list[tuple[int | None, int]]:
        """Return the complete outcomes of the answer, which may be cut short."""
        answer = bytearray()
        # aiohttp sends a PUT again by itself when its connection breaks.
        headers = {**credentials(self.database), "Idempotency-Key": str(uuid.uuid4())}
        status = None
        try:
            async with self.service.session.put(
                self.service.url + PATH, json=batch, headers=headers
            ) as response:
                status = response.status
                async for part in response.content.iter_any():
                    answer += part
        except aiohttp.ClientError:
            assert self.service_may_die
            self.unanswered += 1
        else:
            try:
                envelope = json.loads(answer)
            except ValueError:
                self.unfinished += 1
            else:
                if status != 207:
                    self.refusals[response.status] += 1
                    assert envelope["data"] is None
                    return []
                assert len(envelope["data"]) == len(batch)
        return [
            (None if match[1] is None else int(match[1]), int(match[2]))
            for match in COMPLETE_OUTCOME.finditer(answer)
        ]

    @asynccontextmanager
    async def under_load(
        self, senders: int = 4, size: int = 20, key_zero: int = 3
    ) -> AsyncIterator[None]:
        """Send requests, one after the other from each sender, while the block runs."""
        is_over = asyncio.Event()

        async def keep_sending(sender: int) -> None:
            while not is_over.is_set():
                if not await self.send(sender, size=size, key_zero=key_zero):
                    await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(keep_sending(sender)) for sender in range(1, senders + 1)]
        try:
            yield
        finally:
            is_over.set()
            await asyncio.gather(*tasks)

    async def assert_recovers(self, seconds: float = 10) -> None:
        """Wait until a whole batch is stored again, without a restart of the service."""
        async with asyncio.timeout(seconds):
            while not await self.send(999):
                await asyncio.sleep(0.05)

    async def assert_true(self) -> None:
        """Compare what was acknowledged with what is stored."""
        assert await self.audit() == {"lost": 0, "doubled": 0}
        assert self.unfinished == 0
        assert self.acknowledged
        assert self.created

    async def audit(self) -> dict[str, int]:
        """Return how many acknowledged items are lost, and how many were created twice."""
        rows = await self.service.fetch(
            "select care_case_clinical_trial_key, comment from care_case_clinical_trial",
            database=self.database,
        )
        stored: dict[int, str] = dict(rows)
        texts = Counter(text for text in stored.values() if text.startswith("new "))
        lost = 0
        for key, number in self.acknowledged.items():
            # What was sent later and not acknowledged may be stored as well.
            if not number <= int(stored.get(key, -1)) <= self.sent[key]:
                lost += 1
        for text, key in self.created.items():
            lost += stored.get(key) != text
        return {"lost": lost, "doubled": sum(count - 1 for count in texts.values())}
