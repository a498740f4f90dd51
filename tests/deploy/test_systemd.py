"""systemd: the unit is sound, and processes that share a port stand in for each other."""

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.bench.processes import listeners
from tests.deploy.files import UNIT, found, run, tool
from tests.support.embedded import free_port
from tests.support.ledger import Ledger
from tests.support.running import StartProcess
from tests.support.service import KEY, ServiceUnderTest

PROGRAM = "/opt/care-trials/bin/care-trials"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as an instance, with a program that is there."""
    path = tmp_path / "care-trials@1.service"
    path.write_text(UNIT.replace(PROGRAM, tool("care-trials")))
    return path


def test_systemd_accepts_the_unit(unit: Path) -> None:
    run(tool("systemd-analyze"), "verify", unit)


def test_the_unit_is_sandboxed(unit: Path) -> None:
    """At most 1.5 on the scale where a unit without any of it has 9.6 of 10."""
    run(tool("systemd-analyze"), "security", "--offline=true", "--threshold=15", unit)


def test_the_unit_starts_reloads_and_stops_what_the_steps_before_it_installed() -> None:
    head = UNIT.partition("[Unit]")[0]

    assert found("^ExecStart=(.*)$", UNIT) == f"{PROGRAM} serve"
    assert found("^ExecReload=(.*)$", UNIT) == "/bin/kill -HUP $MAINPID"
    assert found("^KillSignal=(.*)$", UNIT) == "SIGTERM"
    assert found("^Restart=(.*)$", UNIT) == "always"
    assert f"python3 -m venv {Path(PROGRAM).parents[1]}\n" in head
    assert f"/usr/sbin/nologin {found('^User=(.*)$', UNIT)}\n" in head


@pytest.mark.slow
async def test_of_four_processes_one_may_be_killed_under_load(
    start_process: StartProcess, tmp_path: Path
) -> None:
    port = free_port()
    first, victim = await start_process(port=port, reuse_port=True)
    for _ in range(3):
        await start_process(first.databases, port=port, reuse_port=True)
    # A connection for each request, so that the kernel gives each process its share.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        ledger = Ledger(ServiceUnderTest(first.url, session, first.databases), service_may_die=True)
        async with ledger.under_load(senders=8):
            await asyncio.sleep(1)
            victim.kill()
            victim.wait()
            await asyncio.sleep(0.3)
            cut_off, before = ledger.unanswered, ledger.requests
            await asyncio.sleep(1)

        assert cut_off <= 8
        assert ledger.unanswered == cut_off
        assert not ledger.refusals
        assert ledger.requests > before + 40
        await ledger.assert_true()
    logs = [path.read_text() for path in sorted(tmp_path.glob("log-*"))]
    assert len(logs) == 4
    assert all('"message":"request"' in log for log in logs)


async def test_one_that_is_stopped_leaves_new_connections_to_the_other(
    start_process: StartProcess,
) -> None:
    port = free_port()
    service, stopped = await start_process(port=port, reuse_port=True)
    alone = {"Connection": "close"}
    await service.put([{KEY: 1}], headers=alone)
    async with service.locked_table():
        in_flight = asyncio.create_task(service.put([{KEY: 1, "comment": "in flight"}]))
        await asyncio.sleep(0.3)
        await start_process(service.databases, port=port, reuse_port=True)

        stopped.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            while listeners(port) > 1:
                await asyncio.sleep(0.01)
        ready = [
            await service.session.get(f"{service.url}/readyz", headers=alone) for _ in range(9)
        ]
        assert stopped.poll() is None
        others = [asyncio.create_task(service.put([{KEY: 2}], headers=alone)) for _ in range(9)]
        await asyncio.sleep(0.3)

    assert [answer.status for answer in ready] == [200] * 9
    assert (await in_flight).statuses == [200]
    answers = await asyncio.gather(*others)
    assert sorted(answer.statuses[0] for answer in answers) == [200] * 8 + [201]
    assert await asyncio.to_thread(stopped.wait, 10) == 0
