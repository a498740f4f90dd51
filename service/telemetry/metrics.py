"""What Prometheus may know (contract section 4, ``/metrics``): counts and durations by database.

Labels hold only configured database names, statuses, reasons and SQLSTATE classes, so their number
is bounded and nothing in them is personal. What can be counted is 0 from the start: else the first
of a kind would be no increase, and no alert.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import cache
from itertools import product
from pathlib import Path

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1)
ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
SAMPLE_SECONDS = 0.5

REQUEST_STATUSES = (200, 201, 204, 207, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503)
ITEM_STATUSES = (200, 201, 204, 400, 403, 404, 409, 500, 503)

REASONS = (
    *("api_key", "token", "key_set", "rate_limit", "database_header", "database", "allow"),
    *("media_type", "content_encoding", "transfer_encoding", "idempotency_key"),
    *("batches_in_flight", "bytes_in_flight", "stopping", "body_bytes", "items", "item_bytes"),
    *("body_incomplete", "json", "at_work", "another_body", "database_away", "internal"),
    *("query", "page_bytes", "no_record", "item"),
    *("path", "method", "http", "not_loopback"),
)
"""Which check refused a request as a whole; the log tells the same words."""

SEQUENTIAL_CAUSES = ("alone", "failure", "table", "keys", "mode")

REQUESTS = Counter(
    "care_trials_requests", "Requests answered, the probes' left out", ["status", "database"]
)
REFUSALS = Counter(
    "care_trials_refusals", "Requests refused as a whole, by the check that did", ["reason"]
)
REQUEST_SECONDS = Histogram(
    "care_trials_request_duration_seconds",
    "Time from a request's headers to the end of its answer",
    ["database"],
    buckets=SECONDS,
)
ITEMS = Counter("care_trials_items", "Items by the status of their outcome", ["status", "database"])
BATCHES_IN_FLIGHT = Gauge("care_trials_batches_in_flight", "Batches in work", ["database"])
OLDEST_BATCH_SECONDS = Gauge(
    "care_trials_oldest_batch_seconds", "Age of the oldest batch in work", ["database"]
)
BODY_BYTES = Counter("care_trials_body_bytes", "Bytes of bodies, decompressed", ["database"])
CHUNK_SECONDS = Histogram(
    "care_trials_chunk_duration_seconds",
    "Time from a decoded chunk to its outcomes",
    ["database"],
    buckets=SECONDS,
)
STATEMENT_ROWS = Histogram(
    "care_trials_statement_rows", "Rows of a statement", ["database"], buckets=ROWS
)
SEQUENTIAL_STATEMENTS = Counter(
    "care_trials_sequential_statements",
    "Statements that applied their rows one by one: an item went alone or failed, the table's rows"
    " do not commute, or keys repeat",
    ["cause", "database"],
)
WAITING_CHUNKS = Gauge("care_trials_waiting_chunks", "Runs that wait for their turn", ["database"])
SLOTS_IN_USE = Gauge("care_trials_slots_in_use", "Statements at work, of 2", ["database"])
SOLO_IN_USE = Gauge(
    "care_trials_solo_items_in_use", "Items that run alone, beside the slots", ["database"]
)
RECEIPTS = Gauge(
    "care_trials_receipts", "Receipts kept, by PostgreSQL's own estimate", ["database"]
)
RETRIES = Counter(
    "care_trials_retries",
    "Attempts on a database that failed, by SQLSTATE class or 'connection'",
    ["cause", "database"],
)
POOL_SIZE = Gauge("care_trials_pool_size", "Open connections", ["database"])
POOL_IN_USE = Gauge("care_trials_pool_in_use", "Connections at work", ["database"])
POOL_MAX_SIZE = Gauge("care_trials_pool_max_size", "Connections at most", ["database"])
POOL_WAIT_SECONDS = Histogram(
    "care_trials_pool_wait_seconds",
    "Time that a chunk waited for a connection",
    ["database"],
    buckets=SECONDS,
)
KEY_SET_FETCHED = Gauge(
    "care_trials_key_set_fetched_timestamp_seconds",
    "When the keys behind jwks_url were fetched last; 0: never",
)
KEY_SET_FAILURES = Counter(
    "care_trials_key_set_failures", "Attempts to fetch the keys behind jwks_url that failed"
)
CERTIFICATE_END = Gauge(
    "care_trials_certificate_end_timestamp_seconds", "When the certificate ends; 0: there is none"
)
MEMORY_LIMIT = Gauge(
    "care_trials_memory_limit_bytes", "The control group's limit of memory; 0: there is none"
)
EVENT_LOOP_LAG_SECONDS = Histogram(
    "care_trials_event_loop_lag_seconds",
    "How late the event loop ran what was due",
    buckets=LAG_SECONDS,
)

for _metric in (
    *(REQUESTS, REQUEST_SECONDS, ITEMS, BATCHES_IN_FLIGHT, BODY_BYTES, CHUNK_SECONDS),
    *(STATEMENT_ROWS, SEQUENTIAL_STATEMENTS, POOL_WAIT_SECONDS),
):
    # A tenth of the time that the library takes to find a series; each request asks for nine.
    _metric.labels = cache(_metric.labels)  # type: ignore[assignment]

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


def begin_at_zero(databases: Iterable[str]) -> None:
    """Make all series of these databases, and those of no database."""
    names = [*databases]
    for status, name in product(REQUEST_STATUSES, ["", *names]):
        REQUESTS.labels(str(status), name)
    for status, name in product(ITEM_STATUSES, names):
        ITEMS.labels(str(status), name)
    for cause, name in product(SEQUENTIAL_CAUSES, names):
        SEQUENTIAL_STATEMENTS.labels(cause, name)
    for name in names:
        RETRIES.labels("connection", name)
        for metric in (
            *(REQUEST_SECONDS, CHUNK_SECONDS, POOL_WAIT_SECONDS, STATEMENT_ROWS, BODY_BYTES),
            *(BATCHES_IN_FLIGHT, OLDEST_BATCH_SECONDS, WAITING_CHUNKS, SLOTS_IN_USE, SOLO_IN_USE),
            *(RECEIPTS, POOL_SIZE, POOL_IN_USE, POOL_MAX_SIZE),
        ):
            metric.labels(name)
    for reason in REASONS:
        REFUSALS.labels(reason)
    MEMORY_LIMIT.set(memory_limit())


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes that this process's control group may take, 0 without a limit."""
    try:
        group = (root / "proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        text = (root / "sys/fs/cgroup" / group / "memory.max").read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def render() -> bytes:
    """Return all metrics in Prometheus' text format."""
    return prometheus_client.generate_latest()


async def watch_event_loop(sample: Callable[[], None]) -> None:
    """Measure the event loop's lag and call ``sample`` twice a second, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + SAMPLE_SECONDS
        await asyncio.sleep(SAMPLE_SECONDS)
        EVENT_LOOP_LAG_SECONDS.observe(max(0.0, loop.time() - due))
        sample()
