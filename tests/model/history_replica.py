"""The service under test, as processes.

``HISTORY_CHECKOUT`` names its folder, if it is another than this, and ``HISTORY_PYTHON`` the
program of the environment that it wants.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp

from tests.support.configuration import DatabaseSettings, document, toml
from tests.support.embedded import free_port

CHECKOUT = Path(os.environ.get("HISTORY_CHECKOUT") or Path(__file__).parents[2])

PYTHON = os.environ.get("HISTORY_PYTHON") or sys.executable

STATEMENT_SECONDS = {"a": 2, "b": 8}
"""The statement timeout of each service."""


class Replica:
    """A service at one address: one process, and after its end the next."""

    def __init__(self, name: str, folder: Path, dsn: str, *, is_pooled: bool) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._name = name
        self._config = folder / f"{name}.toml"
        database: DatabaseSettings = {
            "statement_timeout_seconds": STATEMENT_SECONDS[name],
            "transaction_pooling": is_pooled,
        }
        self._config.write_text(toml(document({"acme": dsn}, database=database, port=port)))
        self._log = folder / f"{name}.log"
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.is_up = False
        """Whether nobody ended the process that was started."""

    @property
    def process(self) -> str:
        """A name of the process."""
        return f"{self._name}{self._starts}"

    @property
    def megabytes(self) -> float:
        """The resident memory of the process, 0 where that is not told."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    def start(self) -> None:
        """Start a process."""
        self._starts += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PYTHON, "-m", "service", "serve", "--config", str(self._config)],
                cwd=CHECKOUT,
                stderr=log,
            )
        self.is_up = True

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals) -> None:
        """End the process by a signal, and wait until it has ended."""
        self.is_up = False
        self.send(number)
        assert self._process is not None
        self._process.wait(60)

    async def wait_until_alive(self, session: aiohttp.ClientSession) -> None:
        """Wait until it answers. Raises TimeoutError after half a minute."""
        async with asyncio.timeout(30):
            while True:
                assert self._process is not None
                assert self._process.poll() is None, self._log.read_text()
                try:
                    async with session.get(f"{self.url}/livez") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)


def migrate(folder: Path, dsn: str) -> None:
    """Bring the database to the schema of the service under test."""
    config = folder / "migrate.toml"
    config.write_text(toml(document({"acme": dsn})))
    subprocess.run(
        [PYTHON, "-m", "service", "migrate", "--config", str(config)],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
