"""The promise "Nobody else's code": where the names in SQL lead."""
# ruff: noqa: S608 (the statements are made of constants)

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from itertools import product
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.migrations import MigrationFailed, is_current, migrate
from service.statements import DELETE_EXPIRED, SQL_FOLDER, in_schema
from tests.support.configuration import document
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeRole, MakeService, RunCommand
from tests.support.service import KEY, ServiceUnderTest

TABLE = "care_case_clinical_trial"
ALLOW = ["batch", "read", "write", "delete"]


@pytest.fixture
async def role(server_dsn: str) -> AsyncIterator[str]:
    """A role of somebody else's."""
    name = f"role_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(server_dsn)
    await connection.execute(f"create role {name}")
    yield name
    await connection.execute(f"drop role {name}")
    await connection.close()


async def use(service: ServiceUnderTest) -> list[int]:
    """Make requests that reach every path of the functions; return their statuses."""
    batches: list[tuple[list[Any], dict[str, str | None]]] = [
        ([{KEY: key} for key in (0, 0, 7, 8)], {"Idempotency-Key": "k"}),
        ([{KEY: key} for key in (0, 0, 7, 8)], {"Idempotency-Key": "k"}),
        ([{KEY: key, "case_Key": 1} for key in range(100, 200)], {}),
        (
            [{KEY: 7, "update_Date": f"200{n}-01-01"} for n in (2, 1)],
            {"Prefer": "resolution=newest"},
        ),
        ([{KEY: 20}, {KEY: 20, "case_Key": "x"}, {KEY: 20}], {}),
    ]
    statuses = []
    for batch, headers in batches:
        statuses += (await service.put(batch, headers=headers)).statuses
    for method, path, record in [
        ("POST", "", {KEY: 0}), ("POST", "", {KEY: 30}), ("PUT", "/30", {KEY: 30}),
        ("GET", "/30", None), ("GET", "?pageSize=5", None), ("DELETE", "/30", None),
    ]:  # fmt: skip
        statuses.append((await service.ask(method, path, record)).status)
    await service.fetch(in_schema(DELETE_EXPIRED, "public"), 7, 100)
    return statuses


ALL_WELL = [
    *([201] * 4), *(201, 201, 200, 200), *([201] * 100), *(409, 409), *(201, 400, 200),
    *(201, 201, 200, 200, 200, 204),
]  # fmt: skip


@pytest.mark.usefixtures("short_retries")
@pytest.mark.parametrize("grantee", ["public", "role"])
async def test_a_path_in_which_others_can_create_is_refused_until_that_is_revoked(
    make_database: MakeDatabase,
    make_service: MakeService,
    run_command: RunCommand,
    role: str,
    grantee: str,
) -> None:
    dsn, grantee = make_database(), role if grantee == "role" else grantee
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"grant create on schema public to {grantee}")
    service = await make_service({"acme": dsn})

    refused = await service.put([{KEY: 1}])
    config = document({"acme": dsn})
    result = await asyncio.to_thread(run_command, "check-config", config=config)
    with pytest.raises(MigrationFailed, match="revoke create"):
        await migrate(dsn)
    remedy = re.search(r"revoke create on schema \S+ from \S+", result.stdout)
    assert remedy
    await connection.execute(remedy[0])
    await connection.close()
    answer = await service.put([{KEY: 1}])

    assert refused.statuses == [503]
    assert "check-config" in refused.outcomes[0][2]
    assert result.returncode == 1
    assert answer.statuses == [201]


@pytest.mark.usefixtures("short_retries")
async def test_a_schema_that_does_not_exist_is_refused(
    make_database: MakeDatabase, make_service: MakeService
) -> None:
    dsn = make_database()
    service = await make_service({"acme": dsn}, database={"search_path": ["public", "absent"]})

    answer = await service.put([{KEY: 1}])

    assert answer.statuses == [503]


async def test_the_path_that_the_functions_still_have_counts(
    make_database: MakeDatabase, make_service: MakeService
) -> None:
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    await connection.execute("create schema extra")
    await migrate(dsn, ["public", "extra"])
    service = await make_service({"acme": dsn})

    await connection.execute("grant create on schema extra to public")
    refused = await service.put([{KEY: 1}])
    async with service.session.get(f"{service.url}/readyz") as response:
        ready = (response.status, (await response.json(content_type=None))["error"]["detail"])
    current = await is_current(dsn)
    await migrate(dsn)
    answer = await service.put([{KEY: 1}])
    await connection.close()

    assert refused.statuses == [503]
    assert ready[0] == 503
    assert "care-trials check-config" in ready[1]
    assert not current
    assert answer.statuses == [201]


def called_names() -> list[str]:
    """Return the names of all that looks like the call of a function in our SQL."""
    names = {
        name
        for path in SQL_FOLDER.rglob("*.sql")
        for name in re.findall(r"\b([a-z_]+)\(", re.sub(r"--.*", "", path.read_text()))
    }
    return sorted(name for name in names if not name.startswith(TABLE))


CLOSER = [
    *(f"{TABLE}_item[]", "integer[]", "int4range", "int4multirange", "name", "text", "text[]"),
    *("integer", "bigint"),
    *("text, text", "text, name, name", "integer[], integer", "text, integer"),
]
"""Types for which some functions of PostgreSQL's have no exact match."""

PLANTED = """
    create function planted({arguments}) returns {result} language plpgsql as
    $$ begin raise exception 'planted code runs'; end $$
"""


