"""systemd: the unit is sound, and processes that share a port stand in for each other."""

import asyncio
import re
import signal
from pathlib import Path

import aiohttp
import pytest

from service import __version__, cli, config
from service.demo.postgres import free_port
from tests.bench.processes import listeners
from tests.deploy.files import MAX_CONNECTIONS, SYSTEMD_FOLDER, load, run, tool
from tests.harness.ledger import Ledger
from tests.harness.running import StartProcess
from tests.harness.service import KEY, ServiceUnderTest

UNIT = (SYSTEMD_FOLDER / "care-trials@.service").read_text()
CONFIGURATION = SYSTEMD_FOLDER / "service.toml"
PROGRAM = "/opt/care-trials/bin/care-trials"


def values(name: str) -> list[str]:
    """Return what the unit sets a directive to."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return load(CONFIGURATION, tmp_path)


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


def test_the_unit_starts_reloads_and_stops_as_the_service_does(settings: config.Settings) -> None:
    (start,), (reload,) = values("ExecStart"), values("ExecReload")

    assert start == f"{PROGRAM} serve"
    assert "serve" in cli.main.commands
    assert reload == "/bin/kill -HUP $MAINPID"
    assert values("KillSignal") == ["SIGTERM"]
    assert values("Restart") == ["always"]
    assert int(values("TimeoutStopSec")[0]) > settings.server.shutdown_grace_seconds


def test_the_unit_and_the_steps_before_it_name_the_same_files() -> None:
    (path,) = re.findall(r"SERVICE_CONFIG=(\S+)", UNIT)
    head = UNIT.partition("[Unit]")[0]

    assert f"{Path(path).parent}/\n" in head
    assert f"{Path(PROGRAM).parents[1]}\n" in head
    assert f"care_case_clinical_trials_service-{__version__}-py3-none-any.whl" in head
    assert re.search(rf"useradd .*/nologin {values('User')[0]}\n", head)
    for secret in re.findall(r"\$\{file:([^}]+)\}", CONFIGURATION.read_text()):
        assert Path(secret).parent == Path(path).parent / "secrets"
        assert Path(secret).name in head


def test_the_processes_share_the_port_and_the_databases_connections(
    settings: config.Settings,
) -> None:
    processes = re.findall(r"care-trials@\d", UNIT)

    assert settings.server.reuse_port
    for database in settings.databases.values():
        assert len(processes) * database.pool_max_size < MAX_CONNECTIONS


def test_each_process_has_a_management_port_of_its_own() -> None:
    (variable,) = re.findall(r"^Environment=(SERVICE_SERVER__MANAGEMENT_PORT=\S+)$", UNIT, re.M)
    name, _, port = variable.replace("%i", "2").partition("=")
    (path,) = re.findall(r"SERVICE_CONFIG=(\S+)", UNIT)
    assert Path(path).name == CONFIGURATION.name

    environment = {name: port, "SERVICE_DATABASES__ACME__DSN": "postgresql://h/acme"}
    for key, value in (("SHA256", "0" * 64), ("DATABASES", "[]")):
        environment[f"SERVICE_AUTH__API_KEYS__LOADER__{key}"] = value
    environment["SERVICE_AUTH__JWT__SECRET"] = "x" * 32
    environment["SERVICE_AUTH__JWT__ALGORITHMS"] = '["HS256"]'

    assert config.load(None, environment).server.management_port == 8082


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


async def test_a_reload_without_a_certificate_ends_nothing(start_process: StartProcess) -> None:
    service, process = await start_process()

    process.send_signal(signal.SIGHUP)

    await asyncio.sleep(0.3)
    assert process.poll() is None
    assert await service.is_alive()
