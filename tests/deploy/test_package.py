"""The wheel, built and installed by the Dockerfile's own step into an empty environment."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import aiohttp
import pytest

from service import __version__
from tests.deploy.files import BUILD, ROOT, tool
from tests.support.configuration import Configure, toml
from tests.support.embedded import free_port
from tests.support.postgres import MakeDatabase
from tests.support.service import KEY, ServiceUnderTest

USER = 10001


def is_open(path: Path) -> bool:
    """Tell whether any user can come to a path."""
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


class Installed:
    """The environment with the wheel, and nothing else in the environment variables."""

    def __init__(self, folder: Path, dependencies: Path) -> None:
        self.bin = folder / "venv/bin"
        (self.packages,) = folder.glob("venv/lib/python*/site-packages")
        # root's own interpreter may lie where no other user can come.
        is_reachable = is_open(Path(sys.executable).resolve()) and is_open(dependencies)
        self._stranger = USER if os.geteuid() == 0 and is_reachable else None
        # dbmate is one of the dependencies, and lies where they lie.
        self._path = f"{self.bin}:{Path(sys.executable).parent}:/usr/bin:/bin"

    def start(
        self,
        *command: str,
        before: Sequence[str] = (),
        output: IO[str] | int = subprocess.PIPE,
        user: int | None = None,
    ) -> "subprocess.Popen[str]":
        """Start a program of the environment, where given by way of another command."""
        return subprocess.Popen(
            [*before, self.bin / command[0], *command[1:]],
            cwd="/",
            env={"PATH": self._path, "PYTHONDONTWRITEBYTECODE": "1"},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, is_stranger: bool = False) -> str:
        """Return what a program prints, which has to succeed, for somebody without a home too."""
        process = self.start(*command, user=self._stranger if is_stranger else None)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    step = [rest for word, rest in BUILD if word == "RUN"][-1]
    assert "pip wheel" in step
    with tempfile.TemporaryDirectory(prefix="package-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, folder)
        (folder / "docs").mkdir()
        shutil.copy(ROOT / "docs" / "contract.md", folder / "docs")
        for package in ("service", "sql"):
            shutil.copytree(ROOT / package, folder / package)
        venv.create(folder / "venv", symlinks=True)
        result = Installed(folder, here := next(Path(p) for p in sys.path if "site-packages" in p))
        (result.packages / "dependencies.pth").write_text(f"{here}\n")
        subprocess.run(
            ["/bin/sh", "-c", step.replace("/app/venv", str(folder / "venv"))],
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PIP_NO_INDEX": "1",
            },
            capture_output=True,
            check=True,
        )
        yield result


@pytest.fixture
def configuration(configure: Configure, make_database: MakeDatabase) -> Iterator[Path]:
    """A configuration that any user may read, with a database that nobody has migrated."""
    with tempfile.TemporaryDirectory(prefix="configuration-") as name:
        Path(name).chmod(0o755)
        content = configure({"acme": make_database(migrated=False)}, port=free_port())
        path = Path(name) / "service.toml"
        path.write_text(toml(content))
        yield path


@asynccontextmanager
async def serving(
    installed: Installed, configuration: Path, log: Path, before: Sequence[str] = ()
) -> AsyncIterator[ServiceUnderTest]:
    """Migrate the database and serve, by the commands of the environment."""
    arguments = ("--config", str(configuration))
    assert "acme: the schema is up to date" in installed.run("care-trials", "migrate", *arguments)
    with log.open("w") as output:
        process = installed.start("care-trials", "serve", *arguments, before=before, output=output)
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while '"message":"serving"' not in log.read_text():
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
            line = next(line for line in log.read_text().splitlines() if '"serving"' in line)
            url = f"http://127.0.0.1:{json.loads(line)['port']}"
            yield ServiceUnderTest(url, session, {})
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_nothing_but_the_service_lies_in_site_packages(installed: Installed) -> None:
    names = {path.name.partition("-")[0] for path in installed.packages.iterdir()}

    added = names - {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
    assert {name for name in added if not name.endswith(".pth")} == {
        "service",
        "care_case_clinical_trials_service",
    }


def test_the_sql_lies_inside_the_package(installed: Installed) -> None:
    found = installed.run("python", "-c", "import service.statements as s; print(s.SQL_FOLDER)")

    folder = installed.packages / "service/sql"
    assert found == f"{folder}\n"
    files, packed = (
        {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*.sql")}
        for top in (ROOT / "sql", folder)
    )
    assert packed == files


def test_the_contract_lies_inside_the_package(installed: Installed) -> None:
    found = installed.run(
        "python", "-c", "import service.http.docs_page as p; print(p.CONTRACT_FILE)"
    )

    path = installed.packages / "service/contract.md"
    assert found == f"{path}\n"
    assert path.read_bytes() == (ROOT / "docs" / "contract.md").read_bytes()


def test_the_command_tells_its_version_and_its_document(installed: Installed) -> None:
    version = installed.run("care-trials", "--version", is_stranger=True)
    document = installed.run("care-trials", "openapi", is_stranger=True)

    assert version == f"care-trials {__version__}\n"
    assert json.loads(document)["info"]["version"] == __version__


async def test_it_migrates_and_serves(
    installed: Installed, configuration: Path, tmp_path: Path
) -> None:
    async with serving(installed, configuration, tmp_path / "log") as service:
        assert await service.is_alive()
        assert (await service.put([{KEY: 1}])).statuses == [201]
        async with service.session.get(f"{service.url}/docs/swagger-ui-bundle.js") as script:
            assert script.status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make file systems read-only")
async def test_it_serves_where_nothing_can_be_written(
    installed: Installed, configuration: Path, tmp_path: Path
) -> None:
    """The containers have no /tmp of their own; systemd's unit is under ProtectSystem=strict."""
    script = (
        "mount --make-rprivate / && for at in / /tmp /var/tmp /dev/shm; do"
        " ! mountpoint -q $at || mount -o remount,bind,ro $at || exit; done;"
        ' ! touch /tmp/written 2>/dev/null && cd / && exec "$@"'
    )
    before = (tool("unshare"), "--mount", "sh", "-c", script, "sh")

    async with serving(installed, configuration, tmp_path / "log", before) as service:
        assert await service.is_alive()
        assert (await service.put([{KEY: 1}, {KEY: 0}])).statuses == [201, 201]
