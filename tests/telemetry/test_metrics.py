"""Contract section 4, ``/metrics``: what is counted, and by which labels."""

import ast
import asyncio
import re
import ssl
import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from prometheus_client.parser import text_string_to_metric_families

from service.config import Database
from service.engine.databases import open_pool
from service.engine.requests import RequestRegistry
from service.telemetry import metrics
from tests.support.certificates import Authority
from tests.support.configuration import JwtSettings
from tests.support.key_server import KeyServer, bearer, published, serving_keys
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService, StartProcess
from tests.support.service import GUEST_KEY, KEY, ServiceUnderTest
from tests.support.source import ROOT, modules

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


def labels(**names: str) -> frozenset[tuple[str, str]]:
    return frozenset(names.items())


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0)


def growth(before: Samples, after: Samples) -> Callable[..., float]:
    """Return a function of a series that returns its growth."""
    return lambda name, **labels: value(after, name, **labels) - value(before, name, **labels)


async def test_single_records_are_counted_like_batches_of_one(make_service: MakeService) -> None:
    service = await make_service(allow=["read", "write", "delete"])
    before = await scrape(service)

    await service.ask("POST", "", {KEY: 1})
    await service.ask("GET", "/1")
    await service.ask("GET", "/2")
    await service.ask("DELETE", "/1")
    grew = growth(before, await scrape(service))

    for status in ("200", "201", "204", "404"):
        assert grew("care_trials_requests_total", status=status, database="acme") == 1
    for status in ("201", "204"):
        assert grew("care_trials_items_total", status=status, database="acme") == 1
    assert grew("care_trials_refusals_total", reason="not_found") == 1
    assert grew("care_trials_request_duration_seconds_count", database="acme") == 4


async def test_requests_items_bytes_and_chunks_are_counted(make_service: MakeService) -> None:
    service = await make_service()
    before = await scrape(service)

    await service.put([{KEY: 1}, {KEY: 2, "case_Key": "x"}])
    await service.put([{KEY: 1}])
    await service.put([], headers={"x-api-key": "wrong"})
    after = await scrape(service)

    grew = growth(before, after)
    assert grew("care_trials_requests_total", status="207", database="acme") == 2
    assert grew("care_trials_requests_total", status="401", database="") == 1
    assert grew("care_trials_items_total", status="201", database="acme") == 1
    assert grew("care_trials_items_total", status="200", database="acme") == 1
    assert grew("care_trials_items_total", status="400", database="acme") == 1
    assert grew("care_trials_request_duration_seconds_count", database="acme") == 2
    assert grew("care_trials_chunk_duration_seconds_count", database="acme") == 2
    assert grew("care_trials_pool_wait_seconds_count", database="acme") == 2
    assert grew("care_trials_body_bytes_total", database="acme") > 50
    assert value(after, "care_trials_pool_size", database="acme") == 1
    assert value(after, "care_trials_pool_in_use", database="acme") == 0


@pytest.mark.usefixtures("short_retries")
async def test_the_savepoint_path_and_retries_are_counted(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    service = await make_service({"acme": make_database(), "globex": "postgresql://u@127.0.0.1:1"})
    await service.execute("alter table care_case_clinical_trial add check (case_key <> 13)")
    before = await scrape(service)

    await service.put([{KEY: 1}, {KEY: 2, "case_Key": 13}])
    await service.put([{KEY: 1}], database="globex")
    grew = growth(before, await scrape(service))

    assert grew("care_trials_sequential_statements_total", cause="failure", database="acme") > 0
    assert grew("care_trials_retries_total", cause="connection", database="globex") > 0


@pytest.mark.usefixtures("short_retries")
async def test_statements_that_apply_rows_one_at_a_time_are_counted_by_cause(
    make_service: MakeService,
) -> None:
    service = await make_service()
    before = await scrape(service)

    await service.put([{KEY: 1}, {KEY: 2}, {KEY: 1}])
    await service.execute("create unique index on care_case_clinical_trial (protocol_number)")
    await service.put([{KEY: 3}, {KEY: 4}])
    async with service.locked_row(3):
        await service.put([{KEY: 3}])
    grew = growth(before, await scrape(service))

    name = "care_trials_sequential_statements_total"
    assert grew(name, cause="keys", database="acme") == 1
    assert grew(name, cause="table", database="acme") == 1
    assert grew(name, cause="solo", database="acme") >= 1
    assert grew("care_trials_statement_rows_sum", database="acme") >= 6
    assert grew("care_trials_statement_rows_count", database="acme") >= 3


async def test_all_series_are_exported_as_zero_from_startup(
    start_process: StartProcess,
) -> None:
    service, _ = await start_process(extra_databases={"down": "postgresql://u@127.0.0.1:1/x"})

    samples = await scrape(service)

    def assert_zero(name: str, label: str, values: Iterable[object], *databases: str) -> None:
        for each, database in product(values, databases):
            assert (
                samples[f"care_trials_{name}", labels(database=database, **{label: f"{each}"})] == 0
            )

    assert_zero("items_total", "status", metrics.ITEM_STATUSES, "acme", "down")
    assert_zero("sequential_statements_total", "cause", metrics.SEQUENTIAL_CAUSES, "acme", "down")
    assert_zero("retries_total", "cause", ["connection"], "acme", "down")
    assert_zero("requests_total", "status", metrics.REQUEST_STATUSES, "acme", "down", "")
    for database in ("acme", "down"):
        assert samples["care_trials_pool_max_size", labels(database=database)] in (0, 10)
    for reason in metrics.REASONS:
        assert samples["care_trials_refusals_total", labels(reason=reason)] == 0


def test_every_reason_is_in_the_docs() -> None:
    text = (ROOT / "docs/operating.md").read_text()
    table = text.partition("| reason | status |")[2].partition("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines()[2:]]

    documented = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]

    assert sorted(documented) == sorted(metrics.REASONS)


def test_every_reason_of_a_rejection_is_listed() -> None:
    used = {
        keyword.value.value
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant)
    }

    assert used <= set(metrics.REASONS)
    assert len(used) > 15


