"""What Prometheus may know (contract section 4, ``/metrics``): counts and durations by database.

Labels hold only configured database names, statuses and SQLSTATE classes, so their number is
bounded and nothing in them is personal.
"""

import asyncio
from collections.abc import Callable

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1)
SAMPLE_SECONDS = 0.5

REQUESTS = Counter(
    "service_requests", "Requests answered, the probes' left out", ["status", "database"]
)
REQUEST_SECONDS = Histogram(
    "service_request_duration_seconds",
    "Time from a request's headers to the end of its answer",
    ["database"],
    buckets=SECONDS,
)
ITEMS = Counter("service_items", "Items by the status of their outcome", ["status", "database"])
BATCHES_IN_FLIGHT = Gauge("service_batches_in_flight", "Batches in work", ["database"])
BODY_BYTES = Counter("service_body_bytes", "Bytes of bodies, decompressed", ["database"])
CHUNK_SECONDS = Histogram(
    "service_chunk_duration_seconds",
    "Time from a decoded chunk to its outcomes",
    ["database"],
    buckets=SECONDS,
)
SAVEPOINT_CHUNKS = Counter(
    "service_savepoint_chunks", "Chunks that were applied again in savepoints", ["database"]
)
RETRIES = Counter(
    "service_retries",
    "Attempts on a database that failed, by SQLSTATE class or 'connection'",
    ["cause", "database"],
)
POOL_SIZE = Gauge("service_pool_size", "Open connections", ["database"])
POOL_IN_USE = Gauge("service_pool_in_use", "Connections at work", ["database"])
POOL_WAIT_SECONDS = Histogram(
    "service_pool_wait_seconds",
    "Time that a chunk waited for a connection",
    ["database"],
    buckets=SECONDS,
)
EVENT_LOOP_LAG_SECONDS = Histogram(
    "service_event_loop_lag_seconds",
    "How late the event loop ran what was due",
    buckets=LAG_SECONDS,
)

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


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
