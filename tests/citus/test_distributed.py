"""What is different where Citus distributes the table, and must not be for callers."""

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest

from service.migrations import migrate
from tests.support.citus import join
from tests.support.configuration import Configure, DatabaseSettings
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeRole, MakeService, RunCommand
from tests.support.service import KEY, ServiceUnderTest

LARGE: DatabaseSettings = {"statement_rows": 5000, "distributed": True}
CHECK = "alter table care_case_clinical_trial add constraint is_good check (comment <> 'bad')"


@pytest.fixture
async def service(make_service: MakeService) -> ServiceUnderTest:
    return await make_service(database=LARGE)


def batch_of(size: int, bad_each: int = 0, **fields: Any) -> list[Mapping[str, Any]]:
    """Return records of the keys from 1 on; of each so many, one is refused."""
    return [
        {KEY: key, **fields, "comment": "bad" if bad_each and key % bad_each == 0 else f"{key}"}
        for key in range(1, size + 1)
    ]


@pytest.mark.parametrize("size", [20, 400, 3000])
async def test_each_outcome_is_that_of_its_own_item(service: ServiceUnderTest, size: int) -> None:
    await service.put([{KEY: key} for key in range(1, size + 1, 3)])

    answer = await service.put(batch_of(size)[::-1])

    assert [int(key or 0) for key, _, _ in answer.outcomes] == list(range(size, 0, -1))
    assert answer.statuses == [200 if key % 3 == 1 else 201 for key in range(size, 0, -1)]
    assert await service.comments() == {key: f"{key}" for key in range(1, size + 1)}


@pytest.mark.parametrize("size", [1, 20, 400, 3000])
async def test_each_new_record_is_told_its_own_key(service: ServiceUnderTest, size: int) -> None:
    batch = [{KEY: 0, "comment": f"{place}"} for place in range(size)]
    key = {"Idempotency-Key": "of-this-test"}

    answer = await service.put(batch, headers=key)
    again = await service.put(batch, headers=key)

    assert answer.statuses == [201] * size
    assert await service.comments() == {key: f"{place}" for place, key in enumerate(answer.keys)}
    assert again.outcomes == answer.outcomes


async def test_a_refused_item_fails_alone_and_is_told_no_shard(service: ServiceUnderTest) -> None:
    await service.execute(CHECK)

    answer = await service.put(batch_of(1200, bad_each=100))

    assert answer.statuses == [400 if key % 100 == 0 else 201 for key in range(1, 1201)]
    assert {body for _, status, body in answer.outcomes if status == 400} == {
        'new row for relation "care_case_clinical_trial" violates check constraint "is_good"'
    }


async def test_a_missing_value_is_told_by_its_name_on_the_wire(service: ServiceUnderTest) -> None:
    await service.execute("alter table care_case_clinical_trial alter disease set not null")

    answer = await service.put([{KEY: 1, "disease": "x"}, {KEY: 2}])

    ((_, created, _), (_, refused, message)) = answer.outcomes
    assert (created, refused) == (201, 400)
    assert message.startswith("disease: null value")


@pytest.mark.parametrize("size", [20, 1000])
async def test_a_locked_record_fails_alone_and_soon(service: ServiceUnderTest, size: int) -> None:
    batch = batch_of(size)
    await service.put(batch)

    started_at = time.monotonic()
    async with service.locked_row(7):
        answer = await service.put(batch)

    assert answer.statuses == [503 if key == 7 else 200 for key in range(1, size + 1)]
    assert time.monotonic() - started_at < 15


async def failures(service: ServiceUnderTest) -> float:
    """Return how many statements the service had to apply item by item for a failure."""
    async with service.session.get(f"{service.url}/metrics") as response:
        text = await response.text()
    (failed,) = re.findall(
        r'^care_trials_sequential_statements_total\{cause="failure",database="acme"\} (\S+)$',
        text,
        re.MULTILINE,
    )
    return float(failed)


async def test_statements_at_the_same_time_do_not_keep_each_other_waiting(
    service: ServiceUnderTest,
) -> None:
    """Each of them goes to all shards."""
    batch = batch_of(3000)
    others = [{**item, KEY: int(item[KEY]) + 100_000} for item in batch]
    await asyncio.gather(service.put(batch), service.put(others))
    before = await failures(service)

    for _ in range(5):
        answers = await asyncio.gather(service.put(batch), service.put(others))
        assert [answer.statuses for answer in answers] == [[200] * 3000] * 2

    assert await failures(service) == before


async def test_new_records_pass_by_keys_that_row_level_security_hides(
    service: ServiceUnderTest, make_role: MakeRole
) -> None:
    await service.put([{KEY: key, "disease": "hidden"} for key in range(1, 61)])
    await service.execute("alter table care_case_clinical_trial enable row level security")
    await service.execute(
        "create policy hide on care_case_clinical_trial using (disease is distinct from 'hidden')"
    )
    of_role = await make_role(service)

    answer = await of_role.put([{KEY: 0, "disease": "x"}] * 3)

    assert answer.statuses == [201] * 3
    assert min(answer.keys) > 60


async def test_receipts_stay_on_the_coordinator(service: ServiceUnderTest) -> None:
    (row,) = await service.fetch(
        "select array_agg(logicalrelid::text) as names, min(count) as shards"
        " from pg_dist_partition join (select logicalrelid, count(*) as count"
        " from pg_dist_shard group by logicalrelid) as shard using (logicalrelid)"
    )

    assert row["names"] == ["care_case_clinical_trial"]
    assert row["shards"] >= 4


async def test_a_record_and_its_receipt_are_committed_in_two_phases(
    service: ServiceUnderTest,
) -> None:
    """Citus notes such a commit, and forgets it some time later."""
    noted = "select gid from pg_dist_transaction"
    before = await service.fetch(noted)

    answer = await service.put([{KEY: 0}])

    after = await service.fetch(noted)
    assert answer.statuses == [201]
    assert set(after) - set(before)


async def test_migrate_distributes_a_table_with_records(
    make_database: MakeDatabase,
    run_command: RunCommand,
    configure: Configure,
    make_service: MakeService,
    server_dsn: str,
) -> None:
    dsn = make_database(migrated=False)
    await asyncio.to_thread(join_in_thread, server_dsn, dsn.rpartition("/")[2])
    await migrate(dsn)
    service = await make_service({"acme": dsn})
    await service.put(batch_of(100))
    document = configure({"acme": dsn}, database=LARGE)

    checked = run_command("check-config", config=document)
    migrated = [run_command("migrate", config=document) for _ in range(2)]

    assert "distributed = true, but it is not: run care-trials migrate" in checked.stdout
    assert [command.returncode for command in migrated] == [0, 0], migrated
    assert await service.fetch("select from pg_dist_partition")
    answer = await service.put(batch_of(101))
    assert answer.statuses == [200] * 100 + [201]


def join_in_thread(server_dsn: str, database: str) -> None:
    asyncio.run(join(server_dsn, database))


def test_migrate_says_so_where_the_database_has_no_citus(
    make_database: MakeDatabase, run_command: RunCommand, configure: Configure
) -> None:
    document = configure({"acme": make_database(migrated=False)}, database=LARGE)

    command = run_command("migrate", config=document)

    assert command.returncode == 1
    assert "the database has no Citus" in command.stderr
