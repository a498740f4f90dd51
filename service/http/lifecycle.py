"""Whether the process is shutting down, and how many requests it still works on."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

logger = logging.getLogger(__name__)


class InFlight:
    """Counts requests in flight, whose end can be waited for."""

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
        """Return when no request is in flight."""
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()


class Lifecycle(InFlight):
    """Lets the requests in flight finish before the process ends."""

    is_stopping = False

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new batches and wait, not for ever, until those in flight are done.

        The listener stays open meanwhile, so that the probes tell; not where others share its port.
        """
        self.is_stopping = True
        try:
            async with asyncio.timeout(grace_seconds):
                await self.wait_until_idle()
        except TimeoutError:
            logger.error("grace period over", extra={"in_flight": self.in_flight})


LIFECYCLE = web.AppKey("lifecycle", Lifecycle)
