"""The one database that all contestants write to, and the copies it is refilled from."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import asyncpg

from .load import NEW_KEYS_FROM
from .processes import parent
from .rows import COLUMNS, KEY_COLUMN, Records, Shape

SETTINGS = {
    "shared_buffers": "512MB",
    "min_wal_size": "4GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
}
"""Room, so that no checkpoint falls into one contestant's run and not into another's, and
WAL files that are kept. Durability is PostgreSQL's default: fsync and synchronous_commit
are on."""

LOCKED_KEY = 500

# What bad items fail on; always there, so that it costs all contestants the same.
_CHECK = "alter table care_case_clinical_trial add constraint bench_check check (case_key > 0)"

Connection = asyncpg.Connection
Result = TypeVar("Result")


class Trials:
    """The table of trials in the benchmark's database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def prepare(self, rows: Mapping[Shape, int]) -> None:
        """Make an unlogged copy of so many rows of each shape beside the migrated table."""

        async def work(connection: "Connection[asyncpg.Record]") -> None:
            await connection.execute(_CHECK)
            await connection.execute(f"create sequence bench_step start {NEW_KEYS_FROM // 500}")
            for shape, number in rows.items():
                seed = f"bench_seed_{shape}"
                await connection.execute(
                    f"create unlogged table {seed}"
                    f" (like care_case_clinical_trial, primary key ({KEY_COLUMN}))"
                )
                records = Records(shape).rows(range(1, number + 1))
                await connection.copy_records_to_table(seed, records=records, columns=COLUMNS)
                await connection.execute(f"vacuum analyze {seed}")

        self._run(work)

    def refill(self, shape: Shape, rows: int) -> None:
        """Bring the table to the state that each run starts from: existing rows, no dead ones."""
        columns = ", ".join(COLUMNS)
        statements = [
            "truncate care_case_clinical_trial",
            "checkpoint",
            f"insert into care_case_clinical_trial ({columns}) select {columns}"  # noqa: S608
            f" from bench_seed_{shape} where {KEY_COLUMN} <= {rows} order by {KEY_COLUMN}",
            "vacuum analyze care_case_clinical_trial",
        ]

        async def work(connection: "Connection[asyncpg.Record]") -> None:
            for statement in statements:
                await connection.execute(statement)

        self._run(work)

    @contextmanager
    def locked_row(self) -> Iterator[None]:
        """Hold the lock of one of the existing rows, as a stranger's open transaction does."""
        with asyncio.Runner() as runner:
            connection = runner.run(asyncpg.connect(self.dsn))
            runner.run(connection.execute("begin"))
            runner.run(
                connection.execute(
                    "update care_case_clinical_trial set comment = comment"  # noqa: S608
                    f" where {KEY_COLUMN} = {LOCKED_KEY}"
                )
            )
            yield
            runner.run(connection.close())

    def version(self) -> str:
        """Return the version of PostgreSQL."""
        return str(self._run(lambda connection: connection.fetchval("show server_version")))

    def postmaster(self) -> int:
        """Return the process that is the parent of all of PostgreSQL's."""

        async def work(connection: "Connection[asyncpg.Record]") -> int:
            return parent(await connection.fetchval("select pg_backend_pid()"))

        return self._run(work)

    def _run(self, work: Callable[["Connection[asyncpg.Record]"], Awaitable[Result]]) -> Result:
        async def connected() -> Result:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(connected())
