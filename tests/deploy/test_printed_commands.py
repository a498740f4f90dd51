"""README.md and docs/: the commands, queries, programs and answers in their fenced blocks are true.

The commands run in a copy of the repository, against a service of the test. What needs more than
that is told by ``STAND_INS``; ``test_first_day.py`` runs the section that makes its own server.
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from service import __version__, config
from service.wire import PREFER_HEADER, SAMPLE
from tests.deploy.files import FIRST_DAY, ROOT, tool
from tests.support.configuration import Configure, toml
from tests.support.documents import Piece, fenced, inline_code
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService
from tests.support.service import API_KEY, KEY, ServiceUnderTest, token

STAND_INS = """
make() { command make --dry-run "$@"; }                  # else: whole environments, and this suite
sudo() { :; }; docker() { :; }; kubectl() { :; }         # want a machine or a cluster of their own
"""
"""What cannot be run in a test, by program; all else in the same block is run."""

FILES = ("LICENSE", "Makefile", "README.md", "pyproject.toml")

SHELL = [block for block in fenced("sh") if block.section not in (FIRST_DAY, "Install")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository to run commands in, with an environment and a batch to send."""
    folder = tmp_path / "checkout"
    left_out = shutil.ignore_patterns("__pycache__", "node_modules", "results")
    # Named one by one: a folder for temporary files may lie in the repository.
    for name in ("deploy", "docs", "service", "sql", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    for path in (*ROOT.glob("*.lock"), *(ROOT / name for name in FILES)):
        shutil.copy(path, folder)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "batch-7.json").write_text(json.dumps([{KEY: 0, "study_Title": "One"}]))
    return folder


@pytest.fixture
async def service(make_service: MakeService) -> ServiceUnderTest:
    return await make_service(allow=[*get_args(config.Action)])


async def shell(script: str, folder: Path, **environment: str) -> str:
    """Return what a script prints, which has to succeed."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", STAND_INS + script),
        cwd=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaints = await process.communicate()
    assert process.returncode == 0, (printed + complaints).decode()
    return printed.decode()


def with_values(block: Piece, replacements: Mapping[str, str]) -> str:
    """Return the commands with what the reader has in the place of what the document shows."""
    # KEY=… stands for a value that the reader has.
    text = re.sub(r"\b(\w+)=…", r"\1=$\1", block.text)
    for shown, actual in replacements.items():
        text = text.replace(shown, actual)
    assert "…" not in text
    return text


ANSWERS = {(block.document, block.section): json.loads(block.text) for block in fenced("json")}


def without_id(answer: Any) -> Any:
    """Return an answer without its activityID, which no two have in common."""
    debug = dict(answer["debug"])
    assert debug.pop("activityID")
    return {**answer, "debug": debug}


@pytest.mark.parametrize("block", SHELL, ids=str)
async def test_the_commands_of_a_block_run(
    block: Piece,
    checkout: Path,
    service: ServiceUnderTest,
    make_database: MakeDatabase,
    configure: Configure,
) -> None:
    tool("curl")
    new = make_database(migrated=False)
    (checkout / "service.toml").write_text(toml(configure({"acme": new})))
    own = {"KEY": API_KEY, "TOKEN": token(), "LOADER_SHA256": "0" * 64}
    script = with_values(
        block,
        {
            "http://127.0.0.1:8080": service.url,
            "https://HOST": service.url,
            "postgresql://owner:…@host/acme": new,
            "/tmp/": f"{checkout}/",  # noqa: S108
        },
    )

    printed = await shell(
        script,
        checkout,
        **own,
        LOAD_API_KEY=API_KEY,
        LOAD_TOKEN=token(),
        SERVICE_CONFIG=str(checkout / "service.toml"),
    )

    if "curl" in block.text:
        answer = json.loads(printed)
        assert answer["error"] is None
        shown = ANSWERS.get((block.document, block.section), answer)
        assert without_id(answer) == without_id(shown)
    if "care-trials migrate" in block.text:
        assert printed == "acme: the schema is up to date\n"
    if "care-trials send" in block.text:
        assert len(await service.comments()) == len(json.loads(SAMPLE.read_text()))


def test_the_exports_of_settings_need_no_file(checkout: Path) -> None:
    """They are the block that names a secret file; it is read as the environment of a start."""
    (block,) = (block for block in SHELL if "/run/secrets/" in block.text)
    (checkout / "jwt_secret").write_text("x" * 64)
    script = with_values(block, {"/run/secrets": str(checkout)})

    exported = asyncio.run(shell(f"{script}\nenv -0", checkout, LOADER_SHA256="0" * 64))
    environment = dict(line.split("=", 1) for line in exported.split("\0") if line)
    settings = config.load(None, environment | {"ACME_PASSWORD": "secret"})

    assert settings.server.host == "0.0.0.0"  # noqa: S104
    assert settings.auth.api_keys["loader"].databases == ["acme"]
    assert settings.auth.jwt.secret == "x" * 64
    assert settings.databases["acme"].dsn == "postgresql://service:secret@db1/acme"


@pytest.mark.slow
def test_the_service_can_be_installed_as_told(checkout: Path) -> None:
    """By pip from its index, like the image; with the lock file's hashes."""
    (block,) = (block for block in fenced("sh") if block.section == "Install")
    script = block.text.replace("/opt/care-trials", str(checkout / "installed"))

    printed = asyncio.run(shell(script, checkout, PIP_DISABLE_PIP_VERSION_CHECK="1"))

    assert printed.splitlines()[-1] == f"care-trials {__version__}"


