"""The connections to a tenant database: a pool, bounded in number."""

import asyncio
import secrets
import socket
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.config import Database
from service.postgres import find_unsafe_schemas, get_connect_arguments
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
    """State of a connection's session at the server.

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


def get_session(connection: PooledConnection) -> Session:
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
        self.statement_rows = database.statement_rows
        self.is_distributed = database.distributed
        self.schema = database.search_path[0]
        self._connections = connections
        # Long reads must leave connections to the writer.
        self.reads = asyncio.Semaphore(max(1, database.pool_max_size // 2))

    def sql(self, statement: str) -> str:
        """Return a statement for the schema of this database's record table."""
        return in_schema(statement, self.schema)

    async def acquire(self, timeout: float) -> PooledConnection:  # noqa: ASYNC109
        """Lend a connection, a new one if need be. Raises TimeoutError after so many seconds."""
        return await self._connections.acquire(timeout=timeout)

    async def release(self, connection: PooledConnection) -> None:
        """Take a connection back."""
        await self._connections.release(connection)

    @property
    def is_exhausted(self) -> bool:
        """Return whether all connections are in use and no more can be opened."""
        return self.in_use == self.max_size

    @property
    def max_size(self) -> int:
        """Maximum number of connections."""
        return self._connections.get_max_size()

    @property
    def in_use(self) -> int:
        """Number of connections in use."""
        return self._connections.get_size() - self._connections.get_idle_size()

    def sample(self) -> None:
        """Update the pool's metrics."""
        metrics.POOL_SIZE.labels(self.name).set(self._connections.get_size())
        metrics.POOL_IN_USE.labels(self.name).set(self.in_use)
        metrics.POOL_MAX_SIZE.labels(self.name).set(self.max_size)

    async def expire_connections(self) -> None:
        """Close each connection when it is released."""
        await self._connections.expire_connections()

    async def close(self) -> None:
        """Close all connections; terminate those that are not released in time."""
        try:
            await asyncio.wait_for(self._connections.close(), CLOSE_SECONDS)
        except TimeoutError:
            self._connections.terminate()


async def open_pool(name: str, database: Database, connect_seconds: float) -> Pool:
    """Return a bounded pool; it connects when a connection is first acquired."""
    # Identifies the sessions of this pool among all others.
    server_settings = {"application_name": f"care-case-clinical-trials {secrets.token_hex(8)}"}
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
        **get_connect_arguments(database.dsn, connect_seconds),
        min_size=0,
        max_size=database.pool_max_size,
        # The server's own limit strikes first; this one notices a server that is gone.
        command_timeout=database.statement_timeout_seconds + connect_seconds,
        server_settings=server_settings,
        reset=_keep_session,
        init=partial(_prepare, database),
        connection_class=_ServerConnection,
        **options,
    )
    return Pool(name, database, connections)


async def _keep_session(_connection: object) -> None:
    """Replace asyncpg's reset, a round trip for each chunk: no statement changes the session."""


async def _prepare(database: Database, connection: Any) -> None:
    """Make a new connection usable. Raises UnsafeSearchPath."""
    for reason in await find_unsafe_schemas(connection, database.search_path):
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
