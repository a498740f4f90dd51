"""Limits of a process: request rate, batches and bytes in flight; beyond them 429 or 503."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from aiohttp import hdrs

from service.config import ApiKey, Settings
from service.http.envelope import Problem
from service.telemetry import metrics
from service.wire import RATE_LIMIT_HEADER, RATE_LIMIT_POLICY_HEADER

if TYPE_CHECKING:
    import limits

RETRY_AFTER_SECONDS = "2"


class Admission:
    """Limits the batches in flight per API key and database, and the bytes of all bodies."""

    def __init__(self, settings: Settings) -> None:
        self._batches: Counter[tuple[str, str]] = Counter()
        self._start_times: dict[str, dict[BodyByteCount, float]] = {}
        self._bytes: Counter[str] = Counter()
        self.set_limits(settings)

    def set_limits(self, settings: Settings) -> None:
        """Set the limits; batches in flight stay counted.

        Each database has bytes of its own, which no other database can use. Bytes beyond these come
        from the rest, which all databases share.
        """
        server = settings.server
        self._max_batches = server.max_batches_in_flight
        self._own_bytes = server.own_bytes
        self._shared_bytes = server.max_bytes_in_flight - len(settings.databases) * self._own_bytes
        # Whatever one database has in flight, the largest body of another database finds room, if
        # the settings allow for two such bodies.
        largest = server.max_body_bytes - self._own_bytes
        self._max_shared_bytes_per_database = max(self._shared_bytes - largest, largest)

    @contextmanager
    def count_batch(self, key_name: str, database: str) -> Iterator["BodyByteCount"]:
        """Count a batch and the bytes of its body until it ends.

        Raises Problem 503 if the API key has too many batches in flight in this database; those of
        other API keys do not count.
        """
        if self._batches[key_name, database] >= self._max_batches:
            raise _make_overload_problem(
                "Too many batches of this API key are in progress for this database",
                "batches_in_flight",
            )
        byte_count = BodyByteCount(self, database)
        start_times = self._start_times.setdefault(database, {})
        start_times[byte_count] = time.monotonic()
        self._batches[key_name, database] += 1
        metrics.BATCHES_IN_FLIGHT.labels(database).inc()
        try:
            yield byte_count
        finally:
            metrics.BATCHES_IN_FLIGHT.labels(database).dec()
            del start_times[byte_count]
            _subtract(self._batches, (key_name, database), 1)
            _subtract(self._bytes, database, byte_count.total)

    def sample(self) -> None:
        """Update the age of each database's oldest batch."""
        now = time.monotonic()
        for database, start_times in self._start_times.items():
            oldest = next(iter(start_times.values()), now)
            metrics.OLDEST_BATCH_SECONDS.labels(database).set(now - oldest)

    def count_bytes(self, database: str, size: int) -> None:
        """Count bytes. Raises Problem 503 if neither the database nor the shared rest has room."""
        shared = self._compute_shared(self._bytes[database] + size)
        if shared and (
            shared > self._max_shared_bytes_per_database
            or shared + self._sum_shared_by_others(database) > self._shared_bytes
        ):
            raise _make_overload_problem("Too much request data is in progress", "bytes_in_flight")
        self._bytes[database] += size

    def _compute_shared(self, size: int) -> int:
        return max(0, size - self._own_bytes)

    def _sum_shared_by_others(self, database: str) -> int:
        return sum(
            self._compute_shared(size) for name, size in self._bytes.items() if name != database
        )


def _subtract(counts: Counter[Any], name: Any, number: int) -> None:
    """Subtract from a count and remove it at 0: there can be many API keys and databases."""
    counts[name] -= number
    if not counts[name]:
        del counts[name]


class BodyByteCount:
    """The counted bytes of one body."""

    def __init__(self, admission: Admission, database: str) -> None:
        self._admission = admission
        self._database = database
        self.total = 0

    def increase_to(self, size: int) -> None:
        """Count the body with at least ``size`` bytes. Raises Problem 503."""
        if size > self.total:
            self._admission.count_bytes(self._database, size - self.total)
            self.total = size


def _make_overload_problem(message: str, reason: str) -> Problem:
    headers: dict[str, str] = {hdrs.RETRY_AFTER: RETRY_AFTER_SECONDS}
    return Problem(503, f"{message}; retry later.", headers, reason=reason)


class RateLimiter:
    """Rate limiter per API key with a ``rate_limit``, in this process (RFC 6585).

    The headers are those of draft-ietf-httpapi-ratelimit-headers. Requests that ``previous`` has
    counted under the same limit still count.
    """

    def __init__(self, keys: Mapping[str, ApiKey], previous: Self | None = None) -> None:
        self._limits: dict[str, limits.RateLimitItem] = {}
        if not any(key.rate_limit for key in keys.values()):
            return
        # Imported here because it takes 2 MB of memory, which only its users should pay for.
        from limits import parse
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import SlidingWindowCounterRateLimiter

        self._limiter: SlidingWindowCounterRateLimiter = (
            previous._limiter
            if previous is not None and previous._limits
            else SlidingWindowCounterRateLimiter(MemoryStorage())
        )
        self._limits = {name: parse(key.rate_limit) for name, key in keys.items() if key.rate_limit}

    async def count(self, key_name: str) -> dict[str, str]:
        """Count a request and return the headers that report the rest of the limit.

        Raises Problem 429 with Retry-After if the limit is used up.
        """
        limit = self._limits.get(key_name)
        if limit is None:
            return {}
        is_granted = await self._limiter.hit(limit, key_name)
        window = await self._limiter.get_window_stats(limit, key_name)
        seconds = max(1, math.ceil(window.reset_time - time.time()))
        headers = {
            RATE_LIMIT_POLICY_HEADER: f'"key";q={limit.amount};w={limit.get_expiry()}',
            RATE_LIMIT_HEADER: f'"key";r={window.remaining};t={seconds}',
        }
        if not is_granted:
            headers[hdrs.RETRY_AFTER] = str(seconds)
            raise Problem(
                429,
                "This API key has made too many requests; retry later.",
                headers,
                reason="rate_limit",
            )
        return headers
