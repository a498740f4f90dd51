"""The cluster of Citus that TEST_CITUS_URL names, for a run of the tests against it.

The variable holds a superuser's DSN of a database on the coordinator in which the workers are
known (``citus_add_node``). All servers trust each other, and this machine. What Citus itself
refuses to a test, such as a trigger, is an expected failure; a cluster that is not there fails
every test that wants a database.
"""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import pytest

URL = os.environ.get("TEST_CITUS_URL")

REFUSALS = [
    "not supported",
    "must be a distributed table or a reference table",
    "non-distributed tables cannot inherit distributed tables",
    # Some DDL as one of several statements that are sent as one.
    "cannot insert multiple commands into a prepared statement",
]
"""What Citus says under other SQLSTATEs than that for a feature that it lacks."""

WORKERS = """
    select node.nodename, node.nodeport
    from pg_dist_node as node
    where node.groupid <> 0 and node.noderole = 'primary'
    order by node.groupid
"""


def with_database(dsn: str, database: str) -> str:
    """Return the DSN of another database of the same server."""
    return re.sub(r"^(\w+://[^/]*/)[^?]*", rf"\g<1>{database}", dsn)


@cache
def servers_of(dsn: str) -> list[str]:
    """Return the DSNs of the servers on which a database has to be made: the coordinator first.

    That is one where no cluster is under test. Raises what connecting does.
    """
    if dsn != URL:
        return [dsn]

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(dsn)
        try:
            return list(await connection.fetch(WORKERS))
        finally:
            await connection.close()

    workers = asyncio.run(ask())
    assert workers, "no worker is known where TEST_CITUS_URL leads: select citus_add_node(…)"
    return [dsn, *(re.sub(r"[^/@]+(?=/[^/]*$)", f"{host}:{port}", dsn) for host, port in workers)]


async def join(dsn: str, database: str) -> None:
    """Make a cluster of the databases of this name, one on each of the servers."""
    servers = servers_of(dsn)
    for server in servers:
        connection = await asyncpg.connect(with_database(server, database))
        await connection.execute("create extension citus")
        await connection.close()
    connection = await asyncpg.connect(with_database(dsn, database))
    nodes = [re.search(r"([^/@:]*):(\d+)/[^/]*$", server) for server in servers]
    (coordinator, *workers) = [(node[1], int(node[2])) for node in nodes if node]
    await connection.fetch("select citus_set_coordinator_host($1, $2)", *coordinator)
    for worker in workers:
        await connection.fetch("select citus_add_node($1, $2)", *worker)
    await connection.close()


def is_refusal(error: BaseException | None) -> bool:
    """Tell whether Citus does not do what a test wants to be done to the table.

    What the service is refused is none: nobody raises that in a test.
    """
    if not URL or not isinstance(error, asyncpg.PostgresError):
        return False
    return isinstance(error, asyncpg.FeatureNotSupportedError) or any(
        words in str(error) for words in REFUSALS
    )


class Server:
    """One server of the cluster, on this machine, to be killed and started again."""

    def __init__(self, data: Path, programs: Path) -> None:
        self._data = data
        self._programs = programs

    def kill(self) -> None:
        """End it as a crash would: SIGKILL to all of it."""
        postmaster = int((self._data / "postmaster.pid").read_text().split()[0])
        # Stopped first, so that it replaces none of its children.
        os.kill(postmaster, signal.SIGSTOP)
        listing = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(postmaster)],
            capture_output=True,
            text=True,
            check=False,
        )
        for child in [*map(int, listing.stdout.split()), postmaster]:
            os.kill(child, signal.SIGKILL)
        while Path(f"/proc/{postmaster}").exists():
            time.sleep(0.01)

    def start(self) -> None:
        """Start it, and wait until it has recovered."""
        owner = self._data.stat()
        subprocess.run(
            [
                self._programs / "pg_ctl",
                *("-D", self._data),
                *("-l", self._data / "log_of_tests"),
                *("-w", "-s", "start"),
            ],
            user=owner.st_uid,
            group=owner.st_gid,
            extra_groups=[],
            # With the home of another user it finds certificates that it may not read.
            env={"HOME": str(self._data)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )


async def servers_to_kill(dsn: str) -> list[Server]:
    """Return the coordinator and the workers; all must run on this machine."""
    found = []
    for each in servers_of(dsn):
        connection = await asyncpg.connect(each)
        (row,) = await connection.fetch(
            "select current_setting('data_directory') as data,"
            " (select setting from pg_config where name = 'BINDIR') as programs"
        )
        await connection.close()
        found.append(Server(Path(row["data"]), Path(row["programs"])))
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Expect that Citus refuses some of what the tests do to the table."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if is_refusal(error):
        report.outcome = "skipped"
        report.wasxfail = f"Citus refuses: {error}"
    return report
