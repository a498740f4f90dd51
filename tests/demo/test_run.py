"""The demo: what a person sees who only wants to look."""

import json
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import RunCommand


@pytest.fixture
def welcome(postgres_folder: Path) -> Iterator[str]:
    """What the demo prints once it serves; it ends with the test."""
    command = [sys.executable, "-m", "service", "demo", "--port", "0"]
    with subprocess.Popen(
        [*command, "--folder", str(postgres_folder / "demo")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        umask=0o077,
    ) as process:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "/psql" in line:
                break
        yield printed
        process.terminate()


def test_the_commands_of_the_welcome_can_be_pasted(welcome: str) -> None:
    curl, read = re.findall(r"^curl .*?\S\n\n", welcome, re.MULTILINE | re.DOTALL)
    psql = re.search(r"^\S*/psql .*$", welcome, re.MULTILINE)
    assert psql is not None

    created, updated, page, rows = (
        subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
        for command in (curl, curl, read, psql[0])
    )

    assert created.stdout.startswith('{"data":[{"id":[')
    assert '"body":"Created"' in created.stdout
    assert '"body":"Updated"' in updated.stdout
    assert len(json.loads(page.stdout)["data"]) == 3
    assert "(20 rows)" in rows.stdout


@pytest.mark.usefixtures("welcome")
def test_the_secrets_are_closed_to_others(postgres_folder: Path) -> None:
    for name in ("api-key", "jwt-secret", "service.toml"):
        assert stat.S_IMODE((postgres_folder / "demo" / name).stat().st_mode) == 0o600


def test_a_port_that_is_taken_is_told_with_the_way_out(
    run_command: RunCommand, postgres_folder: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_command("demo", "--port", str(port), "--folder", str(postgres_folder))

    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "taken by another process" in result.stderr
    assert f"make run PORT={port + 10}" in result.stderr
    assert f"demo --port {port + 10}" in result.stderr
