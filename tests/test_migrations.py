"""Migrations: repeatable, concurrent, and silent about credentials."""

import asyncio
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest

from service.migrations import MigrationFailed, is_current, migrate, wait_until_current
from tests.support.embedded import EmbeddedPostgres
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService
from tests.support.service import KEY


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
        MigrationFailed, match=r"nothing is listening|cannot connect|not a valid URL"
    ) as raised:
        await migrate(dsn)

    assert "marker" not in str(raised.value)


async def test_the_list_of_migrations_is_the_services_own(make_database: MakeDatabase) -> None:
    """Others of dbmate's users, Ecto, Rails and golang-migrate keep theirs in schema_migrations."""
    dsn = make_database(migrated=False)
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "create table schema_migrations (version bigint primary key, dirty boolean not null);"
        "insert into schema_migrations values (1, true), (2, false)"
    )

    await migrate(dsn)

    assert await is_current(dsn)
    assert await connection.fetchval("select count(*) from schema_migrations") == 2
    await connection.close()


async def test_options_of_the_dsn_apply_to_all_that_migrate_does(
    make_database: MakeDatabase,
) -> None:
    dsn, role = make_database(migrated=False), f"role_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"create role {role}; grant create on schema public to {role}")
    try:
        await migrate(f"{dsn}{'&' if '?' in dsn else '?'}options=-crole%3D{role}")
        owners = await connection.fetch(
            "select distinct tableowner from pg_tables where schemaname = 'public'"
        )
    finally:
        await connection.execute(f"drop owned by {role}; drop role {role}")
        await connection.close()

    assert [owner for (owner,) in owners] == [role]


async def test_the_status_without_usage_of_the_schema_is_an_error(
    make_database: MakeDatabase,
) -> None:
    dsn, role = make_database(), f"role_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        f"create role {role} login password '{role}'; revoke usage on schema public from public"
    )
    try:
        with pytest.raises(MigrationFailed, match="permission denied for schema public"):
            await is_current(re.sub(r"://[^/]*@", f"://{role}:{role}@", dsn))
    finally:
        await connection.execute(f"drop role {role}")
        await connection.close()


async def test_functions_of_another_release_are_replaced(make_database: MakeDatabase) -> None:
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "insert into care_case_clinical_trial_functions values ('of a later release');"
        "create or replace function care_case_clinical_trial_commute_blockers()"
        " returns setof text language sql as $$select 'another rule'$$"
    )
    # A service of this release goes on while a later one is being installed.
    assert await is_current(dsn)

    await migrate(dsn)

    reasons = "select * from care_case_clinical_trial_commute_blockers()"
    assert await connection.fetch(reasons) == []
    await connection.close()