async def test_what_others_planted_before_is_not_used(
    make_database: MakeDatabase, make_service: MakeService, role: str
) -> None:
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"grant create on schema public to {role}; set role {role}")
    planted = 0
    for name, kind in product(called_names(), CLOSER):
        statement = PLANTED.format(arguments=kind, result="integer")
        try:
            await connection.execute(statement.replace("planted", f'public."{name}"', 1))
            planted += 1
        except asyncpg.PostgresError:
            continue
    for operator, left, right in [
        ("&&", "integer[]", "integer[]"), ("||", "integer[]", "integer[]"),
        ("||", "integer[]", "integer"), ("=", f"{TABLE}_item", f"{TABLE}_item"),
    ]:  # fmt: skip
        planted += 1
        await connection.execute(
            PLANTED.format(arguments=f"{left}, {right}", result="boolean").replace(
                "planted", f"public.planted_{planted}", 1
            )
            + f"; create operator public.{operator} (function = public.planted_{planted},"
            f" leftarg = {left}, rightarg = {right})"
        )
    await connection.execute(
        f"reset role; revoke create on schema public from {role}; create schema tenant"
    )
    try:
        # As the owner, whose rights they would have; with another path, so that it applies all.
        await migrate(dsn, ["public", "tenant"])
        await migrate(dsn)
        service = await make_service({"acme": dsn}, allow=ALLOW)

        statuses = await use(service)
    finally:
        await connection.execute(f"drop owned by {role} cascade")
        await connection.close()

    assert planted > 100
    assert statuses == ALL_WELL


async def test_neither_the_roles_own_schema_nor_its_path_diverts_records(
    make_service: MakeService, make_role: MakeRole
) -> None:
    service = await make_service()
    serving = await make_role(service, "select, insert, update, delete", ALLOW)
    name = urlsplit(serving.databases["acme"]).username
    assert name
    await service.execute(f"create schema {name}; grant usage on schema {name} to {name}")
    await migrate(service.databases["acme"], [name])
    await service.execute(
        f'alter role {name} set search_path = "$user", public;'
        f"grant all on all tables in schema {name} to {name}"
    )

    statuses = await use(serving)

    assert statuses == ALL_WELL
    assert await service.fetch(f"select from {name}.{TABLE}") == []
    await service.execute(f"drop schema {name} cascade")


async def test_a_temporary_table_of_the_sessions_does_not_swallow_records(
    make_service: MakeService,
) -> None:
    service = await make_service(allow=ALLOW)
    await service.execute(
        "create function hide() returns trigger language plpgsql as $$ begin"
        f" create temporary table if not exists {TABLE} (like public.{TABLE} including all);"
        " return new; end $$;"
        f"create trigger hide before insert on {TABLE} for each row execute function hide()"
    )

    assert await use(service) == ALL_WELL
    assert len(await service.fetch(f"select from public.{TABLE}")) == 106


async def test_the_record_table_can_be_in_a_schema_of_its_own(
    make_database: MakeDatabase, make_service: MakeService, run_command: RunCommand
) -> None:
    dsn, path = make_database(migrated=False), ["Clinical trials", "tenant"]
    connection = await asyncpg.connect(dsn)
    await connection.execute('create schema "Clinical trials"; create schema tenant')
    config = document({"acme": dsn}, database={"search_path": path})
    migrated = await asyncio.to_thread(run_command, "migrate", config=config)
    # Found by the path, which the trigger function does not name.
    await connection.execute(
        "create table tenant.seen (key integer);"
        "create function tenant.see() returns trigger language plpgsql as $$ begin"
        f" insert into seen values (new.{TABLE}_key); return new; end $$;"
        f'create trigger see after insert on "Clinical trials".{TABLE}'
        " for each row execute function tenant.see()"
    )
    service = await make_service({"acme": dsn}, database={"search_path": path}, allow=ALLOW)

    answer = await service.put([{KEY: 5}, {KEY: 0}])
    page = await service.ask("GET")
    checked = await asyncio.to_thread(run_command, "check-config", config=config)
    status = await asyncio.to_thread(run_command, "migrate", "--status", config=config)
    seen = await connection.fetchval("select count(*) from tenant.seen")
    await connection.close()

    assert migrated.returncode == 0, migrated.stderr
    assert answer.statuses == [201, 201]
    assert len(page.envelope["data"]) == 2
    assert seen == 2
    assert checked.returncode == 0, checked.stdout
    assert "tenant.see() has no search_path of its own" in checked.stdout
    assert status.returncode == 0
    assert not await is_current(dsn)


async def test_a_changed_path_takes_effect_with_migrate(
    make_database: MakeDatabase, run_command: RunCommand
) -> None:
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    await connection.execute("create schema tenant")
    await connection.close()
    config = document({"acme": dsn}, database={"search_path": ["public", "tenant"]})

    before = await asyncio.to_thread(run_command, "check-config", config=config)
    await asyncio.to_thread(run_command, "migrate", config=config)
    after = await asyncio.to_thread(run_command, "check-config", config=config)

    assert before.returncode == 1
    assert "run: care-trials migrate" in before.stdout
    assert after.returncode == 0, after.stdout


@pytest.mark.parametrize("name", ["", "pg_temp", "$user", "a.b", 'a"b', "a'b", "{a}", "x" * 64])
def test_a_name_that_is_no_schemas_is_refused(run_command: RunCommand, name: str) -> None:
    config = document({"acme": "postgresql://u@127.0.0.1:1/x"}, database={"search_path": [name]})

    result = run_command("check-config", config=config)

    assert result.returncode == 1
    assert "databases.acme.search_path" in result.stderr
