"""PostgreSQL for the tests: a server for all of a run, databases on it, and servers to harm."""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest

from service.migrations import migrate
from tests.support import citus
from tests.support.embedded import EmbeddedPostgres

_MEMORY = "/dev/shm"  # noqa: S108
# For three workers: 256 MB of write-ahead log each, databases, and the servers of single tests.
_ROOM = 3_000_000_000


class MakeDatabase(Protocol):
    """Makes fresh databases."""

    def __call__(self, *, migrated: bool = True, encoding: str | None = None) -> str:
        """Return the DSN of a new one; without an encoding it has that of the server."""


class MakePostgres(Protocol):
    """Makes servers of a test's own."""

    def __call__(self, settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
        """Return a durable server that listens on TCP and has a migrated database acme."""


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """The DSN of a server to make databases on.

    That is TEST_CITUS_URL, else TEST_DATABASE_URL, else an embedded one.
    """
    if given := citus.URL or os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    settings = {"max_connections": "300", "max_wal_size": "256MB"}
    with tempfile.TemporaryDirectory(prefix="tests-", dir=_folder_of_servers()) as folder:
        # As root the server's unprivileged account has to come through.
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(
            Path(folder) / "postgres", durable=False, settings=settings
        ) as postgres:
            yield postgres.dsn()


def _folder_of_servers() -> str | None:
    """Return a file system in memory, where databases come and go faster; None without room."""
    if not os.access(_MEMORY, os.W_OK | os.X_OK):
        return None
    state = os.statvfs(_MEMORY)
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    has_room = min(state.f_bavail * state.f_frsize, memory) > _ROOM
    # The server's programs may be copied there, to be run.
    return _MEMORY if has_room and not state.f_flag & os.ST_NOEXEC else None


async def _execute(connection: Any, statement: str) -> None:
    try:
        await connection.execute(statement)
    except asyncpg.ObjectInUseError:
        if not citus.URL:
            raise
        # Its maintenance came back while its database was dropped.
        await asyncio.sleep(1)
        await connection.execute(statement)


def _on_server(dsn: str, *statements: str) -> None:
    async def run() -> None:
        for server in servers:
            connection = await asyncpg.connect(server)
            try:
                for statement in statements:
                    await _execute(connection, statement)
            finally:
                await connection.close()

    servers = citus.servers_of(dsn)

    asyncio.run(run())


def _migrate(dsn: str) -> None:
    asyncio.run(migrate(dsn))


_IN_USE = "from pg_stat_activity where datname ="


def _in_thread(function: Callable[..., None], *arguments: str) -> None:
    """Call the function where no event loop runs; the test's own may."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(function, *arguments).result()


@pytest.fixture(scope="session")
def template(server_dsn: str) -> Iterator[str]:
    """The name of a migrated database from which others are copied."""
    name = f"template_{secrets.token_hex(4)}"
    dsn = citus.with_database(server_dsn, name)
    _on_server(server_dsn, f"create database {name}")
    if citus.URL:
        asyncio.run(citus.join(server_dsn, name))
    asyncio.run(migrate(dsn, is_distributed=bool(citus.URL)))
    if citus.URL:
        # Its maintenance holds a connection, with which it could not be copied.
        _on_server(server_dsn, f"alter database {name} allow_connections false")
        _on_server(server_dsn, f"select pg_terminate_backend(pid, 9000) {_IN_USE} '{name}'")
    yield name
    _on_server(server_dsn, f"drop database {name} with (force)")


def _drop(name: str) -> str:
    return f"drop database {name} with (force)"


@pytest.fixture(scope="session")
def used_databases(server_dsn: str) -> Iterator[list[str]]:
    """Names of databases whose test has ended; they are dropped before the next one is made.

    DROP DATABASE sleeps for 100 ms if one of the test's backends has not exited yet.
    """
    names: list[str] = []
    yield names
    _in_thread(_on_server, server_dsn, *map(_drop, names))


@pytest.fixture
def make_database(
    server_dsn: str, template: str, used_databases: list[str]
) -> Iterator[MakeDatabase]:
    """A factory of fresh databases, which are dropped after the test has ended."""
    names: list[str] = []

    def make(*, migrated: bool = True, encoding: str | None = None) -> str:
        name = f"test_{secrets.token_hex(4)}"
        names.append(name)
        source = template if migrated and encoding is None else "template0"
        options = f"encoding '{encoding}' lc_collate 'C' lc_ctype 'C'" if encoding else ""
        create = f"create database {name} template {source} strategy file_copy {options}"
        _in_thread(_on_server, server_dsn, *map(_drop, used_databases), create)
        used_databases.clear()
        dsn = citus.with_database(server_dsn, name)
        if migrated and encoding is not None:
            _in_thread(_migrate, dsn)
        return dsn

    yield make
    used_databases += names


@pytest.fixture
def postgres_folder() -> Iterator[Path]:
    """A folder that a server's unprivileged account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=_folder_of_servers()))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_postgres(postgres_folder: Path) -> Iterator[MakePostgres]:
    """A factory of servers that the test may kill; they end with it."""
    servers: list[EmbeddedPostgres] = []

    def make(settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
        postgres = EmbeddedPostgres(postgres_folder / str(len(servers)), settings=settings, port=0)
        servers.append(postgres)
        postgres.start()
        postgres.create_database("acme")
        asyncio.run(migrate(postgres.tcp_dsn("acme")))
        return postgres

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def postgres(make_postgres: MakePostgres) -> EmbeddedPostgres:
    """One such server."""
    return make_postgres()
