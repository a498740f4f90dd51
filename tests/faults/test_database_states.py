"""A database that is full, locked, busy, gone, not migrated: status, message, and healing."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.migrations import migrate
from tests.support.embedded import EmbeddedPostgres
from tests.support.ledger import Ledger
from tests.support.postgres import MakeDatabase, MakePostgres
from tests.support.running import MakeRole, MakeService
from tests.support.service import KEY, ServiceUnderTest

pytestmark = pytest.mark.usefixtures("short_retries")


async def assert_503_then_healed(service: ServiceUnderTest, reason: str, during: Any) -> None:
    """Send a record with and one without key during the fault, and again after it."""
    async with during:
        answer = await service.put([{KEY: 1}, {KEY: 0}])
    assert answer.statuses == [503, 503]
    for _, _, body in answer.outcomes:
        assert reason in body
        assert "resend the item" in body
    await Ledger(service).assert_recovers()


async def test_a_statement_timeout_is_503(make_service: MakeService) -> None:
    service = await make_service(database={"statement_timeout_seconds": 1})

    await assert_503_then_healed(service, "took longer than", service.locked_table())


async def test_a_lock_timeout_is_503_and_spoils_no_later_chunk(make_service: MakeService) -> None:
    service = await make_service()
    (row,) = await service.fetch("select current_database() as name")
    await service.execute(f"alter database {row['name']} set lock_timeout = '50ms'")

    await assert_503_then_healed(service, "waiting for a lock", service.locked_table())


async def test_a_statement_given_up_for_a_slow_trigger_holds_no_rows_of_others(
    make_service: MakeService,
) -> None:
    """The trigger is slow once, for a minute; a statement shared with others has 3 seconds."""
    service = await make_service()
    await service.execute(
        """
        create sequence calls;
        create function slow() returns trigger language plpgsql as $$
        begin
            if new.care_case_clinical_trial_key = 2 and nextval('calls') = 1 then
                perform pg_sleep(60);
            end if;
            return new;
        end
        $$;
        create trigger slow before insert on care_case_clinical_trial
        for each row execute function slow()
        """
    )

    answer = await service.put([{KEY: 1}, {KEY: 2}, {KEY: 3}])

    assert answer.statuses == [201, 201, 201]


async def test_too_many_connections_are_503(
    make_postgres: MakePostgres, make_service: MakeService
) -> None:
    postgres = await asyncio.to_thread(
        make_postgres, {"max_connections": "8", "superuser_reserved_connections": "0"}
    )
    service = await make_service({"acme": postgres.tcp_dsn("acme")})

    @asynccontextmanager
    async def crowded() -> AsyncIterator[None]:
        others: list[Any] = []

        async def crowd() -> None:
            while True:
                others.append(await service.connect())

        with pytest.raises(asyncpg.TooManyConnectionsError):
            await crowd()
        yield
        for other in others:
            await other.close()

    await assert_503_then_healed(service, "too many connections", crowded())


async def test_a_database_that_is_dropped_is_503_until_it_is_there_again(
    postgres: EmbeddedPostgres, make_service: MakeService
) -> None:
    service = await make_service({"acme": postgres.tcp_dsn("acme")})
    await service.put([{KEY: 1}])

    @asynccontextmanager
    async def dropped() -> AsyncIterator[None]:
        connection = await asyncpg.connect(postgres.tcp_dsn())
        await connection.execute("drop database acme with (force)")
        yield
        await connection.execute("create database acme")
        await connection.close()
        await migrate(postgres.tcp_dsn("acme"))

    await assert_503_then_healed(service, "does not exist", dropped())


def fill(path: Path) -> None:
    with path.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))


async def test_a_full_disk_is_503_and_loses_nothing(
    postgres: EmbeddedPostgres, make_service: MakeService
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = Path(tempfile.mkdtemp(prefix="disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=777", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    try:
        service = await make_service({"acme": postgres.tcp_dsn("acme")})
        (disk / "data").mkdir()
        owner = Path(f"/proc/{postgres.postmaster}").stat()
        os.chown(disk / "data", owner.st_uid, owner.st_gid)
        await service.execute(f"create tablespace small location '{disk}/data'")
        await service.execute("alter table care_case_clinical_trial set tablespace small")
        assert await Ledger(service).send(1)
        ballast = disk / "ballast"

        @asynccontextmanager
        async def full() -> AsyncIterator[None]:
            with pytest.raises(OSError, match="No space left"):
                fill(ballast)
            yield
            ballast.unlink()

        async with full():
            comments = {key: os.urandom(900).hex() for key in range(1, 1001)}
            answer = await service.put([{KEY: k, "comment": c} for k, c in comments.items()])
        assert set(answer.statuses) <= {200, 201, 503}
        refused = [body for _, status, body in answer.outcomes if status == 503]
        assert refused
        assert all("disk is full" in body for body in refused)
        stored = await service.comments()
        for (key, comment), status in zip(comments.items(), answer.statuses, strict=True):
            assert (stored.get(key) == comment) == (status != 503)
        await Ledger(service).assert_recovers()
        # Checkpoints of a server that stops write to it.
        await service.execute("alter table care_case_clinical_trial set tablespace pg_default")
        await service.execute("drop tablespace small")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        shutil.rmtree(disk)


async def test_a_schema_that_is_not_migrated_is_500_and_the_log_says_what_to_do(
    make_service: MakeService,
    make_database: MakeDatabase,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dsn = make_database(migrated=False)
    service = await make_service({"acme": dsn})

    answer = await service.put([{KEY: 1}, {KEY: 0}])
    await migrate(dsn)

    for _, status, body in answer.outcomes:
        assert status == 500
        assert body == f"Internal error, activityID {answer.envelope['debug']['activityID']}"
    assert "run: care-trials migrate" in caplog.text
    await Ledger(service).assert_recovers()


async def test_a_role_that_is_given_its_privilege_heals(
    make_service: MakeService, make_role: MakeRole
) -> None:
    service = await make_service()
    restricted = await make_role(service, privileges="select")

    answer = await restricted.put([{KEY: 1}, {KEY: 0}])
    role = restricted.databases["acme"].split("//")[1].split(":")[0]
    await service.execute(f"grant insert, update on care_case_clinical_trial to {role}")

    assert answer.statuses == [403, 403]
    await Ledger(restricted).assert_recovers()
