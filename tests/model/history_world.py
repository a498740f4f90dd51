"""A durable PostgreSQL and two service processes on one database, which faults may harm."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
import asyncpg

from tests.model.history import Change, History, Row, fields
from tests.model.history_proxy import Way
from tests.model.history_replica import STATEMENT_SECONDS, Replica, migrate
from tests.support.embedded import EmbeddedPostgres, free_port
from tests.support.pgbouncer import pgbouncer

PRESENT = range(1, 501)
"""Keys of rows that are there before a history, so that the sequence meets them."""

ABSENT = range(1_000_001, 1_000_501)
"""Keys that a history creates, where the sequence does not come."""

REFUSED_BY_CHECK = "refused"

STRANGER = "stranger"
"""The application's name in the sessions that are not the services'."""

INSERT = """
insert into care_case_clinical_trial
    (care_case_clinical_trial_key, comment, study_title, case_key, entry_date, update_date)
values ($1, $2, $3, $4, now(), now())
"""

SELECT = """
select care_case_clinical_trial_key, comment, study_title, case_key
from care_case_clinical_trial
"""

CHANGED = re.compile(
    r"_trial: (?:INSERT|UPDATE): .*care_case_clinical_trial_key\[integer\]:(\d+) "
    r".*case_key\[integer\]:(\d+) comment\[text\]:'(.*?)' .*study_title\[text\]:'(.*?)'"
)
"""A line of test_decoding; the columns come in the order of the table."""

COMMITTED = re.compile(r"COMMIT \(at (.*)\)")

SERVICES_SESSIONS = f"""
from pg_stat_activity
where backend_type = 'client backend'
    and datname = current_database()
    and application_name <> '{STRANGER}'
"""


class Held(NamedTuple):
    """A key whose row somebody held, and when."""

    key: int
    began: float
    ended: float


class World:
    """The server, the database acme, two services, and a proxy between each and the database."""

    _histories = count(1)

    def __init__(
        self, folder: Path, *, is_pooled: bool = False, longest_seconds: float = 2
    ) -> None:
        self.postgres = EmbeddedPostgres(
            folder / "postgres", port=0, settings={"max_connections": "200", "wal_level": "logical"}
        )
        self.longest_seconds = longest_seconds
        """How long one strike of a fault may last."""
        self.services: list[Replica] = []
        self.ways: list[Way] = []
        self.held: list[Held] = []
        """What strangers held in this history."""
        self.session: aiohttp.ClientSession
        self._folder = folder
        self.is_pooled = is_pooled
        """Whether the ways lead to PgBouncer."""
        self._target = ""
        self._began = self._clock = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.postgres)
            self.postgres.create_database("acme")
            asyncio.run(self._prepare())
            self._target = self.postgres.tcp_dsn("acme")
            if self.is_pooled:
                port = stack.enter_context(pgbouncer(self._target))
                self._target = f"postgresql://postgres@127.0.0.1:{port}/acme"
            self._way_ports = [free_port(), free_port()]
            for name, port in zip(STATEMENT_SECONDS, self._way_ports, strict=True):
                dsn = f"postgresql://postgres@127.0.0.1:{port}/acme?sslmode=disable"
                replica = Replica(name, self._folder, dsn, is_pooled=self.is_pooled)
                replica.start()
                stack.callback(replica.end, signal.SIGKILL)
                self.services.append(replica)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    async def _prepare(self) -> None:
        migrate(self._folder, self.postgres.tcp_dsn("acme"))
        await self.execute(
            "alter table care_case_clinical_trial"
            f" add constraint refused check (study_drug <> '{REFUSED_BY_CHECK}')"
        )
        await self.execute("select pg_create_logical_replication_slot('history', 'test_decoding')")

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[None]:
        """Open the ways to the database, and to the services, for one event loop."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            # It would send a PUT again by itself when the connection ends without an answer.
            session._retry_connection = False
            self.session = session
            self.ways = [Way(self._target) for _ in self._way_ports]
            for way, port in zip(self.ways, self._way_ports, strict=True):
                way.port = port
            async with self.ways[0], self.ways[1]:
                for service in self.services:
                    await service.wait_until_alive(session)
                yield

    async def stranger(self) -> Any:
        """Return a connection to the database that is not a service's."""
        return await asyncpg.connect(
            self.postgres.tcp_dsn("acme"), server_settings={"application_name": STRANGER}
        )

    async def execute(self, statement: str) -> None:
        """Run statements on a stranger's connection."""
        connection = await self.stranger()
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def begin(self) -> History:
        """Empty the table but for the keys that are present; return a new history of it."""
        name = f"h{next(self._histories)}"
        self.held.clear()
        history = History(name, {key: f"{name}.before.{key}" for key in PRESENT})
        rows = [(key, *fields(marker).values()) for key, marker in history.initial.items()]
        connection = await self.stranger()
        try:
            await connection.execute(
                f"select pg_terminate_backend(pid) {SERVICES_SESSIONS};"
                "truncate care_case_clinical_trial restart identity"
            )
            await connection.executemany(INSERT, rows)
            await connection.execute(
                "select pg_replication_slot_advance('history', pg_current_wal_lsn())"
            )
            self._clock = time.time() - time.monotonic()
            self._began = time.monotonic()
        finally:
            await connection.close()
        return history

    async def finish(self, history: History) -> None:
        """Add all that was committed since the history began."""
        connection = await self.stranger()
        lines = await connection.fetch(
            "select data from pg_logical_slot_get_changes('history', null, null,"
            " 'include-xids', 'false', 'include-timestamp', 'true')"
        )
        table = await connection.fetch(SELECT)
        await connection.close()
        rows = {key: Row(key, *fields(marker).values()) for key, marker in history.initial.items()}
        changed: list[Row] = []
        for (line,) in lines:
            if match := CHANGED.search(line):
                changed.append(Row(int(match[1]), match[3], match[4], int(match[2])))
            elif match := COMMITTED.match(line):
                at = datetime.fromisoformat(match[1]).timestamp() - self._clock
                if at > self._began:
                    history.changes += [Change(at, row) for row in changed]
                    rows |= {row.key: row for row in changed}
                changed = []
        assert rows == {key: Row(key, *others) for key, *others in table}

    async def settles(self, seconds: float) -> bool:
        """Wait until no session of a service is at work; return whether so many seconds did."""
        connection = await self.stranger()
        try:
            async with asyncio.timeout(seconds):
                while await connection.fetch(f"select {SERVICES_SESSIONS} and state <> 'idle'"):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        finally:
            await connection.close()
        return True
