"""A checkout's service with its database, and the twin of it that the reference works on.

``MODEL_CHECKOUT`` names the folder of the checkout (default: this one): its migrations make the
database, its ``python -m service serve`` is the service, as a process of its own.
``MODEL_PYTHON`` names the interpreter for both, where the checkout needs other packages.
"""
# ruff: noqa: S608 (the statements are made of constants)

import asyncio
import hashlib
import json
import os
import random
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import asyncpg

from service.statements import DISTRIBUTE, in_schema
from tests.model.reference import Item, Reference
from tests.model.tables import TABLE, Stranger, Table
from tests.support import citus
from tests.support.embedded import free_port
from tests.support.proxy import Proxy
from tests.support.service import API_KEY, SECRET, Answer, ServiceUnderTest

Result = TypeVar("Result")

CHECKOUT = Path(os.environ.get("MODEL_CHECKOUT", Path(__file__).parents[2]))
PYTHON = os.environ.get("MODEL_PYTHON", sys.executable)

PATIENCE_SECONDS = 60
"""A batch that takes longer has no answer."""

HASTY = "hasty"
PROXIED = "proxied"
"""More names of the service's database: with little patience, and by way of ``Twins.proxy``."""

TIMEOUTS = {HASTY: 2, PROXIED: 8}
"""Statement timeouts in seconds, where they are not 30."""

ODD_SETTINGS = [
    ("array_nulls", "off"),
    ("bytea_output", "escape"),
    ("client_min_messages", "error"),
    ("DateStyle", "'SQL, DMY'"),
    ("default_transaction_deferrable", "on"),
    ("default_transaction_isolation", "serializable"),
    ("IntervalStyle", "sql_standard"),
    ("lock_timeout", "'1ms'"),
    ("plan_cache_mode", "force_generic_plan"),
    ("search_path", "pg_catalog"),
    ("standard_conforming_strings", "off"),
    ("statement_timeout", "'10ms'"),
    ("TimeZone", "'Asia/Kathmandu'"),
    ("transaction_timeout", "'1s'"),
    ("transform_null_equals", "on"),
]
"""What the service's role or database may set, so that outcomes must not depend on it."""


def configuration(port: int, databases: Mapping[str, str]) -> str:
    """Return a configuration in TOML."""
    sha256 = hashlib.sha256(API_KEY.encode()).hexdigest()
    lines = [
        f"[server]\nport = {port}",
        f"[auth.api_keys.loader]\nsha256 = '{sha256}'\ndatabases = ['*']",
        f"[auth.jwt]\nalgorithms = ['HS256']\nsecret = '{SECRET}'",
    ]
    for name, dsn in databases.items():
        seconds = TIMEOUTS.get(name, 30)
        lines.append(
            f"[databases.{name}]\ndsn = {json.dumps(dsn)}\nstatement_timeout_seconds = {seconds}"
        )
    return "\n".join(lines)


