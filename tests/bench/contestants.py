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
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import jwt

from .load import ROOT

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
    process: "subprocess.Popen[bytes]"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

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
        """End the process and wait for it."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Contestants:
    """Builds and starts contestants; their output goes to log files in a folder."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._dsn = dsn
        self._folder = folder
        self._builders: Mapping[str, Callable[[], Contestant]] = {
            "service-1": lambda: self._service(1),
            "service-2": lambda: self._service(2),
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
            self._running[name] = self._builders[name]()
        return self._running[name]

    def stop(self) -> None:
        """Stop all that were started."""
        for contestant in self._running.values():
            contestant.stop()

    def migrate(self) -> None:
        """Create the table, with the service's own command."""
        path, *_ = self._configuration(1)
        with self._log("migrate") as log:
            subprocess.run(
                [sys.executable, "-m", "service", "migrate", "--config", str(path)],
                cwd=ROOT, check=True, stdout=log, stderr=log,
            )  # fmt: skip

    def _service(self, workers: int) -> Contestant:
        path, port, headers = self._configuration(workers)
        command = [sys.executable, "-m", "service", "serve", "--config", str(path)]
        return self._start(f"service-{workers}", command, port, headers=headers)

    def _configuration(self, workers: int) -> tuple[Path, int, Mapping[str, str]]:
        """Write a configuration with a fresh key; return it, its port, its callers' headers."""
        port, key, secret = free_port(), secrets.token_urlsafe(), secrets.token_hex(32)
        path = self._folder / f"service-{workers}.toml"
        path.write_text(
            f"[server]\nport = {port}\nworkers = {workers}\n"
            f'[[auth.api_keys]]\nname = "bench"\ndatabases = ["bench"]\n'
            f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
            f'[auth.jwt]\nalgorithms = ["HS256"]\nsecret = "{secret}"\n'
            f'[databases.bench]\ndsn = "{self._dsn}"\n'
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
        if not all(find_spec(name) for name in ("fastapi", "sqlalchemy", "uvicorn")):
            raise CannotRun("the dependency group bench is not installed")
        port = free_port()
        command = [
            *(sys.executable, "-m", "uvicorn", "tests.bench.fastapi_sqlalchemy.app:app"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--loop", "uvloop", "--http", "httptools", "--no-access-log"),
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
        environment = {"NODE_ENV": "production"}
        return self._start(
            "fastify", [node, str(FASTIFY / "server.js")], free_port(), environment=environment
        )

    def _start(
        self,
        name: str,
        command: list[str],
        port: int,
        *,
        headers: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Contestant:
        variables = {"DATABASE_URL": self._dsn, "PORT": str(port), **(environment or {})}
        with self._log(name) as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **variables}, stdout=log, stderr=log
            )
        contestant = Contestant(name, port, process, headers or {})
        try:
            _wait_until_listening(contestant)
        except RuntimeError as error:
            contestant.stop()
            raise RuntimeError(f"{error}; its log is {self._folder / name}.log") from None
        return contestant

    def _log(self, name: str) -> TextIO:
        return (self._folder / f"{name}.log").open("a")


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_listening(contestant: Contestant) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and contestant.process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", contestant.port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{contestant.name} does not listen on its port")
