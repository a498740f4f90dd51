"""The embedded PostgreSQL: what it leaves behind (nothing), and what it survives."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import asyncpg
import pytest

from service.demo.postgres import EmbeddedPostgresError, find_binaries
from tests.support.embedded import EmbeddedPostgres, free_port

PARENT = """
import sys, time
from pathlib import Path
from urllib.parse import unquote
from tests.support.embedded import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
postgres.start()
print(postgres.dsn(), flush=True)
time.sleep(60)
"""


def ask(dsn: str, query: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(run())


def processes_of(folder: Path) -> list[str]:
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listing.stdout.splitlines() if str(folder) in line]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_gone(folder: Path) -> None:
    wait_until(lambda: not processes_of(folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_or_socket_is_left_however_its_parent_ends(
    postgres_folder: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(postgres_folder / "pg")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        dsn = parent.stdout.readline().strip()
        assert ask(dsn, "select 1") == 1

        parent.send_signal(number)

    wait_until_gone(postgres_folder)
    sockets = re.search(r"host=([^&]+)", dsn)
    assert sockets is not None
    wait_until(lambda: not Path(unquote(sockets[1])).exists())


def test_data_survive_a_restart_and_a_crash(postgres_folder: Path) -> None:
    with EmbeddedPostgres(postgres_folder / "pg") as postgres:
        ask(postgres.dsn(), "create table kept as select 17 as value")
    with EmbeddedPostgres(postgres_folder / "pg") as postgres:
        dsn = postgres.dsn()
        ask(dsn, "update kept set value = 18")

        postgres.kill()
        postgres.start()

        assert postgres.dsn() == dsn
        assert ask(dsn, "select value from kept") == 18


def test_what_an_initdb_killed_half_way_left_is_no_obstacle(postgres_folder: Path) -> None:
    unfinished = postgres_folder / "pg" / "data.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")

    with EmbeddedPostgres(postgres_folder / "pg", durable=False) as postgres:
        assert ask(postgres.dsn(), "select 1") == 1


def test_a_stale_pid_of_a_stranger_is_no_obstacle_and_the_stranger_lives(
    postgres_folder: Path,
) -> None:
    with EmbeddedPostgres(postgres_folder / "pg", durable=False) as postgres:
        content = (postgres_folder / "pg/data/postmaster.pid").read_text()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        stale = postgres_folder / "pg/data/postmaster.pid"
        stale.write_text("\n".join([str(stranger.pid), *content.splitlines()[1:]]) + "\n")

        with postgres:
            assert ask(postgres.dsn(), "select 1") == 1

        assert stranger.poll() is None
        stranger.kill()


def test_a_folder_in_use_is_refused(postgres_folder: Path) -> None:
    with (
        EmbeddedPostgres(postgres_folder / "pg", durable=False),
        pytest.raises(EmbeddedPostgresError, match="in use"),
    ):
        EmbeddedPostgres(postgres_folder / "pg").start()


def test_it_listens_on_tcp_only_when_asked(postgres_folder: Path) -> None:
    port = free_port()
    with EmbeddedPostgres(postgres_folder / "pg", durable=False, port=port) as postgres:
        assert ask(postgres.tcp_dsn(), "select inet_server_port()") == port
        assert ask(postgres.tcp_dsn(), "show listen_addresses") == "127.0.0.1"
    with EmbeddedPostgres(postgres_folder / "pg", durable=False) as postgres:
        assert ask(postgres.dsn(), "show listen_addresses") == ""


def test_a_server_that_does_not_start_says_why(postgres_folder: Path) -> None:
    postgres = EmbeddedPostgres(postgres_folder / "pg", settings={"shared_buffers": "nonsense"})

    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        postgres.start()

    wait_until_gone(postgres_folder)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="concerns root only")
def test_root_runs_it_under_an_unprivileged_account_wherever_the_programs_are(
    postgres_folder: Path, tmp_path: Path
) -> None:
    package = find_binaries().parents[1]
    for name in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(name, tmp_path / name.name)
    subprocess.run(["chmod", "-R", "go=", str(tmp_path)], check=True)
    programs = tmp_path / package.name / "pginstall" / "bin"
    umask = os.umask(0o077)

    try:
        with EmbeddedPostgres(postgres_folder / "pg", durable=False, programs=programs) as postgres:
            assert ask(postgres.dsn(), "select 1") == 1
            assert (postgres_folder / "pg/data").stat().st_uid != 0
            assert (postgres_folder / "pg/programs").exists()
    finally:
        os.umask(umask)
