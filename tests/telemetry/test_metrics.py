"""Contract section 4, ``/metrics``: what is counted, and by which labels."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.harness.postgres import MakeDatabase
from tests.harness.running import MakeService
from tests.harness.service import GUEST_KEY, KEY, ServiceUnderTest

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
    make_service: MakeService, make_database: MakeDatabase
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

    async with service.locked_table():
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
