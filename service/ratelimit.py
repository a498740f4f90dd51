"""How often an API key may call; counted in the process (no contract: RFC 6585, IETF draft).

The headers are those of draft-ietf-httpapi-ratelimit-headers.
"""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .config import ApiKey
from .problems import Problem

if TYPE_CHECKING:
    import limits


class RateLimiter:
    """Counts the requests of each key that has a ``rate_limit``.

    Each of several workers grants its share, so that together they grant no more.
    """

    def __init__(self, keys: Sequence[ApiKey], workers: int) -> None:
        self._limits: dict[str, limits.RateLimitItem] = {}
        if not any(key.rate_limit for key in keys):
            return
        # 2 MB of memory that only those who use it shall pay.
        from limits import parse
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import SlidingWindowCounterRateLimiter

        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._limits = {
            key.name: _share(parse(key.rate_limit), workers) for key in keys if key.rate_limit
        }

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
            "RateLimit-Policy": f'"key";q={limit.amount};w={limit.get_expiry()}',
            "RateLimit": f'"key";r={window.remaining};t={seconds}',
        }
        if not is_granted:
            headers["Retry-After"] = str(seconds)
            raise Problem(429, "This API key has made too many requests; try again later.", headers)
        return headers


def _share(limit: "limits.RateLimitItem", workers: int) -> "limits.RateLimitItem":
    return type(limit)(max(1, limit.amount // workers), limit.multiples)
