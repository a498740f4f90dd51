"""Servers that the fault tests may kill, and a service in front of each."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from service.embedded import EmbeddedPostgres
from service.migrations import migrate

pytest.register_assert_rewrite("tests.faults.ledger")

MakePostgres = Callable[..., EmbeddedPostgres]


@pytest.fixture
def make_postgres(postgres_folder: Path) -> Iterator[MakePostgres]:
    """A factory of durable servers that listen on TCP, each with a migrated database acme."""
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
