"""The services that are compared: how each is built, started and stopped."""

import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import jwt

from .load import ROOT
from .processes import listeners, megabytes

PATH = "/care-case-clinical-trials-batch"
READY_SECONDS = 30
FASTIFY = Path(__file__).parent / "fastify"


class CannotRun(Exception):
    """A contestant cannot run on this machine; the message says what is missing."""


@dataclass
class Contestant:
    """A service that runs on a port of this machine."""

    name: str
    port: int
    processes: "list[subprocess.Popen[bytes]]"
    headers: Mapping[str, str] = field(default_factory=dict)
    idle_mb: float = 0

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    @property
    def head(self) -> str:
        """The start line and headers of its requests, but for the length."""
        headers = {
            "Host": f"127.0.0.1:{self.port}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            **self.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"PUT {PATH} HTTP/1.1\r\n{lines}"

    def stop(self) -> None:
        """End the processes and wait for them."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Contestants:
    """Builds and starts contestants; their output goes to log files in a folder.

    The service of another checkout has a database of its own, as its own migrations make it.
    """

    def __init__(
        self, dsn: str, folder: Path, against: Path | None = None, their_dsn: str = ""
    ) -> None:
        self._dsn = dsn
        self._their_dsn = their_dsn
        self._folder = folder
        self._against = against
        self._builders: Mapping[str, Callable[[], Contestant]] = {
            "service-1": lambda: self._service("service-1"),
            "service-2": lambda: self._service("service-2", processes=2),
            "against": self._other_checkout,
            "textbook": self._textbook,
            "fastapi": self._fastapi,
            "fastify": self._fastify,
        }
        self._running: dict[str, Contestant] = {}

    def __getitem__(self, name: str) -> Contestant:
        """Return a contestant; it is started when first asked for.

        Raises CannotRun where something it needs is missing.
        """
        if name not in self._running:
            self._builders[name]()
        return self._running[name]

    def stop(self, *names: str) -> None:
        """Stop those that run of some contestants, or all."""
        for name in names or tuple(self._running):
            if name in self._running:
                self._running.pop(name).stop()

    def migrate(self) -> None:
        """Create the table, with the service's own command; the other checkout's with its own."""
        path, *_ = self._configuration("migrate", "", self._dsn)
        self._migrate(sys.executable, path, ROOT)
        if self._against is not None:
            path, *_ = self._configuration("against", "", self._their_dsn)
            self._migrate(_python_of(self._against), path, self._against)

    def _migrate(self, python: str, path: Path, folder: Path) -> None:
        command = [python, "-m", "service", "migrate", "--config", str(path)]
        with self._log("migrate") as log:
            subprocess.run(command, cwd=folder, check=True, stdout=log, stderr=log)

    def _service(self, name: str, *, processes: int = 1) -> Contestant:
        setting = "reuse_port = true\n" if processes > 1 else ""
        path, port, headers = self._configuration(name, setting, self._dsn)
        command = [sys.executable, "-m", "service", "serve", "--config", str(path)]
        return self._start(name, command, port, headers=headers, processes=processes)

    def _other_checkout(self) -> Contestant:
        """Start the service of another checkout, with that checkout's environment if it has one."""
        if self._against is None:
            raise CannotRun("no --against")
        path, port, headers = self._configuration("against", "", self._their_dsn)
        command = [_python_of(self._against), "-m", "service", "serve", "--config", str(path)]
        return self._start("against", command, port, headers=headers, folder=self._against)

    def _configuration(
        self, name: str, setting: str, dsn: str
    ) -> tuple[Path, int, Mapping[str, str]]:
        """Write a configuration with a fresh key; return it, its port, its callers' headers."""
        port, key, secret = free_port(), secrets.token_urlsafe(), secrets.token_hex(32)
        path = self._folder / f"{name}.toml"
        path.write_text(
            f"[server]\nport = {port}\n{setting}"
            f'[auth.api_keys.bench]\ndatabases = ["bench"]\n'
            f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
            f'[auth.jwt]\nalgorithms = ["HS256"]\nsecret = "{secret}"\n'
            f'[databases.bench]\ndsn = "{dsn}"\n'
        )
        claims = {"sub": "bench", "exp": int(time.time()) + 86_400}
        return path, port, {
            "x-api-key": key,
            "Authorization": f"Bearer {jwt.encode(claims, secret, algorithm='HS256')}",
            "vbasoftware-database": "bench",
        }  # fmt: skip

    def _textbook(self) -> Contestant:
        return self._start("textbook", [sys.executable, "-m", "tests.bench.textbook"], free_port())

    def _fastapi(self) -> Contestant:
        port = free_port()
        command = [
            *(sys.executable, "-m", "uvicorn", "tests.bench.fastapi_sqlalchemy.app:app"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--loop", "uvloop", "--http", "httptools", "--no-access-log"),
            # As long as the others: 64 connections may wait for the slowest of them.
            *("--timeout-keep-alive", "75"),
        ]
        return self._start("fastapi", command, port)

    def _fastify(self) -> Contestant:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise CannotRun("node and npm are not installed")
        if not (FASTIFY / "node_modules").exists():
            with self._log("npm") as log:
                built = subprocess.run([npm, "ci"], cwd=FASTIFY, stdout=log, stderr=log)
            if built.returncode:
                shutil.rmtree(FASTIFY / "node_modules", ignore_errors=True)
                raise CannotRun("npm ci failed")
        return self._start("fastify", [node, str(FASTIFY / "server.js")], free_port())

    def _start(
        self, name: str, command: list[str], port: int, *,
        headers: Mapping[str, str] | None = None, folder: Path = ROOT, processes: int = 1,
    ) -> Contestant:  # fmt: skip
        variables = {"DATABASE_URL": self._dsn, "PORT": str(port), "NODE_ENV": "production"}
        with self._log(name) as log:
            started = [
                subprocess.Popen(
                    command, cwd=folder, env={**os.environ, **variables}, stdout=log, stderr=log
                )
                for _ in range(processes)
            ]
        # Known from here on, so that whatever happens now, stop() ends the processes.
        contestant = self._running[name] = Contestant(name, port, started, headers or {})
        try:
            _wait_until_listening(contestant)
        except RuntimeError as error:
            log_text = (self._folder / f"{name}.log").read_text()
            raise RuntimeError(f"{error}:\n{log_text[-2000:]}") from None
        time.sleep(1)
        contestant.idle_mb = max(megabytes(pid, "VmRSS") for pid in contestant.pids)
        return contestant

    def _log(self, name: str) -> TextIO:
        return (self._folder / f"{name}.log").open("a")


def _python_of(checkout: Path) -> str:
    environments = (checkout / name / "bin/python" for name in (".venv-run", ".venv"))
    return next((str(path) for path in environments if path.exists()), sys.executable)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_listening(contestant: Contestant) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and not any(p.poll() for p in contestant.processes):
        if listeners(contestant.port) >= len(contestant.processes):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{contestant.name} does not listen on its port")
