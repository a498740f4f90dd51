"""Services that run: in the test's own event loop, and as processes; and the commands."""

import asyncio
import re
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Unpack

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestClient
from pytest_aiohttp.plugin import AiohttpClient

from service.config import Settings, Tuning
from service.engine import retrying, writer
from service.http.server import make_runner
from tests.support.configuration import (
    Configure,
    DatabaseSettings,
    JwtSettings,
    ServerSettings,
    toml,
)
from tests.support.embedded import free_port
from tests.support.postgres import MakeDatabase
from tests.support.service import ServiceUnderTest

Process = subprocess.Popen[bytes]


class MakeService(Protocol):
    """Makes services in the test's own event loop."""

    async def __call__(
        self,
        databases: Mapping[str, str] | None = None,
        *,
        extra_databases: Mapping[str, str] | None = None,
        jwt: JwtSettings | None = None,
        database: DatabaseSettings | None = None,
        rate_limit: str | None = None,
        allow: list[str] | None = None,
        tuning: Tuning | None = None,
        **server: Unpack[ServerSettings],
    ) -> ServiceUnderTest:
        """Return one that serves; its databases are a fresh acme unless others are given."""


class StartProcess(Protocol):
    """Starts services as ``python -m service serve``; they log to ``tmp_path / "log-…"``."""

    async def __call__(
        self,
        databases: Mapping[str, str] | None = None,
        *,
        extra_databases: Mapping[str, str] | None = None,
        jwt: JwtSettings | None = None,
        database: DatabaseSettings | None = None,
        rate_limit: str | None = None,
        allow: list[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        checkout: Path | None = None,
        **server: Unpack[ServerSettings],
    ) -> tuple[ServiceUnderTest, Process]:
        """Return one that serves; with an SSL context it is asked by TLS.

        ``checkout`` is the folder of another checkout whose code is run.
        """


class MakeRole(Protocol):
    """Makes services like a given one whose role on acme has only some privileges."""

    async def __call__(
        self,
        service: ServiceUnderTest,
        privileges: str = "select, insert, update",
        allow: list[str] | None = None,
    ) -> ServiceUnderTest:
        """Return one that serves."""


class AtImport(Protocol):
    """Runs a shell command in each service process that starts, at one of its first imports."""

    def __call__(self, module: str, command: str) -> None:
        """Wait for the command, in which ``$PPID`` is the process, before the import."""


class RunCommand(Protocol):
    """Runs ``python -m service`` to its end."""

    def __call__(
        self,
        *arguments: str,
        config: Mapping[str, Any] | None = None,
        checkout: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Return how it ended; the configuration is a document, and ``checkout`` as above."""


class _ServiceServer(BaseTestServer):
    """Runs the service as ``serve`` does, under pytest-aiohttp's client."""

    def __init__(self, settings: Settings, tuning: Tuning) -> None:
        super().__init__()
        self._settings = settings
        self._tuning = tuning

    async def _make_runner(self, **_kwargs: Any) -> web.BaseRunner:
        return make_runner(self._settings, self._tuning)


@pytest.fixture
async def make_service(
    aiohttp_client: AiohttpClient, make_database: MakeDatabase, configure: Configure
) -> MakeService:
    """A factory of services, which end with the test."""

    async def make(
        databases: Mapping[str, str] | None = None,
        *,
        extra_databases: Mapping[str, str] | None = None,
        tuning: Tuning | None = None,
        **settings: Any,
    ) -> ServiceUnderTest:
        databases = {**(databases or {"acme": make_database()}), **(extra_databases or {})}
        content = configure(databases, **settings)
        running = _ServiceServer(msgspec.convert(content, Settings), tuning or Tuning())
        client: TestClient[web.Request, None] = await aiohttp_client(running)
        return ServiceUnderTest(str(client.make_url("")), client.session, databases)

    return make


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make services in the test's event loop give up a statement, or a locked row, soon."""
    monkeypatch.setattr(retrying, "ATTEMPTS", 2)
    monkeypatch.setattr(writer, "SOLO_ATTEMPTS", 2)
    monkeypatch.setattr(writer, "LOCK_SECONDS", 1)


@pytest.fixture
async def make_role(make_service: MakeService) -> AsyncIterator[MakeRole]:
    """A factory of services with a role of their own; the roles are dropped with the test."""
    roles: list[tuple[ServiceUnderTest, str]] = []

    async def make(
        service: ServiceUnderTest,
        privileges: str = "select, insert, update",
        allow: list[str] | None = None,
    ) -> ServiceUnderTest:
        role = f"role_{secrets.token_hex(4)}"
        roles.append((service, role))
        await service.execute(
            f"create role {role} login password '{role}';"
            f"grant {privileges} on care_case_clinical_trial to {role};"
            f"grant select, insert, delete on care_case_clinical_trial_receipt to {role};"
            "grant usage, update on sequence"
            f" care_case_clinical_trial_care_case_clinical_trial_key_seq to {role}"
        )
        dsn = re.sub(r"://[^/]*@", f"://{role}:{role}@", service.databases["acme"])
        return await make_service({"acme": dsn}, allow=allow)

    yield make
    for service, role in roles:
        await service.execute(f"drop owned by {role}; drop role {role}")


@pytest.fixture
async def start_process(
    make_database: MakeDatabase, tmp_path: Path, configure: Configure
) -> AsyncIterator[StartProcess]:
    """A factory of processes, which end with the test."""
    processes: list[Process] = []
    sessions: list[aiohttp.ClientSession] = []

    async def start(
        databases: Mapping[str, str] | None = None,
        *,
        extra_databases: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        checkout: Path | None = None,
        **settings: Any,
    ) -> tuple[ServiceUnderTest, Process]:
        databases = {**(databases or {"acme": make_database()}), **(extra_databases or {})}
        settings.setdefault("port", free_port())
        content = configure(databases, **settings)
        config = tmp_path / f"service-{len(processes)}.toml"
        config.write_text(toml(content))
        log = tmp_path / f"log-{len(processes)}"
        command = [sys.executable, "-m", "service", "serve", "--config", str(config)]
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stderr=stderr, cwd=checkout)
        processes.append(process)
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ssl_context or True))
        sessions.append(session)
        # Not by a request, which another process of the same port might answer.
        async with asyncio.timeout(20):
            while '"message":"serving"' not in log.read_text():
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
        scheme = "http" if ssl_context is None else "https"
        url = f"{scheme}://127.0.0.1:{settings['port']}"
        return ServiceUnderTest(url, session, databases), process

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


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["plain", "nohup"])
def hang_up_action(request: pytest.FixtureRequest) -> Iterator[signal.Handlers]:
    """The action of SIGHUP that processes inherit."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield request.param
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def at_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AtImport:
    """Makes something happen at an exact moment of startup."""

    def make(module: str, command: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(f"""
import os, sys

class AtImport:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.waitpid(os.posix_spawnp("sh", ["sh", "-c", {command!r}], os.environ), 0)

sys.meta_path.insert(0, AtImport)
""")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return make


@pytest.fixture
def run_command(tmp_path: Path) -> RunCommand:
    """Runs a command of the service to its end."""

    def run(
        *arguments: str,
        config: Mapping[str, Any] | None = None,
        checkout: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service", *arguments]
        if config is not None:
            path = tmp_path / "service.toml"
            path.write_text(toml(config))
            command += ["--config", str(path)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, cwd=checkout
        )

    return run
