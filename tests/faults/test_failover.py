"""A primary with a synchronous standby: the standby takes over, the service follows."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from service.demo.postgres import find_binaries
from service.wire import IDEMPOTENCY_HEADER
from tests.support.embedded import EmbeddedPostgres
from tests.support.ledger import Ledger
from tests.support.proxy import Proxy
from tests.support.running import MakeService
from tests.support.service import KEY, ServiceUnderTest

pytestmark = pytest.mark.slow


@pytest.fixture
def standby(postgres: EmbeddedPostgres, postgres_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A synchronous standby of the server."""
    folder = postgres_folder / "standby"
    data = folder / "data"
    subprocess.run(
        [
            find_binaries() / "pg_basebackup",
            *("--dbname", postgres.tcp_dsn()),
            *("--pgdata", data, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
        ],
        check=True,
        env={},
    )
    owner = (postgres_folder / "0" / "data").stat()
    for path in [folder, data, *data.rglob("*")]:
        os.chown(path, owner.st_uid, owner.st_gid)
    folder.chmod(0o755)
    with EmbeddedPostgres(folder, port=0) as standby:
        asyncio.run(_wait_for_standby(postgres))
        yield standby


async def _wait_for_standby(primary: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(primary.tcp_dsn())
    await connection.execute("alter system set synchronous_standby_names = '*'")
    await connection.execute("select pg_reload_conf()")
    async with asyncio.timeout(10):
        while await connection.fetchval("select sync_state from pg_stat_replication") != "sync":
            await asyncio.sleep(0.05)
    await connection.close()


@pytest.fixture
async def service(
    postgres: EmbeddedPostgres, standby: EmbeddedPostgres, make_service: MakeService
) -> ServiceUnderTest:
    """One that serves from whichever of the two is the primary."""
    hosts = f"127.0.0.1:{postgres.port},127.0.0.1:{standby.port}"
    dsn = f"postgresql://postgres@{hosts}/acme?target_session_attrs=primary"
    return await make_service({"acme": dsn})


async def fail_over(postgres: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    await asyncio.to_thread(postgres.kill)
    await asyncio.sleep(0.3)
    await promote(standby)


async def promote(standby: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(standby.tcp_dsn())
    assert await connection.fetchval("select pg_promote()")
    await connection.close()


async def test_batches_go_on_after_a_failover_and_nothing_is_lost(
    postgres: EmbeddedPostgres, standby: EmbeddedPostgres, service: ServiceUnderTest
) -> None:
    ledger = Ledger(service)

    async with ledger.under_load():
        await asyncio.sleep(0.5)
        await fail_over(postgres, standby)
        await ledger.assert_recovers()

    await ledger.assert_true()


async def test_a_record_without_key_is_created_once_over_a_failover(
    postgres: EmbeddedPostgres, standby: EmbeddedPostgres, service: ServiceUnderTest
) -> None:
    acknowledged: dict[str, int] = {}
    is_over = asyncio.Event()

    async def send(sender: int) -> None:
        for number in count():
            if is_over.is_set():
                return
            comment = f"{sender}.{number}"
            statuses: list[int] = []
            while statuses != [201]:
                answer = await service.put(
                    [{KEY: 0, "comment": comment}], headers={IDEMPOTENCY_HEADER: comment}
                )
                statuses = answer.statuses if answer.status == 207 else []
            acknowledged[comment] = int(answer.outcomes[0][0] or 0)

    sending = [asyncio.create_task(send(sender)) for sender in range(24)]
    await asyncio.sleep(0.5)
    before = len(acknowledged)
    await fail_over(postgres, standby)
    async with asyncio.timeout(30):
        while len(acknowledged) < 2 * before:
            await asyncio.sleep(0.05)
    is_over.set()
    await asyncio.gather(*sending)

    rows = await service.fetch(
        "select comment, care_case_clinical_trial_key as key from care_case_clinical_trial"
    )
    assert before > 0
    assert sorted((row["comment"], row["key"]) for row in rows) == sorted(acknowledged.items())


async def test_connections_to_a_demoted_primary_are_given_up(
    postgres: EmbeddedPostgres, standby: EmbeddedPostgres, make_service: MakeService
) -> None:
    async with Proxy(standby.tcp_dsn("acme")) as proxy:
        service = await make_service({"acme": proxy.dsn})
        sending = asyncio.create_task(service.put([{KEY: 1}, {KEY: 0}]))
        await asyncio.sleep(0.5)
        proxy.target = postgres.tcp_dsn("acme")

        assert (await sending).statuses == [201, 201]


async def test_a_read_only_standby_gives_503_and_heals_when_promoted(
    postgres: EmbeddedPostgres, standby: EmbeddedPostgres, make_service: MakeService
) -> None:
    service = await make_service({"acme": standby.tcp_dsn("acme")})

    answer = await service.put([{KEY: 1}, {KEY: 0}])
    await promote(standby)

    assert answer.statuses == [503, 503]
    assert all("read-only" in body for _, _, body in answer.outcomes)
    await Ledger(service).assert_recovers()
