"""Objects built from one configuration.

A reload swaps in a new set; requests in flight finish with the old one (contract section 3). What
only the old set used is closed when its last request has ended.
"""

import asyncio
from collections.abc import Sequence
from typing import Self

import msgspec

from service.config import Settings, Tuning
from service.engine.writers import WriterRegistry
from service.http import openapi
from service.http.access import Access, Authenticator
from service.http.admission import Admission, RateLimiter
from service.http.batch import BatchHandler
from service.http.docs_page import Document
from service.http.lifecycle import InFlight
from service.http.records import RecordHandler
from service.telemetry import metrics


class AppState(InFlight):
    """The objects that depend on reloadable settings."""

    def __init__(
        self,
        settings: Settings,
        tuning: Tuning,
        admission: Admission,
        previous: Self | None = None,
    ) -> None:
        super().__init__()
        server, keys = settings.server, settings.auth.api_keys
        self.settings = settings
        self.authenticator: Authenticator = Authenticator(
            settings.auth, tuning, previous.authenticator if previous else None
        )
        self.writers: WriterRegistry = WriterRegistry(
            settings.databases, tuning.connect_seconds, previous.writers if previous else None
        )
        self._rate_limiter: RateLimiter = RateLimiter(
            keys, previous._rate_limiter if previous else None
        )
        access = Access(self.authenticator, self._rate_limiter, settings.databases)
        self.batch = BatchHandler(server, tuning, access, admission, self.writers)
        self.records = RecordHandler(server, tuning, access, admission, self.writers)
        self.openapi = Document(
            lambda: msgspec.json.encode(openapi.make_document(server)), "application/json"
        )

    async def close(self, others: Sequence[Self]) -> None:
        """Close whatever none of the others uses."""
        await self.writers.close([other.writers for other in others])
        await self.authenticator.close([other.authenticator for other in others])


class ReloadableState:
    """The current state, and older ones that still have requests in flight.

    Raises ConfigurationError for an unusable public key.
    """

    def __init__(self, settings: Settings, tuning: Tuning) -> None:
        self._tuning = tuning
        self._admission = Admission(settings)
        self.current = AppState(settings, tuning, self._admission)
        metrics.export_zeros(settings.databases)
        self._alive = [self.current]
        self._retiring: set[asyncio.Task[None]] = set()

    def sample(self) -> None:
        """Update the gauge metrics."""
        self._admission.sample()
        self.current.writers.sample()

    def replace(self, settings: Settings) -> None:
        """Use these settings for new requests.

        Raises ConfigurationError, in which case nothing changes.
        """
        old = self.current
        self.current = AppState(settings, self._tuning, self._admission, old)
        self.current.authenticator.fetch_keys()
        self._admission.set_limits(settings)
        metrics.export_zeros(settings.databases)
        self._alive.append(self.current)
        task = asyncio.create_task(self._retire(old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, old: AppState) -> None:
        await old.wait_until_idle()
        self._alive.remove(old)
        await old.close(self._alive)

    async def close(self) -> None:
        """Close all states without waiting for requests in flight."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        while self._alive:
            await self._alive.pop().close(self._alive)
