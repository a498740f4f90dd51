"""Contract section 4, ``/metrics``: what is counted, by which labels, over how many workers."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.test_overload import locked_table
from tests.under_test import GUEST_KEY, KEY, ServiceUnderTest

MakeService = Callable[..., Any]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(service: ServiceUnderTest) -> Samples:
    async with service.session.get(f"{service.url}/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0)


async def test_requests_items_bytes_and_chunks_are_counted(make_service: MakeService) -> None:
    service = await make_service()
    before = await scrape(service)

    await service.put([{KEY: 1}, {KEY: 2, "case_Key": "x"}])
    await service.put([{KEY: 1}])
    await service.put([], headers={"x-api-key": "wrong"})
    after = await scrape(service)

    def grew(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grew("service_requests_total", status="207", database="acme") == 2
    assert grew("service_requests_total", status="401", database="") == 1
    assert grew("service_items_total", status="201", database="acme") == 1
    assert grew("service_items_total", status="200", database="acme") == 1
    assert grew("service_items_total", status="400", database="acme") == 1
    assert grew("service_request_duration_seconds_count", database="acme") == 2
    assert grew("service_chunk_duration_seconds_count", database="acme") == 2
    assert grew("service_pool_wait_seconds_count", database="acme") == 2
    assert grew("service_body_bytes_total", database="acme") > 50
    assert value(after, "service_pool_size", database="acme") == 1
    assert value(after, "service_pool_in_use", database="acme") == 0


async def test_the_savepoint_path_and_retries_are_counted(
    make_service: MakeService, make_database: Callable[..., str]
) -> None:
    service = await make_service({"acme": make_database(), "globex": "postgresql://u@127.0.0.1:1"})
    await service.execute("alter table care_case_clinical_trial add check (case_key <> 13)")
    before = await scrape(service)

    await service.put([{KEY: 1}, {KEY: 2, "case_Key": 13}])
    await service.put([{KEY: 1}], database="globex")
    after = await scrape(service)

    savepoints = ("service_savepoint_chunks_total", {"database": "acme"})
    retries = ("service_retries_total", {"cause": "connection", "database": "globex"})
    for name, labels in (savepoints, retries):
        assert value(after, name, **labels) > value(before, name, **labels)


async def test_batches_in_flight_and_the_event_loop_are_watched(make_service: MakeService) -> None:
    service = await make_service()

    async with locked_table(service):
        batches = [asyncio.create_task(service.put([{KEY: key}])) for key in (1, 2, 3)]
        await asyncio.sleep(0.7)
        during = await scrape(service)
    await asyncio.gather(*batches)
    after = await scrape(service)

    assert value(during, "service_batches_in_flight", database="acme") == 3
    assert value(during, "service_pool_in_use", database="acme") >= 1
    assert value(after, "service_batches_in_flight", database="acme") == 0
    assert value(after, "service_event_loop_lag_seconds_count") >= 1


async def test_labels_are_bounded_and_name_nothing_that_a_caller_sent(
    make_service: MakeService,
) -> None:
    service = await make_service()
    before = await scrape(service)

    await service.put([{KEY: 4711, "comment": "marker"}], database="marker")
    await service.put([{KEY: 4711}], headers={"x-api-key": GUEST_KEY})
    await service.put([], path="/marker")
    await service.put([], method="MARKER")

    samples = await scrape(service)
    databases = {dict(labels).get("database") for _, labels in samples.keys() - before.keys()}
    assert databases <= {"acme", "globex", "", None}
    assert not any("marker" in str(labels).lower() for _, labels in samples)


@pytest.mark.skipif(
    "TEST_PGBOUNCER" in os.environ, reason="PostgreSQL sees PgBouncer's connections instead"
)
async def test_any_of_several_workers_answers_for_all(
    start_process: Callable[..., Any],
) -> None:
    service, _ = await start_process(workers=3)
    for key in range(1, 61):
        # A connection of its own, so that every worker gets some.
        answer = await service.put([{KEY: key}], headers={"Connection": "close"})
        assert answer.statuses == [201]

    for _ in range(5):
        async with service.session.get(
            f"{service.url}/metrics", headers={"Connection": "close"}
        ) as response:
            text = await response.text()
        assert 'service_items_total{database="acme",status="201"} 60.0' in text
    (row,) = await service.fetch(
        "select count(*) from pg_stat_activity"
        " where application_name like 'care-case%' and datname = current_database()"
    )
    assert row["count"] > 1
    async with asyncio.timeout(10):
        # The other workers bring it up to date twice a second.
        while value(await scrape(service), "service_pool_size", database="acme") != row["count"]:
            await asyncio.sleep(0.1)


async def test_a_worker_that_dies_leaves_no_gauge_behind(
    start_process: Callable[..., Any],
) -> None:
    service, process = await start_process(workers=2)
    for key in range(1, 21):
        await service.put([{KEY: key}], headers={"Connection": "close"})

    async with asyncio.timeout(10):
        while len(children := children_of(process.pid)) < 2:
            await asyncio.sleep(0.05)
        while value(await scrape(service), "service_pool_size", database="acme") == 0:
            await asyncio.sleep(0.05)
    for child in children:
        os.kill(child, signal.SIGKILL)
    async with asyncio.timeout(20):
        while True:
            try:
                samples = await scrape(service)
            except OSError:
                continue
            if value(samples, "service_pool_size", database="acme") == 0:
                break
            await asyncio.sleep(0.1)

    assert value(samples, "service_items_total", status="201", database="acme") == 20


def children_of(process: int) -> list[int]:
    processes = [path for path in os.listdir("/proc") if path.isdigit()]
    return [int(path) for path in processes if parent_of(path) == process]


def parent_of(process: str) -> int:
    try:
        with open(f"/proc/{process}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0