@pytest.mark.parametrize(
    ("reason", "headers", "body"),
    [
        ("api_key", {"x-api-key": "wrong"}, b"[]"),
        ("token", {"Authorization": "Bearer x"}, b"[]"),
        ("database_header", {"vbasoftware-database": None}, b"[]"),
        ("database", {"vbasoftware-database": "other"}, b"[]"),
        ("media_type", {"Content-Type": "text/plain"}, b"[]"),
        ("content_encoding", {"Content-Encoding": "br"}, b"[]"),
        ("content_encoding", {"Content-Encoding": "gzip"}, b"[]"),
        ("idempotency_key", {"Idempotency-Key": ""}, b"[]"),
        ("body_bytes", {}, b"[" + b" " * 1000 + b"]"),
        ("batch_items", {}, b"[{},{},{}]"),
        ("json", {}, b"{"),
    ],
)
async def test_a_rejection_is_counted_by_its_reason(
    make_service: MakeService, reason: str, headers: dict[str, str | None], body: bytes
) -> None:
    service = await make_service(max_body_bytes=500, max_batch_items=2)
    name = "care_trials_refusals_total"
    before = await scrape(service)

    answer = await service.put(body, headers=headers)
    after = await scrape(service)

    assert answer.status >= 400
    grown = {dict(key[1])["reason"]: after[key] - before[key] for key in after if key[0] == name}
    assert {each: count for each, count in grown.items() if count} == {reason: 1}


async def test_the_key_set_and_the_certificate_are_watched(
    make_service: MakeService, start_process: StartProcess, tmp_path: Path
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    async with serving_keys(KeyServer()) as keys:
        keys.publish(published(key))
        rules: JwtSettings = {"algorithms": ["RS256"], "jwks_url": keys.url}
        service = await make_service(jwt=rules)
        keys.is_down = True
        failures = value(await scrape(service), "care_trials_key_set_failures_total")
        await service.put([], headers=bearer(key))
        down = await scrape(service)
        keys.is_down = False
        service = await make_service(jwt=rules)
        await service.put([], headers=bearer(key))
        up = await scrape(service)
    certificate, private = Authority(tmp_path, "authority").sign("x", days=3)
    trusting = ssl.create_default_context(cafile=tmp_path / "authority.pem")
    secure, _ = await start_process(
        tls_certificate=str(certificate), tls_key=str(private), ssl_context=trusting
    )
    end = value(await scrape(secure), "care_trials_certificate_end_timestamp_seconds")

    assert value(down, "care_trials_key_set_failures_total") > failures
    assert time.time() - value(up, "care_trials_key_set_fetched_timestamp_seconds") < 60
    assert 2 * 86_400 < end - time.time() < 3 * 86_400


async def test_the_stored_receipts_are_exported(make_service: MakeService) -> None:
    service = await make_service()
    for _ in range(3):
        await service.put([{KEY: 0}])
    await service.execute("analyze care_case_clinical_trial_receipt")
    settings = Database(dsn=service.databases["acme"])
    pool = await open_pool("acme", settings, connect_seconds=5)

    await RequestRegistry(pool).delete_expired()
    await pool.close()

    assert value(await scrape(service), "care_trials_receipts", database="acme") == 3


@pytest.mark.parametrize(
    ("group", "limit", "found"),
    [("/", "2147483648\n", 2_147_483_648), ("/a.slice/b", "1000\n", 1000), ("/", "max\n", 0)],
)
def test_the_limit_of_memory_is_read(tmp_path: Path, group: str, limit: str, found: int) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"0::{group}\n")
    folder = tmp_path / "sys/fs/cgroup" / group.lstrip("/")
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(limit)

    assert metrics.read_memory_limit(tmp_path) == found
    assert metrics.read_memory_limit(tmp_path / "elsewhere") == 0


async def test_batches_in_flight_and_the_event_loop_are_watched(make_service: MakeService) -> None:
    service = await make_service()

    async with service.locked_table():
        batches = [asyncio.create_task(service.put([{KEY: key}])) for key in (1, 2, 3)]
        await asyncio.sleep(0.7)
        during = await scrape(service)
    await asyncio.gather(*batches)
    after = await scrape(service)

    assert value(during, "care_trials_batches_in_flight", database="acme") == 3
    assert value(during, "care_trials_pool_in_use", database="acme") >= 1
    assert value(during, "care_trials_slots_in_use", database="acme") == 2
    assert value(during, "care_trials_waiting_chunks", database="acme") >= 1
    assert value(during, "care_trials_oldest_batch_seconds", database="acme") > 0.5
    assert value(after, "care_trials_oldest_batch_seconds", database="acme") == 0
    assert value(after, "care_trials_batches_in_flight", database="acme") == 0
    assert value(after, "care_trials_event_loop_lag_seconds_count") >= 1


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
