"""Migrations: repeatable, concurrent, and silent about credentials."""

import asyncio
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest

from service import migrations
from service.demo.postgres import EmbeddedPostgres
from service.migrations import MigrationFailed, is_current, migrate, wait_until_current
from service.statements import MISSING_PRIVILEGES, SQL_FOLDER
from tests.harness.postgres import MakeDatabase
from tests.harness.running import MakeService
from tests.harness.service import KEY


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


MIGRATIONS_OF_1_0 = ["0001_care_case_clinical_trial.sql", "0002_upsert_functions.sql"]

GRANTS_OF_1_0 = """
    grant select, insert, update on care_case_clinical_trial to {role};
    grant usage, update on sequence
        care_case_clinical_trial_care_case_clinical_trial_key_seq to {role}
"""

# What 1.0 runs for a chunk; then, where that fails, item by item.
UPSERT_OF_1_0 = """
    select written.created, written.updated
    from care_case_clinical_trial_upsert($1, 'one', true) as written
"""
UPSERT_EACH_OF_1_0 = """
    select outcome.item_position, outcome.key, outcome.created, outcome.error_sqlstate
    from care_case_clinical_trial_upsert_each($1, 'one', true, array['08']) as outcome
"""


def _items(*keys: int, case_key: int | None = None) -> list[tuple[Any, ...]]:
    return [(key, None, None, None, case_key, *[None] * 13) for key in keys]


async def test_1_0_serves_on_while_its_database_is_upgraded_and_afterwards(
    make_database: MakeDatabase,
    make_service: MakeService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dsn, role = make_database(migrated=False), f"role_{secrets.token_hex(4)}"
    (tmp_path / "migrations").mkdir()
    for name in MIGRATIONS_OF_1_0:
        shutil.copy(SQL_FOLDER / "migrations" / name, tmp_path / "migrations")
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "SQL_FOLDER", tmp_path)
        await migrate(dsn)
    owner = await asyncpg.connect(dsn)
    await owner.execute(
        "alter table care_case_clinical_trial add constraint own check (case_key > 0);"
        f"create role {role} login password '{role}'; {GRANTS_OF_1_0.format(role=role)}"
    )
    theirs = re.sub(r"://[^/]*@", f"://{role}:{role}@", dsn)
    old = await asyncpg.connect(theirs)
    try:
        await old.fetch(UPSERT_OF_1_0, _items(1, 2))
        async with old.transaction():
            # A statement in the middle of its work; whatever wants the table for itself waits.
            await old.fetch(UPSERT_OF_1_0, _items(2, 3))
            await asyncio.wait_for(asyncio.to_thread(asyncio.run, migrate(dsn)), 20)
        missing = await old.fetch(MISSING_PRIVILEGES)
        service = await make_service({"acme": theirs})
        answer = await service.put(
            [{KEY: 3}, {KEY: 4}, {KEY: 0}], headers={"Idempotency-Key": "of-the-upgrade"}
        )
        (written,) = await old.fetch(UPSERT_OF_1_0, _items(4, 15))
        one_by_one = await old.fetch(
            UPSERT_EACH_OF_1_0, [*_items(4, 16), *_items(17, case_key=-1), *_items(18)]
        )
        again = await service.put([{KEY: 18}, {KEY: 17}])
    finally:
        await old.close()
        await owner.execute(f"drop owned by {role}; drop role {role}")
        await owner.close()

    assert not missing
    assert answer.statuses == [200, 201, 201]
    assert tuple(written) == ([15], [4])
    assert [tuple(row) for row in one_by_one] == [
        (1, 4, False, None),
        (2, 16, True, None),
        (3, 17, None, "23514"),
        (4, 18, True, None),
        (5, None, None, None),
    ]
    assert again.statuses == [200, 201]


@pytest.fixture
def both_families(postgres_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A server that listens on a socket, and by both versions of IP."""
    addresses = {"listen_addresses": "127.0.0.1,::1"}
    with EmbeddedPostgres(postgres_folder, durable=False, settings=addresses, port=0) as postgres:
        postgres.create_database("acme")
        yield postgres


@pytest.mark.parametrize("form", ["ipv6", "socket as host", "socket as parameter", "several hosts"])
async def test_every_form_of_address_works_as_it_does_for_the_service(
    both_families: EmbeddedPostgres, make_service: MakeService, form: str
) -> None:
    port, by_socket = both_families.port, both_families.dsn("acme")
    folder = parse_qs(urlsplit(by_socket).query)["host"][0]
    dsn = {
        "ipv6": f"postgresql://postgres@[::1]:{port}/acme",
        "socket as host": f"postgresql://postgres@{quote(folder, safe='')}:{port}/acme",
        "socket as parameter": by_socket,
        "several hosts": f"postgresql://postgres@[::1]:1,127.0.0.1:{port}/acme",
    }[form]

    await migrate(dsn)
    service = await make_service({"acme": dsn})
    answer = await service.put([{KEY: 1}])

    assert await is_current(dsn)
    assert answer.statuses == [201]


async def test_the_status_needs_no_right_that_the_serving_role_lacks(
    make_database: MakeDatabase,
) -> None:
    migrated, empty = make_database(), make_database(migrated=False)
    role = f"role_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(migrated)
    await connection.execute(f"create role {role} login password '{role}'")
    try:
        theirs, theirs_empty = (
            re.sub(r"://[^/]*@", f"://{role}:{role}@", dsn) for dsn in (migrated, empty)
        )
        assert await is_current(theirs)
        assert not await is_current(theirs_empty)
    finally:
        await connection.execute(f"drop role {role}")
        await connection.close()


async def test_waiting_ends_as_soon_as_the_schema_is_current(make_database: MakeDatabase) -> None:
    dsn = make_database(migrated=False)
    waiting = asyncio.create_task(wait_until_current(dsn, 20))
    await asyncio.sleep(0.1)
    assert not waiting.done()

    await migrate(dsn)

    assert await asyncio.wait_for(waiting, 5)


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
        "postgresql://u:marker@127.0.0.1:99999/x",
        "postgresql://u:marker@[::1/x",
    ],
)
async def test_a_failure_names_its_cause_and_no_credential(dsn: str) -> None:
    with pytest.raises(
        MigrationFailed, match=r"nothing listens|cannot connect|not a valid URL"
    ) as raised:
        await migrate(dsn)

    assert "marker" not in str(raised.value)
