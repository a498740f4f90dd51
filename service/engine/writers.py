"""Registry of the writers of all tenant databases; each is created on first use."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Self

import asyncpg

from service.config import Database
from service.engine.databases import UnsafeSearchPath, open_pool
from service.engine.writer import Writer
from service.postgres import CANNOT_CONNECT, schema_is_current


class WriterRegistry:
    """The writers of one process and event loop.

    Databases whose settings have not changed keep the writers of the set ``before``.
    """

    def __init__(
        self, settings: Mapping[str, Database], connect_seconds: float, before: Self | None = None
    ) -> None:
        self._settings = settings
        self._connect_seconds = connect_seconds
        self._lock = asyncio.Lock()
        self._writers: dict[str, Writer] = {}
        if before is not None:
            for name, writer in before._writers.items():
                if settings.get(name) == before._settings[name]:
                    self._writers[name] = writer

    async def get(self, name: str) -> Writer:
        """Return the database's writer. Raises KeyError for a name that is not configured."""
        async with self._lock:
            if name not in self._writers:
                pool = await open_pool(name, self._settings[name], self._connect_seconds)
                self._writers[name] = Writer(pool)
            return self._writers[name]

    async def readiness_error(self) -> str | None:
        """Return why no database accepts records; None if at least one does."""
        checks = [asyncio.create_task(self._is_current(name)) for name in self._settings]
        has_answered = False
        try:
            for check in asyncio.as_completed(checks):
                is_current = await check
                if is_current:
                    return None
                has_answered |= is_current is not None
        finally:
            for task in checks:
                task.cancel()
        if has_answered:
            return (
                "No database that responds is ready: run care-trials migrate, or care-trials"
                " check-config for the reason."
            )
        return "No database answers."

    async def _is_current(self, name: str) -> bool | None:
        """Return whether a database's schema is up to date; None if it does not respond."""
        pool = (await self.get(name)).pool
        if pool.is_exhausted:
            # The first caller's result is enough; do not queue behind it.
            return True
        try:
            connection = await pool.acquire(self._connect_seconds)
            try:
                return await schema_is_current(connection, pool.schema)
            finally:
                await pool.release(connection)
        except (UnsafeSearchPath, asyncpg.InsufficientPrivilegeError):
            return False
        except CANNOT_CONNECT:
            return None

    def sample(self) -> None:
        """Update the writers' metrics."""
        for writer in self._writers.values():
            writer.sample()

    async def close(self, others: Sequence[Self] = ()) -> None:
        """Close the writers, except those that others use as well."""
        for name, writer in self._writers.items():
            if not any(other._writers.get(name) is writer for other in others):
                await writer.close()
