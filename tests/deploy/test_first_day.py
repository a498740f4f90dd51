"""The first day that docs/operating.md tells of, on an empty PostgreSQL 15."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.files import FIRST_DAY, tool
from tests.support.documents import fenced
from tests.support.embedded import EmbeddedPostgres, free_port

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
MOST_SECONDS = 300

ACCESS = """
local all all trust
host all all 127.0.0.1/32 scram-sha-256
"""


@pytest.mark.skipif(not PROGRAMS.exists(), reason="PostgreSQL 15 is not installed")
def test_the_commands_lead_from_an_empty_server_to_the_first_batch(
    postgres_folder: Path, tmp_path: Path
) -> None:
    tool("psql"), tool("curl"), tool("openssl")
    started_at = time.monotonic()
    with EmbeddedPostgres(postgres_folder / "server", port=0, programs=PROGRAMS) as postgres:
        (postgres_folder / "server/data/pg_hba.conf").write_text(ACCESS)
        os.kill(postgres.postmaster, signal.SIGHUP)
        blocks = [block.text for block in fenced("sh") if block.section == FIRST_DAY]
        assert len(blocks) == 4
        script = "\n".join(blocks).replace(":5432/", f":{postgres.port}/")
        port = free_port()
        script = script.replace("8080", str(port))
        socket = postgres.dsn().partition("host=")[2].partition("&")[0].replace("%2F", "/")
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PGHOST": socket,
            "PGPORT": str(postgres.port),
            "PGUSER": "postgres",
            "SERVICE_SERVER__PORT": str(port),
        }

        result = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p); wait' EXIT\n{script}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=MOST_SECONDS,
        )

    assert result.returncode == 0, result.stdout + result.stderr
    assert '"value":"1"}],"status":201,"body":"Created"}]' in result.stdout
    assert "acme: the schema is up to date" in result.stdout
    assert "\ndatabase acme: ready at 127.0.0.1:" in result.stdout
    assert "failed" not in result.stdout
    assert time.monotonic() - started_at < MOST_SECONDS
