"""Name to pool: each tenant database has its own, created when first needed."""

import asyncio
import secrets
import socket
from collections.abc import Mapping
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from .config import Database

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

APPLICATION_NAME = f"care-case-clinical-trials {secrets.token_hex(8)}"
"""Tells this process's sessions from those of others."""

CONNECT_SECONDS = 5
CLOSE_SECONDS = 5

KEEPALIVE = {
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 20_000,
}
"""Notices within half a minute that a server's machine or the way to it is gone: seconds, seconds,
probes, and milliseconds; systems that lack an option do without it."""


class Databases:
    """The pools of one process and event loop."""

    def __init__(self, settings: Mapping[str, Database]) -> None:
        self._settings = settings
        self._pools: dict[str, Pool] = {}
        self._lock = asyncio.Lock()

    async def pool(self, name: str) -> Pool:
        """Return the database's pool; it holds no connection until one is needed.

        Raises KeyError for a name that is not configured.
        """
        async with self._lock:
            if name not in self._pools:
                self._pools[name] = await create_pool(self._settings[name])
            return self._pools[name]

    async def answers(self) -> bool:
        """Tell whether at least one database answers a query."""
        checks = [asyncio.create_task(self._answers(name)) for name in self._settings]
        try:
            for check in asyncio.as_completed(checks):
                if await check:
                    return True
            return False
        finally:
            for task in checks:
                task.cancel()

    async def _answers(self, name: str) -> bool:
        pool = await self.pool(name)
        if pool.get_size() > pool.get_idle_size() and pool.get_idle_size() == 0:
            # All connections are at work, so one of them will tell; do not queue behind them.
            return True
        try:
            async with asyncio.timeout(CONNECT_SECONDS), pool.acquire() as connection:
                await connection.fetch("SELECT 1")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    async def close(self) -> None:
        """Close all pools, by force those whose connections do not come back in time."""
        for pool in self._pools.values():
            try:
                await asyncio.wait_for(pool.close(), CLOSE_SECONDS)
            except TimeoutError:
                pool.terminate()


async def create_pool(database: Database) -> Pool:
    """Return a bounded pool; it connects when a connection is first acquired."""
    server_settings = {"application_name": APPLICATION_NAME}
    options: dict[str, Any] = {}
    if database.transaction_pooling:
        options = {"connection_class": _SharedConnection, "statement_cache_size": 0}
    else:
        # PgBouncer refuses it, so there the role has to carry it, or command_timeout strikes.
        server_settings["statement_timeout"] = f"{database.statement_timeout_seconds}s"
    return await asyncpg.create_pool(
        database.dsn,
        min_size=0,
        max_size=database.pool_max_size,
        timeout=CONNECT_SECONDS,
        # The server's own limit strikes first; this one notices a server that is gone.
        command_timeout=database.statement_timeout_seconds + CONNECT_SECONDS,
        server_settings=server_settings,
        reset=_keep_session,
        init=_keep_alive,
        **options,
    )


class _SharedConnection(asyncpg.Connection):
    """A connection through PgBouncer in transaction mode.

    asyncpg parses a statement in one round trip and runs it in the next; only in a
    transaction do both reach the same server.
    """

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch as asyncpg.Connection does, in a transaction."""
        if self.is_in_transaction():
            return await super().fetch(*args, **kwargs)
        async with self.transaction():
            return await super().fetch(*args, **kwargs)


async def _keep_session(_connection: object) -> None:
    """Replace asyncpg's reset, a round trip for each chunk: no statement changes the session."""


async def _keep_alive(connection: Any) -> None:
    """Set the keepalive options, for which asyncpg has no setting and reads none in the DSN."""
    client = connection._transport.get_extra_info("socket")
    if client is None or client.family == socket.AF_UNIX:
        return
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
