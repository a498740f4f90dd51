"""The promise "Independent of settings": whatever a database or a role sets."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.harness.postgres import MakeDatabase
from tests.harness.running import MakeService
from tests.harness.service import KEY
from tests.model.twins import ODD_SETTINGS

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


@pytest.mark.parametrize("setting", [None, *ODD_SETTINGS], ids=str)
async def test_outcomes_do_not_depend_on_settings(
    make_database: MakeDatabase, make_service: MakeService, setting: tuple[str, str] | None
) -> None:
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    await connection.execute(SLOW)
    if setting is not None:
        name, value = setting
        if not await connection.fetchval("select current_setting($1, true)", name):
            pytest.skip("the server does not know the setting")
        database = await connection.fetchval("select current_database()")
        await connection.execute(f"alter database {database} set {name} = {value}")
    await connection.close()
    service = await make_service({"acme": dsn}, allow=["batch", "read", "write"])

    answers = await asyncio.gather(*map(service.put, REQUESTS))
    newest = await service.put(
        [{KEY: 7, "update_Date": "2001-01-01"}], headers={"Prefer": "resolution=newest"}
    )
    read = await service.ask("GET", "/8")

    assert [answer.statuses for answer in answers] == [
        [201, 201, 200], [201] * 100, [201, 201, 201, 400], [201] * 10,
    ]  # fmt: skip
    assert newest.statuses == [409]
    assert read.envelope["data"]["comment"] == REQUESTS[2][2]["comment"]
