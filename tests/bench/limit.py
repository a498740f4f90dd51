"""The limits that no service passes: pgbench with no wire, and one asyncpg connection."""

import subprocess
import tempfile
import time
from pathlib import Path

import asyncpg
import uvloop

from .figures import Figures, latencies
from .processes import cpu_seconds
from .rows import COLUMNS, KEY_COLUMN, Records, Shape, upsert_of_one_row, upsert_statement

ROWS = 500
"""How many rows one of pgbench's transactions upserts."""


def pgbench(
    program: Path, dsn: str, postgres_pid: int, shape: Shape, rows: int, *,
    are_new: bool, sessions: int, seconds: float,
) -> Figures:  # fmt: skip
    """Upsert ranges of the copy of the rows that lies beside the table."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(_script(shape, rows, are_new=are_new))
        script.flush()
        before = cpu_seconds(postgres_pid)
        output = subprocess.run(
            [
                *(str(program), "--no-vacuum", "--protocol=prepared", f"--file={script.name}"),
                *(f"--client={sessions}", f"--jobs={sessions}"),
                *(f"--time={max(1, round(seconds))}", dsn),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        time.sleep(0.5)  # until its backends are gone, and counted with their parent
        cpu = cpu_seconds(postgres_pid) - before
    found = dict(line.split(" = ", 1) for line in output.splitlines() if " = " in line)
    processed = next(
        line for line in output.splitlines() if "transactions actually processed" in line
    )
    items = int(processed.rpartition(": ")[2].partition("/")[0]) * ROWS
    return Figures(
        items=items,
        items_per_second=float(found["tps"].split()[0]) * ROWS,
        median_ms=None,
        postgres_cpu_us=cpu / items * 1e6,
    )


def _script(shape: Shape, rows: int, *, are_new: bool) -> str:
    first = rf"\set first random(1, {rows - ROWS + 1})" + "\n"
    in_range = f"where {KEY_COLUMN} between :first and :first + {ROWS - 1}"
    if not are_new:
        source = f"select {', '.join(COLUMNS)} from bench_seed_{shape} {in_range}"  # noqa: S608
        return first + upsert_statement(source) + ";\n"
    step = f"with step as materialized (select nextval('bench_step') * {ROWS} as base) "
    columns = ", ".join(COLUMNS[1:])
    source = (
        f"select step.base + {KEY_COLUMN} - :first, {columns}"  # noqa: S608
        f" from bench_seed_{shape}, step {in_range}"
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
    return Figures(
        items=len(measured),
        items_per_second=len(measured) / (now - started_at),
        **latencies(measured),
    )
