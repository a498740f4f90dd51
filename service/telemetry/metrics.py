"""Prometheus metrics (contract section 4, ``/metrics``).

Labels contain only configured database names, statuses, reasons and SQLSTATE classes, so their
number is bounded and they contain no personal data. All series are exported as 0 from startup, so
that ``increase()`` sees the first event.
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
    *("batches_in_flight", "bytes_in_flight", "shutting_down"),
    *("body_bytes", "batch_items", "item_bytes", "body_incomplete", "json"),
    *("in_progress", "body_mismatch", "database_unavailable", "internal"),
    *("query", "page_bytes", "not_found", "item"),
    *("path", "method", "http", "not_loopback"),
)
"""Checks that reject a request as a whole; also the field ``reason`` in the log."""

SEQUENTIAL_CAUSES = ("solo", "failure", "table", "keys", "mode")

REQUESTS = Counter(
    "care_trials_requests", "Requests handled, excluding probes", ["status", "database"]
)
REFUSALS = Counter("care_trials_refusals", "Requests rejected as a whole, by check", ["reason"])
REQUEST_SECONDS = Histogram(
    "care_trials_request_duration_seconds",
    "Seconds from a request's headers to the end of its response",
    ["database"],
    buckets=SECONDS,
)
ITEMS = Counter("care_trials_items", "Items by outcome status", ["status", "database"])
BATCHES_IN_FLIGHT = Gauge(
    "care_trials_batches_in_flight", "Batches running or waiting", ["database"]
)
OLDEST_BATCH_SECONDS = Gauge(
    "care_trials_oldest_batch_seconds",
    "Age of the oldest batch in flight, in seconds",
    ["database"],
)
BODY_BYTES = Counter(
    "care_trials_body_bytes", "Bytes of request bodies after decompression", ["database"]
)
CHUNK_SECONDS = Histogram(
    "care_trials_chunk_duration_seconds",
    "Seconds from a decoded chunk to its outcomes",
    ["database"],
    buckets=SECONDS,
)
STATEMENT_ROWS = Histogram(
    "care_trials_statement_rows", "Rows per statement", ["database"], buckets=ROWS
)
SEQUENTIAL_STATEMENTS = Counter(
    "care_trials_sequential_statements",
    "Statements that applied their rows one at a time, by cause",
    ["cause", "database"],
)
WAITING_CHUNKS = Gauge("care_trials_waiting_chunks", "Chunks waiting for a slot", ["database"])
SLOTS_IN_USE = Gauge("care_trials_slots_in_use", "Statements running (maximum 2)", ["database"])
SOLO_IN_USE = Gauge(
    "care_trials_solo_items_in_use", "Items running in a statement of their own", ["database"]
)
RECEIPTS = Gauge("care_trials_receipts", "Stored receipts, estimated by PostgreSQL", ["database"])
RETRIES = Counter(
    "care_trials_retries",
    "Failed attempts on a database, by SQLSTATE class or 'connection'",
    ["cause", "database"],
)
POOL_SIZE = Gauge("care_trials_pool_size", "Open connections", ["database"])
POOL_IN_USE = Gauge("care_trials_pool_in_use", "Connections in use", ["database"])
POOL_MAX_SIZE = Gauge("care_trials_pool_max_size", "Maximum number of connections", ["database"])
POOL_WAIT_SECONDS = Histogram(
    "care_trials_pool_wait_seconds",
    "Seconds that a statement waited for a connection",
    ["database"],
    buckets=SECONDS,
)
KEY_SET_FETCHED = Gauge(
    "care_trials_key_set_fetched_timestamp_seconds",
    "Time of the last successful fetch of jwks_url, Unix seconds (0: never)",
)
KEY_SET_FAILURES = Counter("care_trials_key_set_failures", "Failed fetches of jwks_url")
CERTIFICATE_END = Gauge(
    "care_trials_certificate_end_timestamp_seconds",
    "Expiry time of the certificate, Unix seconds (0: no TLS)",
)
MEMORY_LIMIT = Gauge(
    "care_trials_memory_limit_bytes", "Memory limit of the control group, in bytes (0: none)"
)
EVENT_LOOP_LAG_SECONDS = Histogram(
    "care_trials_event_loop_lag_seconds",
    "Event loop lag in seconds",
    buckets=LAG_SECONDS,
)

for _metric in (
    *(REQUESTS, REQUEST_SECONDS, ITEMS, BATCHES_IN_FLIGHT, BODY_BYTES, CHUNK_SECONDS),
    *(STATEMENT_ROWS, SEQUENTIAL_STATEMENTS, POOL_WAIT_SECONDS),
):
    # Ten times as fast as the library's own lookup; each request needs nine series.
    _metric.labels = cache(_metric.labels)  # type: ignore[assignment]

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


def export_zeros(databases: Iterable[str]) -> None:
    """Create all series of these databases, and those without a database, at 0."""
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
    MEMORY_LIMIT.set(read_memory_limit())


def read_memory_limit(root: Path = Path("/")) -> int:
    """Return the memory limit of this process's control group in bytes; 0 without a limit."""
    try:
        group = (root / "proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        text = (root / "sys/fs/cgroup" / group / "memory.max").read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def render() -> bytes:
    """Return all metrics in the Prometheus text format."""
    return prometheus_client.generate_latest()


async def watch_event_loop(sample: Callable[[], None]) -> None:
    """Measure the event loop's lag and call ``sample`` twice per second, until canceled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + SAMPLE_SECONDS
        await asyncio.sleep(SAMPLE_SECONDS)
        EVENT_LOOP_LAG_SECONDS.observe(max(0.0, loop.time() - due))
        sample()
