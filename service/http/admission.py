"""How much a process takes on: rate, batches and bytes in flight; beyond it, 429 or 503 at once."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from aiohttp import hdrs

from service.config import ApiKey, Server
from service.http.envelope import Problem
from service.telemetry import metrics
from service.wire import RATE_LIMIT_HEADER, RATE_LIMIT_POLICY_HEADER

if TYPE_CHECKING:
    import limits

RETRY_AFTER_SECONDS = "2"


class Admission:
    """Counts the batches in work, and the bytes of their bodies, against the limits."""

    def __init__(self, settings: Server) -> None:
        self._begun: dict[str, dict[BodyBytes, float]] = {}
        self._bytes: Counter[str] = Counter()
        self.limit(settings)

    def limit(self, settings: Server) -> None:
        """Set the limits; what is in work counts on."""
        self._max_batches = settings.max_batches_in_flight
        self._max_bytes = max(settings.max_bytes_in_flight, settings.max_body_bytes)
        # Whatever one database has in work, the largest body of another fits in beside it.
        self._max_bytes_of_one = max(
            self._max_bytes - settings.max_body_bytes, settings.max_body_bytes
        )

    @contextmanager
    def batch(self, database: str) -> Iterator["BodyBytes"]:
        """Count a batch while it lasts, and what is told of its body's bytes.

        Raises Problem 503 when its database has too many; the limit holds for each, so that one
        tenant cannot keep out another.
        """
        begun = self._begun.setdefault(database, {})
        if len(begun) >= self._max_batches:
            raise _overloaded("Too many batches for this database are in work", "batches_in_flight")
        body = BodyBytes(self, database)
        begun[body] = time.monotonic()
        metrics.BATCHES_IN_FLIGHT.labels(database).inc()
        try:
            yield body
        finally:
            metrics.BATCHES_IN_FLIGHT.labels(database).dec()
            del begun[body]
            self._bytes[database] -= body.counted

    def sample(self) -> None:
        """Bring the age of each database's oldest batch up to date."""
        now = time.monotonic()
        for database, begun in self._begun.items():
            oldest = next(iter(begun.values()), now)
            metrics.OLDEST_BATCH_SECONDS.labels(database).set(now - oldest)

    def take(self, database: str, size: int) -> None:
        """Count bytes. Raises Problem 503 when bodies together would be too large.

        Those of one database may be smaller together than those of all.
        """
        if (
            self._bytes[database] + size > self._max_bytes_of_one
            or self._bytes.total() + size > self._max_bytes
        ):
            raise _overloaded("Too many bytes of other batches are in work", "bytes_in_flight")
        self._bytes[database] += size


class BodyBytes:
    """The part of one body in the count."""

    def __init__(self, admission: Admission, database: str) -> None:
        self._admission = admission
        self._database = database
        self.counted = 0

    def grow_to(self, size: int) -> None:
        """Count the body as this large, if it was less. Raises Problem 503."""
        if size > self.counted:
            self._admission.take(self._database, size - self.counted)
            self.counted = size


def _overloaded(words: str, reason: str) -> Problem:
    headers: dict[str, str] = {hdrs.RETRY_AFTER: RETRY_AFTER_SECONDS}
    return Problem(503, f"{words}; send this one again.", headers, reason=reason)


class RateLimiter:
    """Counts, in this process, the requests of each key that has a ``rate_limit`` (RFC 6585).

    The headers are those of draft-ietf-httpapi-ratelimit-headers. What the one ``before`` has
    counted under the same limit counts on.
    """

    def __init__(self, keys: Mapping[str, ApiKey], before: Self | None = None) -> None:
        self._limits: dict[str, limits.RateLimitItem] = {}
        if not any(key.rate_limit for key in keys.values()):
            return
        # 2 MB of memory that only those who use it shall pay.
        from limits import parse
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import SlidingWindowCounterRateLimiter

        self._limiter: SlidingWindowCounterRateLimiter = (
            before._limiter
            if before is not None and before._limits
            else SlidingWindowCounterRateLimiter(MemoryStorage())
        )
        self._limits = {name: parse(key.rate_limit) for name, key in keys.items() if key.rate_limit}

    async def count(self, key_name: str) -> dict[str, str]:
        """Count a request; return the headers that tell the caller what is left.

        Raises Problem 429, with Retry-After, when nothing is.
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
                "This API key has made too many requests; try again later.",
                headers,
                reason="rate_limit",
            )
        return headers
