"""The rotations of docs/operating.md under ``make load``: ``python -m tests.faults.rotations``.

A tenant is added and removed, an API key rotated, and a certificate renewed, again and again by
SIGHUP, while Locust checks every outcome of a service with TLS. Prints what was done, and exits
with 1 if any request failed or any rotation had no effect.
"""

import asyncio
import hashlib
import os
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from service.demo.postgres import EmbeddedPostgres, free_port
from service.migrations import migrate
from tests.harness.certificates import Authority
from tests.harness.configuration import document, toml
from tests.harness.service import API_KEY, PATH, token
from tests.harness.source import ROOT

RUN_SECONDS = 30
PAUSE_SECONDS = 1


class Rotation:
    """A service with TLS whose configuration is changed while it serves."""

    def __init__(self, folder: Path, databases: dict[str, str]) -> None:
        self._authority = Authority(folder, "authority")
        self._databases = databases
        self._certificate, self._key = self._authority.sign("first")
        self._path = folder / "service.toml"
        self._log = folder / "log"
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.content = document(
            {"acme": databases["acme"]},
            port=self.port,
            tls_certificate=str(self._certificate),
            tls_key=str(self._key),
        )
        self._secrets = [secrets.token_urlsafe() for _ in range(2)]
        self.turns = 0

    @contextmanager
    def serving(self) -> Iterator[int]:
        """Run it; yield its process id."""
        self._path.write_text(toml(self.content))
        command = [sys.executable, "-m", "service", "serve", "--config", str(self._path)]
        with self._log.open("w") as log:
            process = subprocess.Popen(command, cwd=ROOT, stderr=log)
        try:
            while '"serving"' not in self._log.read_text():
                assert process.poll() is None, self._log.read_text()
            yield process.pid
        finally:
            process.terminate()
            process.wait(60)

    async def turn(self, process: int) -> None:
        """Do all three, and see that each took effect."""
        self.turns += 1
        has_tenant = self.turns % 2 == 1
        serial = f"turn-{self.turns}"
        removed, *kept = self._secrets
        self._secrets = [*kept, secrets.token_urlsafe()]
        digests = [hashlib.sha256(each.encode()).hexdigest() for each in self._secrets]
        self.content["auth"]["api_keys"]["rotated"] = {"sha256": digests, "databases": ["*"]}
        self.content["databases"] = {"acme": self.content["databases"]["acme"]}
        if has_tenant:
            self.content["databases"]["globex"] = {"dsn": self._databases["globex"]}
        for old, new in zip(
            (self._certificate, self._key), self._authority.sign(serial), strict=True
        ):
            new.replace(old)
        self._path.write_text(toml(self.content))
        seen = self._log.read_text().count("settings read again")
        os.kill(process, signal.SIGHUP)
        async with asyncio.timeout(20):
            while self._log.read_text().count("settings read again") == seen:
                await asyncio.sleep(0.02)
        for secret in self._secrets:
            status, subject = await self._ask(secret)
            assert subject == serial
            assert status == (207 if has_tenant else 403)
        assert (await self._ask(removed))[0] == 401

    async def _ask(self, key: str) -> tuple[int, str]:
        """Return the status for an empty batch to globex, and whose certificate was shown."""
        trusting = ssl.create_default_context(cafile=self._authority.path)
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=trusting)
        shown: dict[str, Any] = writer.get_extra_info("ssl_object").getpeercert()
        writer.close()
        headers = {
            "x-api-key": key,
            "Authorization": f"Bearer {token()}",
            "vbasoftware-database": "globex",
            "Content-Type": "application/json",
        }
        connector = aiohttp.TCPConnector(ssl=trusting)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.put(self.url + PATH, data=b"[]", headers=headers) as answer,
        ):
            await answer.read()
            return answer.status, shown["subject"][0][0][1]


async def rotate(rotation: Rotation, process: int) -> int:
    """Rotate as long as the load runs; return its exit status."""
    arguments = (
        f"--host {rotation.url} --insecure --tenants acme"
        f" --users 8 --spawn-rate 8 --run-time {RUN_SECONDS}s"
    )
    credentials = {"LOAD_API_KEY": API_KEY, "LOAD_TOKEN": token()}
    load = await asyncio.create_subprocess_exec(
        "make", "load", f"LOAD={arguments}", cwd=ROOT, env={**os.environ, **credentials}
    )
    while load.returncode is None:
        await rotation.turn(process)
        await asyncio.sleep(PAUSE_SECONDS)
    return load.returncode


def main() -> int:
    """Run all of it; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="rotations-") as name:
        folder = Path(name)
        # As root the server's unprivileged account has to come through.
        folder.chmod(0o755)
        with EmbeddedPostgres(folder / "postgres") as postgres:
            for database in ("acme", "globex"):
                postgres.create_database(database)
                asyncio.run(migrate(postgres.dsn(database)))
            databases = {name: postgres.dsn(name) for name in ("acme", "globex")}
            rotation = Rotation(folder, databases)
            with rotation.serving() as process:
                status = asyncio.run(rotate(rotation, process))
    print(f"{rotation.turns} times: a tenant, a key and a certificate; load's status {status}")
    return status


if __name__ == "__main__":
    sys.exit(main())
