"""Requests in flight, and the graceful shutdown that waits for them."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

logger = logging.getLogger(__name__)


class InFlight:
    """Counter of the requests in flight."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._idle = asyncio.Event()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a request while it lasts."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until no request is in flight."""
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()


class Lifecycle(InFlight):
    """Graceful shutdown of the process."""

    is_stopping = False

    async def drain(self, grace_seconds: float) -> None:
        """Reject new batches and wait at most ``grace_seconds`` for those in flight.

        The listener stays open for the probes, unless other processes share its port.
        """
        self.is_stopping = True
        try:
            async with asyncio.timeout(grace_seconds):
                await self.wait_until_idle()
        except TimeoutError:
            logger.error(
                "grace period expired, closing connections", extra={"in_flight": self.in_flight}
            )


LIFECYCLE = web.AppKey("lifecycle", Lifecycle)
