"""The promise "Independent of settings": whatever a database or a role sets."""

import asyncio
from typing import Any

import asyncpg

from tests.model.checkout import ODD_SETTINGS
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService
from tests.support.service import KEY, ServiceUnderTest

SLOW = """
    create function slow() returns trigger language plpgsql as $$ begin
        perform pg_sleep(case new.comment when 'slow' then 1.3 else 0 end); return new;
    end $$;
    create trigger slow before insert on care_case_clinical_trial
    for each row execute function slow()
"""

REQUESTS: list[list[dict[str, Any]]] = [
    [
        {KEY: 0, "entry_Date": "0001-01-01T00:00:00Z"},
        {KEY: 7, "update_Date": "2025-02-03"},
        {KEY: 7},
    ],
    [{KEY: key} for key in range(100, 200)],
    [{KEY: 0}, {KEY: 0}, {KEY: 8, "comment": r"\\d \' \\' {}"}, {KEY: 9, "case_Key": "x"}],
    [{KEY: key, "comment": "slow" if key == 301 else "fast"} for key in range(300, 310)],
]


async def use(service: ServiceUnderTest, database: str) -> list[Any]:
    """Make requests of each kind to one database; return their outcomes."""
    answers = await asyncio.gather(*(service.put(batch, database=database) for batch in REQUESTS))
    newest = await service.put(
        [{KEY: 7, "update_Date": "2001-01-01"}],
        headers={"Prefer": "resolution=newest"},
        database=database,
    )
    read = await service.ask("GET", "/8", database=database)
    outcomes = [answer.statuses for answer in (*answers, newest)]
    return [*outcomes, read.envelope["data"]["comment"]]


async def test_outcomes_do_not_depend_on_settings(
    make_database: MakeDatabase, make_service: MakeService
) -> None:
    databases = {}
    for name, value in [("", ""), *ODD_SETTINGS]:
        dsn = make_database()
        connection = await asyncpg.connect(dsn)
        await connection.execute(SLOW)
        # The server may not know it.
        if name and await connection.fetchval("select current_setting($1, true)", name):
            database = await connection.fetchval("select current_database()")
            await connection.execute(f"alter database {database} set {name} = {value}")
        await connection.close()
        databases[f"with-{name}"] = dsn
    service = await make_service(databases, allow=["batch", "read", "write"])

    outcomes = await asyncio.gather(*(use(service, database) for database in databases))

    expected = [
        [201, 201, 200], [201] * 100, [201, 201, 201, 400], [201] * 10, [409],
        REQUESTS[2][2]["comment"],
    ]  # fmt: skip
    assert dict(zip(databases, outcomes, strict=True)) == dict.fromkeys(databases, expected)