STATEMENTS = [
    *fenced("sql"),
    *(piece for piece in inline_code() if piece.text.endswith(";")),
]


@pytest.mark.parametrize("block", STATEMENTS, ids=str)
async def test_the_statements_of_a_block_run(block: Piece, service: ServiceUnderTest) -> None:
    role = f"role_{secrets.token_hex(4)}"
    await service.execute(f"create role {role}")
    try:
        for statement in re.findall(r"[^;]+;", re.sub(r"\bservice\b", role, block.text)):
            # One by one: some of them cannot run inside a transaction.
            await service.execute(statement)
    finally:
        await service.execute(f"drop owned by {role}; drop role {role}")


async def test_the_ten_lines_of_python_send_the_sample(
    checkout: Path, service: ServiceUnderTest
) -> None:
    (program,) = fenced("python")
    text = program.text.replace("http://127.0.0.1:8080", service.url)
    (checkout / "program.py").write_text(text)

    printed = await shell("python program.py", checkout, KEY=API_KEY, TOKEN=token())

    sample = json.loads(SAMPLE.read_text())
    assert printed.splitlines() == [f"201 Created {record['study_Title']}" for record in sample]
    assert len(list(filter(None, text.splitlines()))) == 10
    assert len(await service.comments()) == len(sample)


async def test_the_answer_to_a_batch_is_that_of_the_contract(service: ServiceUnderTest) -> None:
    answer = await service.put([{KEY: 17}])

    assert without_id(answer.envelope) == without_id(ANSWERS["docs/contract.md", "Response: 207"])


async def test_the_answer_with_preferences_is_that_of_the_contract(
    service: ServiceUnderTest,
) -> None:
    dates = {"update_Date": "2025-01-02"}
    await service.put(
        [{KEY: 17, "update_Date": "2026-01-02"}, {KEY: 5, **dates}, {KEY: 6, **dates}]
    )

    answer = await service.put(
        [{KEY: key, **dates} for key in (1, 5, 2, 17, 3, 6, 4)],
        headers={PREFER_HEADER: "return=minimal, resolution=newest"},
    )

    assert without_id(answer.envelope) == without_id(ANSWERS["docs/contract.md", "Preferences"])
