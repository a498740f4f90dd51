"""Commits that no standby confirms: nothing that rests on them is acknowledged (promise 1)."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from service.migrations import migrate
from service.wire import IDEMPOTENCY_HEADER
from tests.support.embedded import EmbeddedPostgres
from tests.support.running import MakeService
from tests.support.service import KEY, Answer, ServiceUnderTest

ALLOW = ["batch", "read", "write", "delete"]

SUPPRESS = """
    create function suppress() returns trigger language plpgsql
    as $$ begin perform set_config('client_min_messages', 'error', true); return null; end $$;
    create trigger suppress before insert on care_case_clinical_trial
    for each row execute function suppress();
"""

Ask = Callable[[ServiceUnderTest], Awaitable[Answer]]


def batch(*items: dict[str, Any], **headers: str) -> Ask:
    """Return a request that sends a batch."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda service: service.put(list(items), headers=named)


def single(method: str, path: str = "", record: Any = None, **headers: str) -> Ask:
    """Return a request for one record."""
    return lambda service: service.ask(method, path, record, headers=headers)


REQUESTS: dict[str, tuple[Ask, int]] = {
    "key 0": (batch({KEY: 0}), 201),
    "an explicit key": (batch({KEY: 10}), 201),
    "several items": (batch({KEY: 0}, {KEY: 11}, {KEY: 12}), 201),
    "a batch from its receipt": (batch({KEY: 0}, **{IDEMPOTENCY_HEADER: "known"}), 201),
    "a newer record": (
        batch({KEY: 2, "update_Date": "2001-01-01"}, Prefer="resolution=newest"),
        409,
    ),
    "POST": (single("POST", "", {KEY: 0}), 201),
    "POST of an explicit key": (single("POST", "", {KEY: 13}), 201),
    "POST from its receipt": (single("POST", "", {KEY: 16}, **{IDEMPOTENCY_HEADER: "post"}), 201),
    "POST of an existing key": (single("POST", "", {KEY: 2}), 409),
    "PUT": (single("PUT", "/3", {KEY: 3}), 200),
    "PUT of no record": (single("PUT", "/14", {KEY: 14}), 404),
    "DELETE": (single("DELETE", "/4"), 204),
    "DELETE of no record": (single("DELETE", "/15"), 404),
}


async def set_standby(postgres: EmbeddedPostgres, name: str) -> None:
    """Make the server wait for a standby of this name, which does not exist; or for none."""
    connection = await asyncpg.connect(postgres.tcp_dsn())
    await connection.execute(f"alter system set synchronous_standby_names = '{name}'")
    await connection.execute("select pg_reload_conf()")
    await connection.close()


@pytest.fixture
async def service(
    postgres: EmbeddedPostgres, make_service: MakeService
) -> AsyncIterator[ServiceUnderTest]:
    """One whose records are stored, and whose connections have been used before."""
    postgres.create_database("suppressed")
    await migrate(postgres.tcp_dsn("suppressed"))
    databases = {name: postgres.tcp_dsn(name) for name in ("acme", "suppressed")}
    service = await make_service(databases, allow=ALLOW)
    records = [{KEY: key, "comment": "stored"} for key in (2, 3, 4)]
    assert (await service.put(records, database="suppressed")).statuses == [201] * 3
    await service.execute(SUPPRESS, "suppressed")
    assert (await service.put(records)).statuses == [201] * 3
    for known in ("a batch from its receipt", "POST from its receipt"):
        ask, _ = REQUESTS[known]
        assert (await ask(service)).status in (201, 207)
    yield service
    await set_standby(postgres, "")


def status_of(answer: Answer) -> int:
    """Return the status of the request, or of its first item."""
    return answer.statuses[0] if answer.status == 207 else answer.status


@asynccontextmanager
async def harmed(postgres: EmbeddedPostgres, harm: str) -> AsyncIterator[None]:
    """Cut the waits for the standby short, again and again."""

    async def strike() -> None:
        while True:
            await connection.execute(f"{harm} from pg_stat_activity where wait_event = 'SyncRep'")
            await asyncio.sleep(0.1)

    connection = await asyncpg.connect(postgres.tcp_dsn())
    striking = asyncio.create_task(strike())
    try:
        yield
    finally:
        striking.cancel()
        await asyncio.gather(striking, return_exceptions=True)
        await connection.close()


@pytest.mark.parametrize(
    "harm",
    ["select pg_cancel_backend(pid)", "select pg_terminate_backend(pid)"],
    ids=["canceled", "terminated"],
)
async def test_an_outcome_waits_for_the_standby_although_its_wait_is_cut_short(
    postgres: EmbeddedPostgres, service: ServiceUnderTest, harm: str
) -> None:
    suppressed = service.put([{KEY: 2, "comment": "stored"}], database="suppressed")
    await set_standby(postgres, "ghost")

    asking = {name: asyncio.ensure_future(ask(service)) for name, (ask, _) in REQUESTS.items()}
    asking["suppressed, but equal"] = asyncio.ensure_future(suppressed)
    async with harmed(postgres, harm):
        await asyncio.sleep(1.2)
    # On a busy machine a request can use up its attempts meanwhile.
    early = {name: status_of(task.result()) for name, task in asking.items() if task.done()}
    await set_standby(postgres, "")
    answers = {name: await task for name, task in asking.items()}

    assert set(early.values()) <= {503}
    expected = {name: status for name, (_, status) in REQUESTS.items()} | early
    found = {name: status_of(answer) for name, answer in answers.items()}
    # The first attempt of an upsert may have stored the record: its retry is an update.
    for name in ("an explicit key", "PUT of no record"):
        expected[name] = found[name] if found[name] in (200, 201) else expected[name]
    assert found == {"suppressed, but equal": 200, **expected}


@pytest.mark.slow
async def test_without_a_standby_all_writes_are_in_doubt(
    postgres: EmbeddedPostgres, service: ServiceUnderTest
) -> None:
    await set_standby(postgres, "ghost")
    started_at = time.monotonic()

    answers = await asyncio.gather(*(ask(service) for ask, _ in REQUESTS.values()))
    read = await service.ask("GET", "/2")

    found = map(status_of, answers)
    assert dict(zip(REQUESTS, found, strict=True)) == dict.fromkeys(REQUESTS, 503)
    assert time.monotonic() - started_at < 40
    assert read.status == 200


async def test_a_database_that_does_not_wait_is_not_made_to(
    postgres: EmbeddedPostgres, service: ServiceUnderTest
) -> None:
    for database in ("acme", "suppressed"):
        await service.execute(f"alter database {database} set synchronous_commit = local", database)
    await service.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
        " and application_name like 'care-case%'"
    )
    await set_standby(postgres, "ghost")

    async with asyncio.timeout(10):
        answers = [await ask(service) for ask, _ in REQUESTS.values()]

    assert [status_of(answer) for answer in answers] == [status for _, status in REQUESTS.values()]
