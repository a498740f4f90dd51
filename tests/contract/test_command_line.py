"""Contract section 4, "Command line", with real processes."""

import asyncio
import hashlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.under_test import KEY, SECRET, document, token, toml

MakeDatabase = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command of the service to its end."""

    def run_it(*arguments: str, config: Any = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service", *arguments]
        if config is not None:
            path = tmp_path / "service.toml"
            path.write_text(toml(config))
            command += ["--config", str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run_it


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_new_key_prints_a_key_and_its_sha256_line(run: Run) -> None:
    result = run("new-key")

    key_line, sha_line = result.stdout.splitlines()
    key = key_line.removeprefix("key: ")
    assert len(key) >= 40
    assert sha_line == f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"'


def test_token_prints_a_token_that_the_configuration_accepts(run: Run) -> None:
    config = document({})
    config["auth"]["jwt"] |= {"issuer": "us", "audience": "them"}

    result = run("token", "--subject", "ann", "--expires", "15m", config=config)

    claims = jwt.decode(
        result.stdout.strip(), SECRET, algorithms=["HS256"], issuer="us", audience="them"
    )
    assert claims["sub"] == "ann"
    assert claims["exp"] - claims["iat"] == 900


def test_check_config_connects_and_redacts(run: Run, make_database: MakeDatabase) -> None:
    config = document(
        {
            "acme": make_database(),
            "globex": make_database(migrated=False),
            "down": "postgresql://u:marker@127.0.0.1:1/x",
        }
    )

    result = run("check-config", config=config)

    assert result.returncode == 1
    assert "database acme: connected, schema is current" in result.stdout
    assert "database globex: connected, but not migrated" in result.stdout
    assert "database down: cannot connect" in result.stdout
    assert "marker" not in result.stdout + result.stderr
    assert SECRET not in result.stdout + result.stderr


def test_a_wrong_setting_stops_every_command_with_one_line(run: Run) -> None:
    for command in ("serve", "migrate", "check-config"):
        result = run(command, config=document({}, prot=1))

        assert result.returncode != 0
        assert result.stderr.count("\n") == 1
        assert "prot" in result.stderr


def test_migrate_brings_all_or_one_database_to_the_current_schema(
    run: Run, make_database: MakeDatabase
) -> None:
    config = document(
        {"acme": make_database(migrated=False), "globex": make_database(migrated=False)}
    )

    one = run("migrate", "--database", "globex", config=config)
    both = run("migrate", config=config)
    unknown = run("migrate", "--database", "nowhere", config=config)

    assert (one.returncode, both.returncode) == (0, 0)
    assert "globex" in one.stdout
    assert "acme" not in one.stdout
    assert "acme" in both.stdout
    assert unknown.returncode == 1
    assert run("check-config", config=config).returncode == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_signal_during_a_large_batch_lets_it_finish(
    start_process: Callable[..., Any], workers: int, stop_signal: signal.Signals
) -> None:
    service, process = await start_process(workers=workers)
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


async def test_while_it_stops_the_probe_says_so_and_new_batches_are_refused(
    start_process: Callable[..., Any],
) -> None:
    service, process = await start_process()
    blocker = await service.connect()
    await service.put([{KEY: 1}])
    await blocker.execute("begin; lock table care_case_clinical_trial")
    accepted = asyncio.create_task(service.put([{KEY: 1, "comment": "accepted"}]))
    await asyncio.sleep(0.3)

    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    ready = await service.session.get(service.url + "/readyz")
    alive = await service.session.get(service.url + "/livez")
    refused = await service.put([{KEY: 2}])
    await blocker.execute("rollback")

    assert (ready.status, alive.status, refused.status) == (503, 200, 503)
    assert refused.headers["Retry-After"]
    assert (await accepted).statuses == [200]
    assert await asyncio.to_thread(process.wait, 10) == 0
    assert await service.comments() == {1: "accepted"}
    await blocker.close()


async def test_it_starts_and_is_ready_with_one_of_its_databases_down(
    start_process: Callable[..., Any],
) -> None:
    service, _ = await start_process(extra_databases={"down": "postgresql://127.0.0.1:1/x"})

    ready = await service.session.get(service.url + "/readyz")

    assert ready.status == 200


async def test_it_starts_but_is_not_ready_with_all_databases_down(
    start_process: Callable[..., Any],
) -> None:
    service, _ = await start_process(databases={"down": "postgresql://127.0.0.1:1/x"})

    alive = await service.session.get(service.url + "/livez")
    ready = await service.session.get(
        service.url + "/readyz", headers={"Accept": "application/json"}
    )

    assert (alive.status, ready.status) == (200, 503)
    assert (await ready.json())["error"]["detail"] == "No database answers."


async def test_a_worker_that_dies_is_replaced_while_the_others_serve_on(
    start_process: Callable[..., Any],
) -> None:
    service, process = await start_process(workers=2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    async with asyncio.timeout(10):
        while len(before := set(children.read_text().split())) < 2:
            await asyncio.sleep(0.1)

    subprocess.run(["kill", "-KILL", min(before)], check=True)
    for key in range(1, 20):
        try:
            await service.put([{KEY: key}])
        except OSError:
            # Only a connection that the dead worker held.
            continue
    async with asyncio.timeout(10):
        while len(now := set(children.read_text().split())) < 2 or now == before:
            await asyncio.sleep(0.1)

    assert (await service.put([{KEY: 99}])).statuses == [201]


def test_a_port_in_use_stops_the_start_with_one_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", config=document({}, port=taken.getsockname()[1]))

    assert result.returncode == 1
    assert "in use" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_tokens_of_a_public_key_are_accepted_and_no_others(
    make_service: Callable[..., Any], key_pair: Callable[[str], tuple[str, Path]], algorithm: str
) -> None:
    private, public = key_pair(algorithm)
    service = await make_service(jwt={"algorithms": [algorithm], "public_key_file": str(public)})
    good = {"Authorization": f"Bearer {token(private, algorithm)}"}
    confused = {"Authorization": f"Bearer {hmac_token(public.read_bytes())}"}

    assert (await service.put([{KEY: 1}], headers=good)).statuses == [201]
    assert (await service.put([{KEY: 1}], headers=confused)).status == 401
    assert (await service.put([{KEY: 1}])).status == 401


def hmac_token(public_key: bytes) -> str:
    """Return a token signed by HMAC with the public key as the secret, as attackers do."""
    import base64
    import hmac
    import json
    import time

    def encode(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    signed = b".".join(
        encode(json.dumps(part).encode())
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": "x", "exp": int(time.time()) + 60})
    )
    signature = hmac.digest(public_key, signed, "sha256")
    return (signed + b"." + encode(signature)).decode()
