"""Migrations: repeatable, concurrent, and silent about credentials."""

import asyncio
import subprocess
import sys

import asyncpg
import pytest

from service.migrations import MigrationFailed, migrate
from service.statements import SCHEMA_IS_CURRENT
from tests.harness.postgres import MakeDatabase
from tests.harness.running import MakeService


async def is_current(dsn: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return bool(await connection.fetchval(SCHEMA_IS_CURRENT))
    finally:
        await connection.close()


async def test_migrating_twice_changes_nothing(make_database: MakeDatabase) -> None:
    dsn = make_database(migrated=False)
    assert not await is_current(dsn)

    await migrate(dsn)
    await migrate(dsn)

    assert await is_current(dsn)


async def test_four_processes_may_migrate_at_once(make_database: MakeDatabase) -> None:
    dsn = make_database(migrated=False)
    script = (
        "import asyncio, sys; from service.migrations import migrate;"
        " asyncio.run(migrate(sys.argv[1]))"
    )

    processes = [subprocess.Popen([sys.executable, "-c", script, dsn]) for _ in range(4)]
    codes = [await asyncio.to_thread(process.wait) for process in processes]

    assert codes == [0] * 4
    assert await is_current(dsn)


async def test_the_service_does_without_what_tenants_add(
    make_service: MakeService,
) -> None:
    """A tenant may add columns; the statements name theirs."""
    service = await make_service()
    await service.execute("alter table care_case_clinical_trial add region text default 'eu'")

    answer = await service.put([{"careCaseClinicalTrial_Key": 1}])

    assert answer.statuses == [201]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:marker@127.0.0.1:1/x",
        "postgresql://u:marker@127.0.0.1:1,127.0.0.1:2/x?target_session_attrs=primary",
        "postgresql://u:marker@127.0.0.1:notaport/x",
        "postgresql://u:marker@[::1/x",
    ],
)
async def test_a_failure_names_its_cause_and_no_credential(dsn: str) -> None:
    with pytest.raises(MigrationFailed, match=r"cannot connect|not a valid URL") as raised:
        await migrate(dsn)

    assert "marker" not in str(raised.value)
