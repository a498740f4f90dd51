"""PostgreSQL for the tests: a server for all of a run, databases on it, and servers to harm."""

import asyncio
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import asyncpg
import pytest

from service.demo.postgres import EmbeddedPostgres
from service.migrations import migrate


class MakeDatabase(Protocol):
    """Makes fresh databases."""

    def __call__(self, *, migrated: bool = True) -> str:
        """Return the DSN of a new one."""


class MakePostgres(Protocol):
    """Makes servers of a test's own."""

    def __call__(self, settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
        """Return a durable server that listens on TCP and has a migrated database acme."""


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """The DSN of a server to make databases on: TEST_DATABASE_URL, else an embedded one."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="tests-") as folder:
        # As root the server's unprivileged account has to come through.
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(
            Path(folder) / "postgres", durable=False, settings={"max_connections": "300"}
        ) as postgres:
            yield postgres.dsn()


def _on_server(dsn: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def _in_thread(function: Callable[..., None], *arguments: str) -> None:
    """Call the function where no event loop runs; the test's own may."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(function, *arguments).result()


def _dsn_of(server_dsn: str, database: str) -> str:
    return re.sub(r"^(\w+://[^/]*/)[^?]*", rf"\g<1>{database}", server_dsn)


@pytest.fixture(scope="session")
def template(server_dsn: str) -> Iterator[str]:
    """The name of a migrated database from which others are copied."""
    name = f"template_{secrets.token_hex(4)}"
    _on_server(server_dsn, f"create database {name}")
    asyncio.run(migrate(_dsn_of(server_dsn, name)))
    yield name
    _on_server(server_dsn, f"drop database {name} with (force)")


@pytest.fixture
def make_database(server_dsn: str, template: str) -> Iterator[MakeDatabase]:
    """A factory of fresh databases, which are dropped when the test has ended."""
    names: list[str] = []

    def make(*, migrated: bool = True) -> str:
        name = f"test_{secrets.token_hex(4)}"
        names.append(name)
        source = template if migrated else "template0"
        _in_thread(_on_server, server_dsn, f"create database {name} template {source}")
        return _dsn_of(server_dsn, name)

    yield make
    for name in names:
        _in_thread(_on_server, server_dsn, f"drop database {name} with (force)")


@pytest.fixture
def postgres_folder() -> Iterator[Path]:
    """A folder that a server's unprivileged account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
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
