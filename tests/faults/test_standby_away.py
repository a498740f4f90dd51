"""The standby goes away, then takes over: it has all that was acknowledged (promise 1).

``STANDBY_ROUNDS=30`` repeats it, with other timing each time.
"""

import asyncio
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
import pytest

from service.wire import IDEMPOTENCY_HEADER
from tests.faults.test_failover import promote, standby  # noqa: F401
from tests.support.embedded import EmbeddedPostgres
from tests.support.running import MakeService
from tests.support.service import KEY, Answer, ServiceUnderTest

ROUNDS = int(os.environ.get("STANDBY_ROUNDS", "1"))
SENDERS = 12

pytestmark = pytest.mark.slow

Value = str | None
"""The comment of a record; None: there is no record."""


@dataclass
class Account:
    """What one sender may find stored, by what it was told."""

    number: int
    possible: dict[int, set[Value]] = field(default_factory=dict)
    """The values that each of its keys can have."""
    created: dict[str, int] = field(default_factory=dict)
    """The record key of each acknowledged key-0 record."""
    acknowledged: Counter[str] = field(default_factory=Counter)

    async def work(self, service: ServiceUnderTest) -> None:
        """Make requests, one at a time, until canceled."""
        for number in range(1_000_000):
            key, value = 1000 * (self.number + 1) + number % 4, f"{self.number}.{number}"
            kind = random.choice(["batch", "several", "POST", "PUT", "DELETE", "key 0", "retried"])
            if kind in ("key 0", "retried"):
                await self._create(service, value, is_retried=kind == "retried")
                continue
            before = self.possible.setdefault(key, {None})
            wanted: Value = None if kind == "DELETE" else value
            # Until there is an answer, both can be.
            self.possible[key] = before | {wanted}
            status = await _status(service, kind, key, value)
            self.acknowledged[f"{kind} {status}"] += 1
            if status in (200, 201, 204):
                self.possible[key] = {wanted}
            elif status == 404:
                self.possible[key] = {None}
            elif status == 409:
                self.possible[key] = before - {None}

    async def _create(self, service: ServiceUnderTest, value: str, *, is_retried: bool) -> None:
        headers: dict[str, str | None] = {IDEMPOTENCY_HEADER: value} if is_retried else {}
        while True:
            answer = await _ask(service.put([{KEY: 0, "comment": value}], headers=headers))
            if answer is not None and answer.status == 207 and answer.statuses == [201]:
                self.created[value] = answer.keys[0]
                self.acknowledged["created"] += 1
                return
            if not is_retried:
                return


async def _ask(request: Any) -> Answer | None:
    try:
        answer: Answer = await request
    except (aiohttp.ClientError, OSError):
        return None
    return answer


async def _status(service: ServiceUnderTest, kind: str, key: int, value: str) -> int:
    record = {KEY: key, "comment": value}
    if kind in ("batch", "several"):
        answer = await _ask(
            service.put([record] if kind == "batch" else [record, {KEY: key + 100}])
        )
        return answer.statuses[0] if answer is not None and answer.status == 207 else 503
    path = "" if kind == "POST" else f"/{key}"
    answer = await _ask(service.ask(kind, path, None if kind == "DELETE" else record))
    return answer.status if answer is not None else 503


WAITING = "from pg_stat_activity where wait_event = 'SyncRep'"
HARMS = [
    f"{call} {WAITING}"
    for call in ("select pg_cancel_backend(pid)", "select pg_terminate_backend(pid)")
]


async def end_waiting_sessions(postgres: EmbeddedPostgres) -> None:
    """Cancel or terminate the sessions that wait for the standby, from time to time."""
    connection = await asyncpg.connect(postgres.tcp_dsn())
    try:
        while True:
            await asyncio.sleep(random.uniform(0, 1.5))
            await connection.execute(random.choice(HARMS))
    finally:
        connection.terminate()


@pytest.mark.parametrize("turn", range(ROUNDS))
async def test_the_standby_that_takes_over_has_all_that_was_acknowledged(
    postgres: EmbeddedPostgres,
    standby: EmbeddedPostgres,  # noqa: F811
    make_service: MakeService,
    turn: int,
) -> None:
    service = await make_service(
        {"acme": postgres.tcp_dsn("acme")}, allow=["batch", "read", "write", "delete"]
    )
    accounts = [Account(number) for number in range(SENDERS)]

    working = [asyncio.create_task(account.work(service)) for account in accounts]
    await asyncio.sleep(random.uniform(0.5, 2))
    await asyncio.to_thread(standby.kill)
    harming = asyncio.create_task(end_waiting_sessions(postgres))
    await asyncio.sleep(random.uniform(0, 9))
    await asyncio.to_thread(postgres.kill)
    for task in (*working, harming):
        task.cancel()
    await asyncio.gather(*working, harming, return_exceptions=True)
    await asyncio.to_thread(standby.start)
    await promote(standby)

    connection = await asyncpg.connect(standby.tcp_dsn("acme"))
    rows = await connection.fetch(
        "select care_case_clinical_trial_key as key, comment from care_case_clinical_trial"
    )
    await connection.close()
    stored: dict[int, Value] = {row["key"]: row["comment"] for row in rows}
    told = sum((account.acknowledged for account in accounts), Counter[str]())
    print(f"turn {turn}: {dict(sorted(told.items()))}")
    wrong = [
        (key, stored.get(key), values)
        for account in accounts
        for key, values in account.possible.items()
        if stored.get(key) not in values
    ]
    lost = [
        (value, key)
        for account in accounts
        for value, key in account.created.items()
        if stored.get(key) != value
    ]
    doubled = [value for value, times in Counter(stored.values()).items() if value and times > 1]
    assert (wrong, lost, doubled) == ([], [], [])
    assert told["created"] > 0
