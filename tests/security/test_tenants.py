"""Two tenants with the same keys, sent at the same time: no row and no outcome crosses."""

import asyncio
import itertools
import random

import pytest

from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService
from tests.support.service import GUEST_KEY, KEY

TENANTS = ("acme", "globex")
AT_ONCE = 8


@pytest.mark.parametrize(("records", "size"), [(100, 20), (20_000, 1_000)])
async def test_interleaved_batches_of_the_same_keys_stay_with_their_tenant(
    make_service: MakeService, make_database: MakeDatabase, records: int, size: int
) -> None:
    service = await make_service(extra_databases={"globex": make_database()})
    # A small and a large refused part, so that both ways through the engine are taken.
    for tenant in TENANTS:
        other = TENANTS[tenant == "acme"]
        await service.execute(
            f"alter table care_case_clinical_trial add check (comment not like '{other}%')", tenant
        )
    work = list(itertools.product(range(1, records, size), TENANTS))
    random.Random(7).shuffle(work)
    turns = asyncio.Semaphore(AT_ONCE)

    async def send(first: int, tenant: str) -> None:
        batch = [{KEY: key, "comment": f"{tenant} {key}"} for key in range(first, first + size)]
        async with turns:
            answer = await service.put(batch, database=tenant)
        assert [(key, status) for key, status, _ in answer.outcomes] == [
            (str(record[KEY]), 201) for record in batch
        ]

    await asyncio.gather(*(send(first, tenant) for first, tenant in work))

    for tenant in TENANTS:
        (row,) = await service.fetch(
            "select count(*), count(*) filter (where comment = $1 || ' ' ||"
            " care_case_clinical_trial_key) from care_case_clinical_trial",
            tenant,
            database=tenant,
        )
        assert tuple(row) == (records, records)


async def test_small_batches_that_are_gathered_stay_with_their_tenant_and_caller(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    service = await make_service(extra_databases={"globex": make_database()})

    async def send(key: int, tenant: str) -> str:
        headers = {"x-api-key": GUEST_KEY} if tenant == "globex" else {}
        answer = await service.put(
            [{KEY: key, "comment": tenant}, {KEY: key, "entry_Date": "never"}],
            database=tenant,
            headers=headers,
        )
        assert [(name, status) for name, status, _ in answer.outcomes] == [
            (str(key), 201),
            (str(key), 400),
        ]
        return answer.headers["X-Activity-ID"]

    work = list(itertools.product(range(1, 101), TENANTS))
    ids = await asyncio.gather(*(send(key, tenant) for key, tenant in work))

    assert len(set(ids)) == len(work)
    for tenant in TENANTS:
        rows = await service.fetch(
            "select comment, count(*) from care_case_clinical_trial group by 1", database=tenant
        )
        assert [tuple(row) for row in rows] == [(tenant, 100)]


@pytest.mark.usefixtures("short_retries")
async def test_a_tenant_whose_database_is_gone_takes_nothing_from_another(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    service = await make_service(
        {"acme": make_database(), "globex": "postgresql://127.0.0.1:1/globex"}
    )

    gone = asyncio.create_task(service.put([{KEY: 1, "comment": "globex"}], database="globex"))
    served = [await service.put([{KEY: 1, "comment": "acme"}]) for _ in range(10)]
    answer = await gone

    assert [each.statuses for each in served] == [[201], *[[200]] * 9]
    assert answer.statuses == [503]
    assert "acme" not in answer.body.decode()
    assert await service.comments() == {1: "acme"}
