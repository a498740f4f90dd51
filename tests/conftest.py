"""A real PostgreSQL, and factories of databases, services and processes."""

import asyncio
import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest
from aiohttp.test_utils import BaseTestServer
from aiohttp.web import BaseRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service.config import Settings
from service.embedded import EmbeddedPostgres
from service.migrations import migrate
from service.openapi import SAMPLE
from service.serving import make_runner
from tests.faults.pgbouncer import pgbouncer
from tests.under_test import ServiceUnderTest, document, free_port, toml

MakeDatabase = Callable[..., str]
Configure = Callable[..., dict[str, Any]]


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
    """A factory of fresh databases; returns their DSNs."""
    names: list[str] = []

    def make(*, migrated: bool = True) -> str:
        name = f"test_{secrets.token_hex(4)}"
        names.append(name)
        source = template if migrated else "template0"
        # In a thread: the test's event loop may be running.
        _in_thread(_on_server, server_dsn, f"create database {name} template {source}")
        return _dsn_of(server_dsn, name)

    yield make
    for name in names:
        _in_thread(_on_server, server_dsn, f"drop database {name} with (force)")


def _in_thread(function: Callable[..., None], *arguments: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        executor.submit(function, *arguments).result()


@pytest.fixture
def postgres_folder() -> Iterator[Path]:
    """A folder that a server's unprivileged account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def configure(server_dsn: str) -> Iterator[Configure]:
    """Makes configurations; with TEST_PGBOUNCER=1 they lead to databases through PgBouncer."""
    if not os.environ.get("TEST_PGBOUNCER"):
        yield document
        return
    with pgbouncer(server_dsn) as port:

        def configure(databases: Mapping[str, str], **settings: Any) -> dict[str, Any]:
            content = document(databases, **settings)
            for database in content["databases"].values():
                if database["dsn"].partition("?")[2] == server_dsn.partition("?")[2]:
                    database["dsn"] = re.sub(
                        r"^(\w+://)([^@]*@)?[^/]*/([^?]*).*",
                        rf"\g<1>\g<2>127.0.0.1:{port}/\g<3>",
                        database["dsn"],
                    )
                    database["transaction_pooling"] = True
            return content

        yield configure


class _ServiceServer(BaseTestServer):
    """Runs the service as ``serve`` does, under pytest-aiohttp's client."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    async def _make_runner(self, **_kwargs: Any) -> BaseRunner:
        return await make_runner(self._settings)


@pytest.fixture
async def make_service(
    aiohttp_client: Callable[..., Any], make_database: MakeDatabase, configure: Configure
) -> Callable[..., Any]:
    """A factory of running services with migrated databases, acme unless others are given."""

    async def make(
        databases: Mapping[str, str] | None = None,
        extra_databases: Mapping[str, str] | None = None,
        **server: Any,
    ) -> ServiceUnderTest:
        if databases is None:
            databases = {"acme": make_database()}
        databases = {**databases, **(extra_databases or {})}
        settings = msgspec.convert(configure(databases, **server), Settings)
        client = await aiohttp_client(_ServiceServer(settings))
        return ServiceUnderTest(str(client.make_url("")), client.session, databases)

    return make


@pytest.fixture
async def make_role(make_service: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """A factory of services like a given one whose role on acme has only some privileges."""
    roles: list[tuple[ServiceUnderTest, str]] = []

    async def make(
        service: ServiceUnderTest, privileges: str = "select, insert, update"
    ) -> ServiceUnderTest:
        role = f"role_{secrets.token_hex(4)}"
        roles.append((service, role))
        await service.execute(
            f"create role {role} login password '{role}';"
            f"grant {privileges} on care_case_clinical_trial to {role};"
            "grant usage, update on sequence"
            f" care_case_clinical_trial_care_case_clinical_trial_key_seq to {role}"
        )
        dsn = re.sub(r"://[^/]*@", f"://{role}:{role}@", service.databases["acme"])
        restricted: ServiceUnderTest = await make_service(databases={"acme": dsn})
        return restricted

    yield make
    for service, role in roles:
        await service.execute(f"drop owned by {role}; drop role {role}")


@pytest.fixture(scope="session")
def trials() -> list[dict[str, Any]]:
    """Real records: all 222 of the shared data where they lie beside the repo, else the sample."""
    shared = Path(__file__).parent.parent.parent / "shared" / "data" / "trials.json"
    path = shared if shared.exists() else SAMPLE
    records: list[dict[str, Any]] = json.loads(path.read_text())
    return records


@pytest.fixture
async def start_process(
    make_database: MakeDatabase, tmp_path: Path, configure: Configure
) -> AsyncIterator[Callable[..., Any]]:
    """A factory of services that run as ``python -m service serve``, and their processes."""
    processes: list[subprocess.Popen[bytes]] = []
    sessions: list[aiohttp.ClientSession] = []

    async def start(
        databases: Mapping[str, str] | None = None,
        extra_databases: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **server: Any,
    ) -> tuple[ServiceUnderTest, subprocess.Popen[bytes]]:
        if databases is None:
            databases = {"acme": make_database(), **(extra_databases or {})}
        port = free_port()
        config = tmp_path / f"service-{port}.toml"
        config.write_text(toml(configure(databases, **{"port": port, **server})))
        log = tmp_path / f"log-{port}"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve", "--config", str(config)],
                stderr=stderr,
            )
        processes.append(process)
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ssl_context or True))
        sessions.append(session)
        scheme = "http" if ssl_context is None else "https"
        service = ServiceUnderTest(f"{scheme}://127.0.0.1:{port}", session, databases)
        async with asyncio.timeout(20):
            while not await service.is_alive():
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.05)
        return service, process

    yield start
    for session in sessions:
        await session.close()
    for process in processes:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def key_pair(tmp_path: Path) -> Callable[[str], tuple[str, Path]]:
    """A factory of signing keys: the private one as PEM, the public one as a file."""

    def make(algorithm: str) -> tuple[str, Path]:
        private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm.startswith("ES")
            else rsa.generate_private_key(65537, 2048)
        )
        public = tmp_path / f"{secrets.token_hex(4)}.pem"
        public.write_bytes(
            private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return pem.decode(), public

    return make
