"""Name to pool: each tenant database has its own, created when first needed."""

import asyncio
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.config import Database, Tuning
from service.postgres import CANNOT_CONNECT, connect_arguments
from service.statements import CLOCK, SCHEMA_IS_CURRENT
from service.telemetry import metrics

PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

CLOSE_SECONDS = 5

KEEPALIVE = {
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 20_000,
}
"""Notices within half a minute that a server's machine or the way to it is gone: seconds, seconds,
probes, and milliseconds; systems that lack an option do without it."""


class _ServerConnection(asyncpg.Connection):
    """A connection that knows what its server's clock shows."""

    clock_offset: float


def clock_offset(connection: PooledConnection) -> float:
    """Return the seconds since 1970 by the server's clock, less ``time.monotonic()`` here."""
    offset: float = connection.clock_offset  # type: ignore[attr-defined]
    return offset


class Pool:
    """The connections of one process to one tenant database, bounded in number.

    ``is_shared_by_transaction``: behind a pooler such as PgBouncer, which gives each
    transaction any of its sessions, and numbers them as it likes.
    """

    def __init__(
        self, name: str, database: Database, connections: "asyncpg.Pool[asyncpg.Record]"
    ) -> None:
        self.name = name
        self.statement_seconds = database.statement_timeout_seconds
        self.is_shared_by_transaction = database.transaction_pooling
        self.idempotency_days = database.idempotency_days
        self.run_items = database.run_items
        self.is_distributed = database.distributed
        self._connections = connections
        # So that reads, which may take long, leave connections to the writer.
        self.reads = asyncio.Semaphore(max(1, database.pool_max_size // 2))

    def acquire(self, timeout: float) -> AbstractAsyncContextManager[PooledConnection]:
        """Lend a connection, a new one if need be. Raises TimeoutError after so many seconds."""
        return self._connections.acquire(timeout=timeout)

    @property
    def is_exhausted(self) -> bool:
        """Whether all connections that there may be are at work."""
        return self.in_use == self._connections.get_max_size()

    @property
    def max_size(self) -> int:
        """How many connections there may be."""
        return self._connections.get_max_size()

    @property
    def size(self) -> int:
        """How many connections are open."""
        return self._connections.get_size()

    @property
    def in_use(self) -> int:
        """How many connections are at work."""
        return self._connections.get_size() - self._connections.get_idle_size()

    async def expire_connections(self) -> None:
        """Close all connections as they come back."""
        await self._connections.expire_connections()

    async def close(self) -> None:
        """Close all connections, by force those that do not come back in time."""
        try:
            await asyncio.wait_for(self._connections.close(), CLOSE_SECONDS)
        except TimeoutError:
            self._connections.terminate()


class Databases:
    """The pools of one process and event loop."""

    def __init__(self, settings: Mapping[str, Database], tuning: Tuning) -> None:
        self._settings = settings
        self._tuning = tuning
        self._connect_seconds = tuning.connect_seconds
        # Tells the sessions of these pools from those of others.
        self._application_name = f"care-case-clinical-trials {secrets.token_hex(8)}"
        self._pools: dict[str, Pool] = {}
        self._lock = asyncio.Lock()

    def successor(self, settings: Mapping[str, Database]) -> "Databases":
        """Return what goes by other settings; it shares the pools of what has not changed."""
        other = Databases(settings, self._tuning)
        other._application_name = self._application_name
        other._pools = {
            name: pool
            for name, pool in self._pools.items()
            if settings.get(name) == self._settings[name]
        }
        return other

    def has(self, pool: Pool) -> bool:
        """Tell whether this is the pool of one of these databases."""
        return self._pools.get(pool.name) is pool

    async def pool(self, name: str) -> Pool:
        """Return the database's pool; it holds no connection until one is needed.

        Raises KeyError for a name that is not configured.
        """
        async with self._lock:
            if name not in self._pools:
                self._pools[name] = await self._create(name)
            return self._pools[name]

    async def _create(self, name: str) -> Pool:
        """Return a bounded pool; it connects when a connection is first acquired."""
        database = self._settings[name]
        server_settings = {"application_name": self._application_name}
        options: dict[str, Any] = {}
        if database.transaction_pooling:
            # A prepared statement would be missed on the server that the next transaction gets.
            options["statement_cache_size"] = 0
        else:
            # PgBouncer refuses them; there the role has to carry them.
            server_settings["statement_timeout"] = f"{database.statement_timeout_seconds}s"
            server_settings["default_transaction_isolation"] = "read committed"
        connections = await asyncpg.create_pool(
            **connect_arguments(database.dsn, self._connect_seconds),
            min_size=0,
            max_size=database.pool_max_size,
            # The server's own limit strikes first; this one notices a server that is gone.
            command_timeout=database.statement_timeout_seconds + self._connect_seconds,
            server_settings=server_settings,
            reset=_keep_session,
            init=_prepare,
            connection_class=_ServerConnection,
            **options,
        )
        return Pool(name, database, connections)

    async def why_not_ready(self) -> str | None:
        """Return in words why no database takes records now, None where one does."""
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
            return "No database that answers is at the current schema: run care-trials migrate."
        return "No database answers."

    async def _is_current(self, name: str) -> bool | None:
        """Tell whether a database is at the current schema; None where it does not answer."""
        pool = await self.pool(name)
        if pool.is_exhausted:
            # One of them will tell; do not queue behind them.
            return True
        try:
            async with pool.acquire(self._connect_seconds) as connection:
                (row,) = await connection.fetch(SCHEMA_IS_CURRENT)
        except CANNOT_CONNECT:
            return None
        return bool(row["is_current"])

    async def close(self, others: Sequence[Self] = ()) -> None:
        """Close the pools, but for those that others use, too.

        By force where connections do not come back in time.
        """
        for pool in self._pools.values():
            if not any(other.has(pool) for other in others):
                await pool.close()

    def sample(self) -> None:
        """Bring the pools' metrics up to date."""
        for name, pool in self._pools.items():
            metrics.POOL_SIZE.labels(name).set(pool.size)
            metrics.POOL_IN_USE.labels(name).set(pool.in_use)
            metrics.POOL_MAX_SIZE.labels(name).set(pool.max_size)


async def _keep_session(_connection: object) -> None:
    """Replace asyncpg's reset, a round trip for each chunk: no statement changes the session."""


async def _prepare(connection: Any) -> None:
    """Read the server's clock, and keep the way to it under watch."""
    asked_at = time.monotonic()
    seconds = await connection.fetchval(CLOCK)
    connection.clock_offset = seconds - (asked_at + time.monotonic()) / 2
    _keep_alive(connection)


def _keep_alive(connection: Any) -> None:
    """Set the keepalive options, for which asyncpg has no setting and reads none in the DSN."""
    client = connection._transport.get_extra_info("socket")
    if client is None or client.family == socket.AF_UNIX:
        return
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
