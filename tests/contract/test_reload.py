"""Contract section 3, "Configuration": SIGHUP changes settings without a dropped request."""

import asyncio
import hashlib
import os
import pty
import secrets
import signal
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.certificates import Authority, presented_subject
from tests.support.configuration import JwtSettings, document, toml
from tests.support.embedded import free_port
from tests.support.key_server import KeyServer, bearer, published, serving_keys
from tests.support.ledger import Ledger
from tests.support.postgres import MakeDatabase
from tests.support.running import AtImport, Process, StartProcess
from tests.support.service import API_KEY, KEY, PATH, SECRET, Answer, token

DONE = "configuration reloaded"


class Operator:
    """Changes the configuration of a process and makes it reload."""

    def __init__(self, folder: Path, process: Process) -> None:
        self._path = folder / "service-0.toml"
        self._log = folder / "log-0"
        self._process = process

    def log(self) -> str:
        return self._log.read_text()

    async def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the file and make the process reload it."""
        content = tomllib.loads(self._path.read_text())
        change(content)
        await self.write(toml(content))

    async def write(self, text: str) -> None:
        """Write the file and wait until the process has reloaded it."""
        self._path.write_text(text)
        seen = self.log().count(DONE) + self.log().count("reload failed")
        self._process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while self.log().count(DONE) + self.log().count("reload failed") == seen:
                await asyncio.sleep(0.02)


def with_key(key: str) -> dict[str, str]:
    return {"x-api-key": key}


def key_settings(*accepted: str) -> dict[str, Any]:
    digests = [hashlib.sha256(secret.encode()).hexdigest() for secret in accepted]
    return {"sha256": digests, "databases": ["*"]}


async def test_a_rotated_secret_keeps_its_idempotency_keys(
    start_process: StartProcess, tmp_path: Path
) -> None:
    """The steps of docs/operating.md, "Rotate keys and secrets"."""
    service, process = await start_process()
    operator = Operator(tmp_path, process)
    new = secrets.token_urlsafe()

    async def send(secret: str) -> Answer:
        headers = {"Idempotency-Key": "k", **with_key(secret)}
        return await service.put([{KEY: 0}, {KEY: 5000}, {KEY: 0}], headers=headers)

    async def accept(*accepted: str) -> None:
        settings = key_settings(*accepted)
        await operator.change(lambda c: c["auth"]["api_keys"]["loader"].update(settings))

    first = await send(API_KEY)
    answers = [await send(new)]
    await accept(API_KEY, new)
    answers += [await send(new), await send(API_KEY)]
    await accept(new)
    answers += [await send(new), await send(API_KEY)]

    assert [answer.status for answer in answers] == [401, 207, 207, 207, 401]
    assert [answer.keys for answer in answers[1:4]] == [first.keys] * 3
    assert sorted(await service.comments()) == sorted(first.keys)


async def test_the_secret_of_the_tokens_is_changed(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service, process = await start_process()
    operator = Operator(tmp_path, process)
    other = SECRET[::-1]
    assert (await service.put([])).status == 207

    await operator.change(lambda c: c["auth"]["jwt"].update(secret=other))

    assert (await service.put([])).status == 401
    new = {"Authorization": f"Bearer {token(other)}"}
    assert (await service.put([], headers=new)).status == 207


async def test_keys_that_were_fetched_stay_as_long_as_the_new_settings_say(
    start_process: StartProcess, tmp_path: Path
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    async with serving_keys(KeyServer()) as keys, serving_keys(KeyServer()) as others:
        keys.publish(published(key))
        rules: JwtSettings = {"algorithms": ["RS256"], "jwks_url": keys.url}
        service, process = await start_process(jwt=rules)
        operator = Operator(tmp_path, process)
        statuses = [(await service.put([], headers=bearer(key))).status]
        keys.is_down = True

        for seconds in (3600, 1, 3600):

            def change(content: dict[str, Any], seconds: int = seconds) -> None:
                content["auth"]["jwt"]["jwks_stale_seconds"] = seconds

            await operator.change(change)
            await asyncio.sleep(1.1)
            statuses.append((await service.put([], headers=bearer(key))).status)
        await operator.change(lambda c: c["auth"]["jwt"].update(jwks_url=others.url))
        async with asyncio.timeout(5):
            await others.asked.wait()

    assert statuses == [207, 207, 503, 207]


async def test_a_database_is_added_and_another_drained_and_removed(
    start_process: StartProcess, make_database: MakeDatabase, tmp_path: Path
) -> None:
    service, process = await start_process()
    operator = Operator(tmp_path, process)
    globex = make_database()
    sessions = (
        "select count(*) as count from pg_stat_activity where application_name like 'care-case%'"
        " and datname = current_database()"
    )

    def replace(content: dict[str, Any]) -> None:
        content["databases"] = {"globex": {"dsn": globex}}

    async with service.locked_table():
        batch = [{KEY: key} for key in range(1, 2_001)]
        in_flight = asyncio.create_task(service.put(batch))
        while (await service.fetch(sessions))[0]["count"] == 0:
            await asyncio.sleep(0.02)
        await operator.change(replace)
        refused = await service.put([{KEY: 1}])
        added = await service.put([{KEY: 1}], database="globex")

    assert (refused.status, added.statuses) == (403, [201])
    assert (await in_flight).statuses == [201] * 2_000
    # PgBouncer keeps its own sessions.
    async with asyncio.timeout(10):
        while "TEST_PGBOUNCER" not in os.environ and (await service.fetch(sessions))[0]["count"]:
            await asyncio.sleep(0.05)


async def test_limits_are_changed(start_process: StartProcess, tmp_path: Path) -> None:
    service, process = await start_process()
    operator = Operator(tmp_path, process)
    document = f"{service.url}/openapi.json"
    async with service.session.get(document) as response:
        before = response.headers["ETag"]

    def tighten(content: dict[str, Any]) -> None:
        content["server"]["max_batch_items"] = 1
        content["auth"]["api_keys"]["loader"]["rate_limit"] = "2/minute"

    await operator.change(tighten)
    answers = [await service.put([{KEY: 1}, {KEY: 2}]), await service.put([{KEY: 1}])]
    # What was counted counts on.
    await operator.change(lambda c: None)
    answers.append(await service.put([{KEY: 1}]))
    async with service.session.get(document, headers={"If-None-Match": before}) as response:
        described = await response.json()

    assert [answer.status for answer in answers] == [413, 207, 429]
    operation = described["paths"][PATH]
    schema = operation["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["maxItems"] == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[server\n", "not valid TOML"),
        ("[server]\nprot = 1\n", "server.prot: unknown setting"),
    ],
)
async def test_a_file_that_cannot_be_used_is_one_line_and_the_old_settings_stay(
    start_process: StartProcess, tmp_path: Path, text: str, reason: str
) -> None:
    service, process = await start_process()
    operator = Operator(tmp_path, process)

    await operator.write(text)
    answer = await service.put([{KEY: 1}])

    assert answer.statuses == [201]
    (line,) = [line for line in operator.log().splitlines() if "reload failed" in line]
    assert '"level":"ERROR"' in line
    assert reason in line


async def test_a_certificate_that_cannot_be_used_changes_nothing(
    start_process: StartProcess, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.sign("first")
    trusting = ssl.create_default_context(cafile=authority.path)
    service, process = await start_process(
        tls_certificate=str(certificate), tls_key=str(key), ssl_context=trusting
    )
    operator = Operator(tmp_path, process)
    _, foreign = authority.sign("second")
    key.write_bytes(foreign.read_bytes())

    await operator.change(lambda c: c["server"].update(max_batch_items=1))
    answer = await service.put([{KEY: 1}, {KEY: 2}], headers={"Connection": "close"})

    assert answer.statuses == [201, 201]
    assert "are not a certificate with its key" in operator.log()


async def test_settings_that_need_a_restart_are_logged(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service, process = await start_process()
    operator = Operator(tmp_path, process)

    await operator.change(lambda c: c["server"].update(port=free_port(), base_path="/x"))

    assert (await service.put([])).status == 207
    assert "restart required for: server.port, server.base_path" in operator.log()
    assert "environment variables unchanged" in operator.log()


async def test_under_load_all_of_it_changes_and_no_request_fails(
    start_process: StartProcess, make_database: MakeDatabase, tmp_path: Path
) -> None:
    """A tenant comes and goes, secrets and the certificate are rotated, limits change."""
    authority = Authority(tmp_path, "authority")
    certificate = authority.sign("first")
    trusting = ssl.create_default_context(cafile=authority.path)
    service, process = await start_process(
        tls_certificate=str(certificate[0]), tls_key=str(certificate[1]), ssl_context=trusting
    )
    operator = Operator(tmp_path, process)
    ledger = Ledger(service)
    globex = make_database()
    async with ledger.under_load(senders=8):
        for turn in range(10):
            accepted = [f"secret {turn}", f"secret {turn + 1}"]
            for old, new in zip(certificate, authority.sign(f"turn {turn}"), strict=True):
                new.replace(old)

            def change(
                content: dict[str, Any], turn: int = turn, accepted: Sequence[str] = accepted
            ) -> None:
                content["databases"]["acme"]["pool_max_size"] = 5 + turn
                content["auth"]["api_keys"]["rotated"] = key_settings(*accepted)
                content["server"]["max_batches_in_flight"] = 100 + turn
                if turn % 2:
                    content["databases"]["globex"] = {"dsn": globex}
                else:
                    content["databases"].pop("globex", None)

            await operator.change(change)
            statuses = [
                (await service.put([{KEY: 1}], database="globex", headers=with_key(each))).status
                for each in (f"secret {turn - 1}", *accepted)
            ]
            assert statuses == [401, *[207 if turn % 2 else 403] * 2]
            assert await presented_subject(service.port, trusting) == f"turn {turn}"
            await asyncio.sleep(0.1)

    assert not ledger.refusals
    assert ledger.unanswered == ledger.unfinished == 0
    assert set(ledger.statuses) <= {200, 201, 400}
    await ledger.assert_true()


@pytest.mark.parametrize("is_in_startup", [False, True], ids=["serving", "starting"])
async def test_a_terminal_that_is_gone_ends_the_process(
    tmp_path: Path, at_import: AtImport, hang_up_action: signal.Handlers, is_in_startup: bool
) -> None:
    """SIGHUP's first meaning, for somebody who tried the service in a window and closed it."""
    path, log, closed = tmp_path / "service.toml", tmp_path / "log", tmp_path / "closed"
    path.write_text(toml(document({"acme": "postgresql://127.0.0.1:1/x"}, port=free_port())))
    mine, its = pty.openpty()
    if is_in_startup:
        at_import("service.cli", f"until [ -e {closed} ]; do sleep 0.01; done; kill -HUP $PPID")
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--config", str(path)],
            stdin=its,
            stderr=stderr,
            start_new_session=True,
        )

    async def wait_for(text: str, count: int = 1) -> None:
        async with asyncio.timeout(20):
            while log.read_text().count(text) < count:
                await asyncio.sleep(0.02)

    try:
        if not is_in_startup:
            await wait_for('"serving"')
            process.send_signal(signal.SIGHUP)
            await wait_for(DONE)
        os.close(its)
        os.close(mine)
        closed.touch()
        if not is_in_startup:
            process.send_signal(signal.SIGHUP)
        if hang_up_action == signal.SIG_IGN:
            # Whoever ignores SIGHUP wants the process to outlive the terminal.
            await wait_for(DONE, 1 if is_in_startup else 2)
            process.terminate()
        assert await asyncio.to_thread(process.wait, 10) == 0
    finally:
        process.kill()
        process.wait()
