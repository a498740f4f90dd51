"""PgBouncer in transaction mode before a PostgreSQL."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.embedded import free_port

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

SETTINGS = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
auth_query = select rolname, coalesce(rolpassword, '') from pg_authid where rolname = $1
auth_user = postgres
pool_mode = transaction
default_pool_size = 5
max_client_conn = 500
"""


@contextmanager
def pgbouncer(dsn: str) -> Iterator[int]:
    """Run it before the server of a superuser's DSN; yields its port."""
    assert PROGRAM is not None
    server = urlsplit(dsn)
    query = parse_qs(server.query)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        users = Path(folder) / "users"
        users.write_text('"postgres" ""\n')
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(
            SETTINGS.format(
                host=server.hostname or query["host"][0],
                server_port=server.port or query.get("port", ["5432"])[0],
                port=port,
                users=users,
            )
        )
        # It refuses to run as root; the servers of the tests run under the same account.
        account = "nobody" if os.geteuid() == 0 else None
        process = subprocess.Popen(
            [PROGRAM, "--quiet", str(configuration)], stderr=subprocess.DEVNULL, user=account
        )
        try:
            _wait_until_it_listens(port)
            yield port
        finally:
            # SIGTERM would let it wait for its clients.
            process.kill()
            process.wait()


def _wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
