"""Name to pool: each tenant database has its own, created when first needed."""

import asyncio
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Self, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.config import Database, Tuning
from service.postgres import (
    CANNOT_CONNECT,
    connect_arguments,
    schema_is_current,
    unsafe_schemas,
)
from service.statements import CLEAN_PATH, SESSION, in_schema
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


class UnsafeSearchPath(asyncpg.InterfaceError):
    """Others can create objects in a schema of the search path; the message names the remedy."""


class NotReplicated(asyncpg.InterfaceError):
    """A statement committed, but its wait for a standby was cut short: it is in doubt."""

    def __init__(self) -> None:
        super().__init__("canceled wait for synchronous replication")


class Session:
    """What is known of a connection's session at the server.

    ``clock_offset``: seconds since 1970 by the server's clock, minus ``time.monotonic()`` here.
    ``is_unreplicated``: the wait of a commit for a standby was cut short.
    """

    def __init__(self) -> None:
        self.clock_offset = 0.0
        self.is_unreplicated = False


class _ServerConnection(asyncpg.Connection):
    """A connection that notices commits which a standby did not confirm."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.session = Session()

    async def fetch(self, *args: Any, **options: Any) -> Any:
        """Return the rows of a statement. Raises NotReplicated besides what asyncpg raises."""
        rows = await super().fetch(*args, **options)
        if self.session.is_unreplicated:
            raise NotReplicated
        return rows

    def _process_log_message(self, fields: Mapping[str, str], last_query: object) -> None:
        # Of the server's fields, only the name of its routine is the same in every language. (A
        # listener of asyncpg's would be gone after the connection's first release.)
        if fields.get("R") == "SyncRepWaitForLSN":
            self.session.is_unreplicated = True
        super()._process_log_message(  # type: ignore[misc]
            fields, last_query
        )


def session_of(connection: PooledConnection) -> Session:
    """Return the session of a connection."""
    session: Session = connection.session  # type: ignore[attr-defined]
    return session


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
        self.schema = database.search_path[0]
        self._connections = connections
        # So that reads, which may take long, leave connections to the writer.
        self.reads = asyncio.Semaphore(max(1, database.pool_max_size // 2))

    def sql(self, statement: str) -> str:
        """Return a statement for the schema of this database's record table."""
        return in_schema(statement, self.schema)

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
            server_settings["search_path"] = CLEAN_PATH
        connections = await asyncpg.create_pool(
            **connect_arguments(database.dsn, self._connect_seconds),
            min_size=0,
            max_size=database.pool_max_size,
            # The server's own limit strikes first; this one notices a server that is gone.
            command_timeout=database.statement_timeout_seconds + self._connect_seconds,
            server_settings=server_settings,
            reset=_keep_session,
            init=partial(_prepare, database),
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
            return (
                "No database that responds is ready: run care-trials migrate, or care-trials"
                " check-config for the reason."
            )
        return "No database answers."

    async def _is_current(self, name: str) -> bool | None:
        """Tell whether a database is at the current schema; None where it does not answer."""
        pool = await self.pool(name)
        if pool.is_exhausted:
            # One of them will tell; do not queue behind them.
            return True
        try:
            async with pool.acquire(self._connect_seconds) as connection:
                return await schema_is_current(connection, pool.schema)
        except (UnsafeSearchPath, asyncpg.InsufficientPrivilegeError):
            return False
        except CANNOT_CONNECT:
            return None

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


async def _prepare(database: Database, connection: Any) -> None:
    """Make a new connection usable. Raises UnsafeSearchPath."""
    for reason in await unsafe_schemas(connection, database.search_path):
        raise UnsafeSearchPath(reason)
    asked_at = time.monotonic()
    seconds = await connection.fetchval(SESSION, not database.transaction_pooling)
    connection.session.clock_offset = seconds - (asked_at + time.monotonic()) / 2
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
