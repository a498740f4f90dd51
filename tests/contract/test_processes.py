"""Contract section 3, "Configuration": processes that start, stop and share a port."""

import asyncio
import json
import os
import re
import signal
import ssl
from pathlib import Path

import pytest

from service.migrations import migrate
from tests.support.certificates import Authority
from tests.support.configuration import ServerSettings, document
from tests.support.embedded import free_port
from tests.support.postgres import MakeDatabase
from tests.support.running import AtImport, RunCommand, StartProcess
from tests.support.service import KEY, PATH


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_signal_during_a_large_batch_lets_it_finish(
    start_process: StartProcess, stop_signal: signal.Signals
) -> None:
    service, process = await start_process()
    batch = [{KEY: key, "comment": "x" * 500} for key in range(1, 20_001)]
    request = asyncio.create_task(service.put(batch))
    while not (await service.fetch("select from care_case_clinical_trial limit 1")):
        await asyncio.sleep(0.01)

    process.send_signal(stop_signal)
    answer = await request

    assert answer.statuses == [201] * 20_000
    assert await asyncio.to_thread(process.wait, 10) == 0
    (row,) = await service.fetch("select count(*) from care_case_clinical_trial")
    assert row["count"] == 20_000


RELOADED = "configuration reloaded"


@pytest.mark.usefixtures("hang_up_action")
@pytest.mark.parametrize(
    ("module", "delay"),
    [
        *(("service.cli", delay) for delay in (0, 0.1, 0.3)),
        # Imported when the configuration has been read.
        ("service.http.server", 0),
    ],
)
async def test_sighup_during_startup_reloads_the_configuration(
    start_process: StartProcess, at_import: AtImport, tmp_path: Path, module: str, delay: float
) -> None:
    change = f"sed -i 's/^port = .*/&\\nmax_batch_items = 1/' {tmp_path}/service-0.toml"
    hang_up = f"{change}; kill -HUP $PPID"
    at_import(module, f"(sleep {delay}; {hang_up}) &" if delay else hang_up)

    service, process = await start_process({"acme": "postgresql://127.0.0.1:1/x"})
    async with asyncio.timeout(10):
        while RELOADED not in (log := (tmp_path / "log-0").read_text()):
            await asyncio.sleep(0.02)
    answer = await service.put([{}, {}])

    assert (process.poll(), answer.status, log.count(RELOADED)) == (None, 413, 1)


@pytest.mark.parametrize("name", ["TERM", "INT"])
@pytest.mark.parametrize("module", ["service.cli", "service.http.server", "uvloop"])
async def test_a_stop_signal_during_startup_ends_it_cleanly(
    run_command: RunCommand, at_import: AtImport, module: str, name: str
) -> None:
    at_import(module, f"kill -{name} $PPID")
    config = document({"acme": "postgresql://127.0.0.1:1/x"}, port=free_port())

    ended = await asyncio.to_thread(run_command, "serve", config=config)

    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert '"message":"stopped"' in ended.stderr


@pytest.mark.parametrize("has_management_port", [False, True])
async def test_while_it_stops_the_probe_says_so_and_new_batches_are_refused(
    start_process: StartProcess, tmp_path: Path, *, has_management_port: bool
) -> None:
    server: ServerSettings = {"management_port": free_port()} if has_management_port else {}
    service, process = await start_process(**server)
    probes = f"http://127.0.0.1:{server.get('management_port', service.port)}"

    async with service.locked_table():
        accepted = [
            asyncio.create_task(service.put([{KEY: key}, {KEY: 0}])) for key in range(1001, 1051)
        ]
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        ready = await service.session.get(f"{probes}/readyz")
        alive = await service.session.get(f"{probes}/livez")
        refused = await service.put([{KEY: 2}])

    assert (ready.status, alive.status, refused.status) == (503, 200, 503)
    assert refused.headers["Retry-After"]
    assert [(await answer).statuses for answer in accepted] == [[201, 201]] * 50
    assert await asyncio.to_thread(process.wait, 10) == 0
    assert len(await service.comments()) == 100
    lines = (tmp_path / "log-0").read_text().splitlines()
    messages = [json.loads(line)["message"] for line in lines]
    assert "draining: 50 requests in flight" in messages
    assert messages[-1] == "stopped"


async def test_it_starts_and_is_ready_with_one_of_its_databases_down(
    start_process: StartProcess,
) -> None:
    service, _ = await start_process(extra_databases={"down": "postgresql://127.0.0.1:1/x"})

    ready = await service.session.get(service.url + "/readyz")

    assert ready.status == 200


