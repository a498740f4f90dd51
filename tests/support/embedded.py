"""The demo's PostgreSQL server, with what only tests need of it: TCP, settings, and its death."""

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from service.demo import postgres

_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres(postgres.EmbeddedPostgres):
    """One server, its data in ``folder``.

    ``durable=False`` is for tests that do not test durability. ``port`` 0 picks a free port on
    127.0.0.1; None listens on the socket only. ``programs`` is the folder of the server's programs,
    the wheel's by default.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        programs: Path | None = None,
    ) -> None:
        super().__init__(folder)
        self.port = free_port() if port == 0 else port
        if self.port is not None:
            self.settings |= {"listen_addresses": "127.0.0.1", "port": str(self.port)}
        self.settings |= ({} if durable else _NOT_DURABLE) | dict(settings or {})
        self._programs = programs

    def programs(self) -> Path:
        """Return the folder of the server's programs."""
        return self._programs or super().programs()

    def kill(self) -> None:
        """End the server as a crash would: SIGKILL to all of it. Then start() recovers."""
        # Stopped first, so that it replaces none of its children.
        os.kill(self.postmaster, signal.SIGSTOP)
        for child in _children(self.postmaster):
            os.kill(child, signal.SIGKILL)
        os.kill(self.postmaster, signal.SIGKILL)
        self.stop()
        # The lock is free when the last of them has ended.
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def tcp_dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return a DSN over TCP; only with a port."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago.

    No port that Linux gives to clients (32768 and above), which may come at any moment, and one
    of many, so that two processes that ask at once hardly get the same.
    """
    while True:
        port = 10_000 + secrets.randbelow(22_768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _children(process: int) -> list[int]:
    listing = subprocess.run(
        ["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = (line.split() for line in listing.stdout.splitlines())
    return [int(child) for child, parent in pairs if parent == str(process)]