class Twins:
    """A running service, its database, and the twin; ``run`` runs what works with them."""

    def __init__(self, server_dsn: str, folder: Path, runner: asyncio.Runner) -> None:
        self._server_dsn = server_dsn
        self._folder = folder
        self._runner = runner
        self._name = f"model_{secrets.token_hex(4)}"
        self._databases = {"acme": self._name, "twin": f"{self._name}_twin"}
        self._port = free_port()
        self._proxy_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._admins: dict[str, asyncpg.Connection[asyncpg.Record]] = {}
        self._resources = AsyncExitStack()
        self.settings: list[str] = []

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of the work, done on the event loop of the connections."""
        return self._runner.run(work)

    async def start(self) -> None:
        """Make the databases by the checkout's migrations, and start its service."""
        server = await self._connect(self._server_dsn)
        await server.execute(f"create role {self._name} login password '{self._name}'")
        self._resources.push_async_callback(server.execute, f"drop role {self._name}")
        for name, database in self._databases.items():
            await self._make(database)
            self._admins[name] = await self._connect(self._owners_dsn(name))
        await self._migrate()
        for admin in self._admins.values():
            await admin.execute(
                "create schema pristine; create schema tenant;"
                f"create table pristine.record (like {TABLE} including all)"
            )
        await self._set_oddly()
        self.reference = Reference(await self._connect(self._dsn("twin")))
        timeout = aiohttp.ClientTimeout(PATIENCE_SECONDS)
        session = await self._resources.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        url = f"http://127.0.0.1:{self._port}"
        self.service = ServiceUnderTest(url, session, {"acme": self._owners_dsn("acme")})
        self._resources.callback(self._end_service)
        await self._serve()

    async def _set_oddly(self) -> None:
        """Give the service's role some odd settings in its database."""
        admin = self._admins["acme"]
        for name, value in random.sample(ODD_SETTINGS, random.randrange(len(ODD_SETTINGS))):
            # The server may not know it.
            if await admin.fetchval("select current_setting($1, true)", name):
                await admin.execute(
                    f"alter role {self._name} in database {self._databases['acme']}"
                    f" set {name} = {value}"
                )
                self.settings.append(f"{name} = {value}")

    async def _make(self, database: str) -> None:
        """Make a database on the server, or on each of a cluster."""
        servers = await asyncio.to_thread(citus.servers_of, self._server_dsn)
        for each in servers:
            server = await self._connect(each)
            await server.execute(f"create database {database}")
            self._resources.push_async_callback(
                server.execute, f"drop database {database} with (force)"
            )
        if len(servers) > 1:
            await citus.join(self._server_dsn, database)

    async def stop(self) -> None:
        """Stop the service and remove what was made on the server."""
        await self._resources.aclose()

    async def _connect(self, dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
        connection = await asyncpg.connect(dsn)
        self._resources.push_async_callback(connection.close)
        return connection

    async def reset(self, table: Table) -> None:
        """Make the table, and all that is around it, anew in both databases."""
        for name, admin in self._admins.items():
            await admin.execute(
                f"""
                set lock_timeout = '10s';
                set constraints all immediate;
                drop schema tenant cascade;
                drop table {TABLE};
                create schema tenant;
                {table.ddl}
                """
            )
            if citus.URL and name == "acme":
                await admin.execute(in_schema(DISTRIBUTE, "public"))
            await admin.execute(f"{table.features_ddl}; {self._grants}")

    async def restore(self) -> None:
        """Drop and make the service's schema under it, as ``pg_restore --clean`` does."""
        for admin in self._admins.values():
            await admin.execute("drop schema public cascade; create schema public")
        await self._migrate()
        for admin in self._admins.values():
            await admin.execute(self._grants)

    async def restart(self) -> None:
        """Replace the service's process."""
        self._end_service()
        await self._serve()

    async def put(
        self, batch: Sequence[Item], database: str = "acme", *, prefer: str | None = None
    ) -> Answer:
        """Send a batch to the service."""
        items = [item.wire for item in batch]
        return await self.service.put(items, database=database, headers={"Prefer": prefer})

    @asynccontextmanager
    async def held(self, stranger: Stranger | None) -> AsyncIterator[None]:
        """Keep somebody else's transaction open meanwhile, then undo it."""
        if stranger is None:
            yield
            return
        connection = await asyncpg.connect(self._owners_dsn("acme"))
        try:
            await connection.execute(f"begin; {stranger.statement}")
            yield
        finally:
            await connection.close()

    def proxy(self) -> Proxy:
        """Return a proxy before the service's database; it is the only way there for PROXIED."""
        proxy = Proxy(self._owners_dsn("acme"))
        proxy.port = self._proxy_port
        return proxy

    async def rows(self, name: str) -> dict[int, dict[str, Any]]:
        """Return the records of one of the databases by key, those that nobody may see too."""
        rows = await self._admins[name].fetch(
            f"select {TABLE}_key, to_jsonb(stored)::text from {TABLE} as stored"
        )
        return {key: json.loads(row) for key, row in rows}

    async def tenants_rows(self, name: str) -> dict[str, list[Any]]:
        """Return the rows of the tenant's own tables: in order where they are numbered by "id"."""
        tables = await self._admins[name].fetch(
            "select tablename from pg_tables where schemaname = 'tenant'"
        )
        found: dict[str, list[Any]] = {}
        for (table,) in tables:
            rows = await self._admins[name].fetch(
                f"select to_jsonb(own)::text from tenant.{table} as own"
            )
            decoded = [json.loads(row) for (row,) in rows]
            decoded.sort(key=lambda row: row.get("id", 0))
            found[table] = [
                {name: value for name, value in row.items() if name != "id"} for row in decoded
            ]
        return found

    async def sequence(self) -> tuple[int, int]:
        """Return the first value and the step of the sequence that the keys are drawn from."""
        ((first, step),) = await self._admins["acme"].fetch(
            "select seqstart, seqincrement from pg_sequence where seqrelid ="
            f" pg_get_serial_sequence('{TABLE}', '{TABLE}_key')::regclass"
        )
        return first, step

    @property
    def _grants(self) -> str:
        return f"""
            grant usage on schema public, tenant to {self._name};
            grant select, insert, update, delete on all tables in schema public to {self._name};
            grant usage, select, update on all sequences in schema public, tenant to {self._name}
        """

    def _owners_dsn(self, name: str) -> str:
        return citus.with_database(self._server_dsn, self._databases[name])

    def _dsn(self, name: str) -> str:
        """Return a DSN of the service's own role, to which row-level security applies."""
        role = f"://{self._name}:{self._name}@"
        return re.sub(r"://([^/@]*@)?", role, self._owners_dsn(name), count=1)

    async def _migrate(self) -> None:
        """Migrate both databases."""
        databases = {name: self._owners_dsn(name) for name in self._databases}
        config = self._folder / "migrate.toml"
        config.write_text(configuration(self._port, databases))
        process = await asyncio.create_subprocess_exec(
            *(PYTHON, "-m", "service", "migrate", "--config", str(config)),
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, f"{CHECKOUT} does not migrate: {output.decode()}"

    async def _serve(self) -> None:
        dsn = self._dsn("acme")
        config = self._folder / "serve.toml"
        role, database = self._name, self._databases["acme"]
        proxied = (
            f"postgresql://{role}:{role}@127.0.0.1:{self._proxy_port}/{database}?sslmode=disable"
        )
        databases = {"acme": dsn, HASTY: dsn, PROXIED: proxied}
        config.write_text(configuration(self._port, databases))
        log = self._folder / "log"
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [PYTHON, "-m", "service", "serve", "--config", str(config)],
                cwd=CHECKOUT,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        async with asyncio.timeout(20):
            while not await self.service.is_alive():
                assert self._process.poll() is None, log.read_text()
                await asyncio.sleep(0.05)

    def _end_service(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@contextmanager
def make_twins(server_dsn: str, folder: Path) -> Iterator[Twins]:
    """Start a service with its database and the twin; stop and remove them afterwards."""
    with asyncio.Runner() as runner:
        twins = Twins(server_dsn, folder, runner)
        try:
            twins.run(twins.start())
            yield twins
        finally:
            twins.run(twins.stop())