async def test_it_starts_but_is_not_ready_with_all_databases_down(
    start_process: StartProcess,
) -> None:
    service, _ = await start_process({"down": "postgresql://127.0.0.1:1/x"})

    alive = await service.session.get(service.url + "/livez")
    ready = await service.session.get(
        service.url + "/readyz", headers={"Accept": "application/json"}
    )

    assert (alive.status, ready.status) == (200, 503)
    assert (await ready.json())["error"]["detail"] == "No database answers."


async def test_it_is_not_ready_before_any_database_is_migrated(
    start_process: StartProcess, make_database: MakeDatabase
) -> None:
    behind = make_database(migrated=False)
    service, _ = await start_process(
        {"behind": behind}, extra_databases={"down": "postgresql://127.0.0.1:1/x"}
    )

    before = await service.session.get(
        service.url + "/readyz", headers={"Accept": "application/json"}
    )
    await migrate(behind)
    after = await service.session.get(service.url + "/readyz")

    assert (before.status, after.status) == (503, 200)
    assert "run care-trials migrate" in (await before.json())["error"]["detail"]


@pytest.mark.skipif(
    "TEST_PGBOUNCER" in os.environ, reason="PostgreSQL sees PgBouncer's connections instead"
)
async def test_the_sessions_of_two_processes_can_be_told_apart(
    start_process: StartProcess,
) -> None:
    one, _ = await start_process()
    other, _ = await start_process(one.databases)

    await asyncio.gather(one.put([{KEY: 1}]), other.put([{KEY: 2}]))

    sessions = await one.fetch(
        "select application_name from pg_stat_activity"
        " where application_name like 'care-case%' and datname = current_database()"
    )
    assert len(sessions) == 2
    assert len({session["application_name"] for session in sessions}) == 2


async def test_with_a_management_port_probes_and_metrics_are_there_and_nowhere_else(
    start_process: StartProcess,
) -> None:
    port = free_port()
    service, _ = await start_process(management_port=port, base_path="/x")
    answers = {}
    for base in (service.url, f"http://127.0.0.1:{port}"):
        for path in ("/livez", "/readyz", "/metrics", "/docs"):
            async with service.session.get(base + path) as response:
                answers[base == service.url, path] = response.status

    batch = await service.put([{KEY: 1}], path=f"/x{PATH}")
    async with service.session.put(f"http://127.0.0.1:{port}/x{PATH}") as response:
        elsewhere = await response.json(content_type=None)

    assert batch.statuses == [201]
    assert [status for (is_public, _), status in answers.items() if is_public] == [
        *(404, 404, 404),
        200,
    ]
    assert [status for (is_public, _), status in answers.items() if not is_public] == [
        *(200, 200, 200),
        404,
    ]
    assert elsewhere["error"]["status"] == 404


async def test_four_processes_share_a_port_and_each_has_a_management_port(
    start_process: StartProcess,
) -> None:
    port, ports = free_port(), [free_port() for _ in range(4)]
    service, _ = await start_process(port=port, reuse_port=True, management_port=ports[0])
    for own in ports[1:]:
        await start_process(service.databases, port=port, reuse_port=True, management_port=own)

    alone = {"Connection": "close"}
    for key in range(1, 81):
        assert (await service.put([{KEY: key}], headers=alone)).statuses == [201]
    counts = []
    for own in ports:
        async with service.session.get(f"http://127.0.0.1:{own}/metrics") as response:
            text = await response.text()
        counts.append(sum(map(float, re.findall(r"_items_total\{.*\} (\S+)", text))))

    assert sum(counts) == 80
    assert all(counts)


@pytest.mark.parametrize("kind", ["plain", "tls", "management port"])
async def test_healthcheck_asks_the_configured_listener(
    start_process: StartProcess, run_command: RunCommand, tmp_path: Path, kind: str
) -> None:
    server: ServerSettings = {"port": free_port(), "base_path": "/x", "host": "0.0.0.0"}  # noqa: S104
    trusting = None
    if kind == "management port":
        server["management_port"] = free_port()
    if kind == "tls":
        authority = Authority(tmp_path, "authority")
        certificate, key = authority.sign("first")
        trusting = ssl.create_default_context(cafile=authority.path)
        server |= {"tls_certificate": str(certificate), "tls_key": str(key)}
    config = document({"acme": "postgresql://127.0.0.1:1/x"}, **server)

    before = await asyncio.to_thread(run_command, "healthcheck", config=config)
    await start_process({"acme": "postgresql://127.0.0.1:1/x"}, ssl_context=trusting, **server)
    during = await asyncio.to_thread(run_command, "healthcheck", config=config)

    assert before.returncode == 1
    assert before.stderr.startswith("Error: nothing is listening on ")
    assert (during.returncode, during.stderr) == (0, "")
