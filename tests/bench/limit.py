"""The limits that no service passes: pgbench with no wire, and one asyncpg connection."""

import re
import subprocess
import tempfile
import time

import asyncpg
import uvloop

from service.demo.postgres import find_binaries

from .figures import Figures
from .processes import cpu_seconds
from .rows import COLUMNS, KEY_COLUMN, Records, upsert_of_one_row, upsert_statement
from .scenarios import Scenario

ROWS = 500
"""How many rows one of pgbench's transactions upserts, as one of the service's statements does."""


def pgbench(
    dsn: str, postgres_pid: int, scenario: Scenario, sessions: int, seconds: float
) -> Figures:
    """Upsert ranges of the copy of the rows that lies beside the table."""
    rows = min(scenario.batch, ROWS)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(_script(scenario, rows, scenario.rows // sessions))
        script.flush()
        before = cpu_seconds(postgres_pid)
        output = subprocess.run(
            [
                *(str(find_binaries() / "pgbench"), "--no-vacuum", "--protocol=prepared"),
                *(f"--file={script.name}", f"--client={sessions}", f"--jobs={min(sessions, 4)}"),
                *(f"--time={max(1, round(seconds))}", dsn),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        time.sleep(0.5)  # until its backends are gone, and counted with their parent
        cpu = cpu_seconds(postgres_pid) - before
    found = dict(re.findall(r"(tps|processed)(?: =|:) ([\d.]+)", output))
    items = int(found["processed"]) * rows
    return Figures(
        items=items,
        items_per_second=float(found["tps"]) * rows,
        postgres_cpu_us=cpu / items * 1e6,
    )


def _script(scenario: Scenario, rows: int, own: int) -> str:
    """Return the transaction of a session, which stays within so many rows of its own."""
    first = rf"\set first 1 + :client_id * {own} + random(0, {own - rows})" + "\n"
    seed = f"bench_seed_{scenario.shape}"
    in_range = f"where {KEY_COLUMN} between :first and :first + {rows - 1}"
    if not scenario.are_new:
        source = f"select {', '.join(COLUMNS)} from {seed} {in_range}"  # noqa: S608
        return first + upsert_statement(source) + ";\n"
    step = f"with step as materialized (select nextval('bench_step') * {ROWS} as base) "
    columns = ", ".join(COLUMNS[1:])
    source = (
        f"select step.base + {KEY_COLUMN} - :first, {columns}"  # noqa: S608
        f" from {seed}, step {in_range}"
    )
    return first + step + upsert_statement(source) + ";\n"


def bare_asyncpg(dsn: str, seconds: float) -> Figures:
    """Upsert single existing rows on one connection, in this process."""
    return uvloop.run(_bare_asyncpg(dsn, seconds))


async def _bare_asyncpg(dsn: str, seconds: float) -> Figures:
    connection = await asyncpg.connect(dsn)
    rows = list(Records("short").rows(range(1, 1001)))
    statement = await connection.prepare(upsert_of_one_row())
    for row in rows[:100]:
        await statement.fetchrow(*row)
    measured: list[float] = []
    started_at = now = time.perf_counter()
    while now < started_at + seconds:
        await statement.fetchrow(*rows[len(measured) % len(rows)])
        earlier, now = now, time.perf_counter()
        measured.append(now - earlier)
    await connection.close()
    figures = Figures(items=len(measured), items_per_second=len(measured) / (now - started_at))
    figures.tell_latencies(measured)
    return figures
