"""Whether the process is shutting down, and how many requests it still works on."""

import asyncio
import logging

from aiohttp import web

logger = logging.getLogger(__name__)


class Lifecycle:
    """Counts the requests in flight, and lets them finish before the process ends."""

    def __init__(self) -> None:
        self.is_stopping = False
        self.in_flight = 0
        self._idle = asyncio.Event()

    def leave(self) -> None:
        """Count a request as done."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new batches and wait, not for ever, until those in flight are done.

        The listener stays open meanwhile, so that the probes tell; not where others share its port.
        """
        self.is_stopping = True
        try:
            async with asyncio.timeout(grace_seconds):
                while self.in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            logger.error("grace period over", extra={"in_flight": self.in_flight})


LIFECYCLE = web.AppKey("lifecycle", Lifecycle)
