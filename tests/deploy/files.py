"""The files to deploy with, read once, and what several tests ask of them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import config

ROOT = Path(__file__).parents[2]
COMPOSE_FOLDER = ROOT / "deploy/compose"
KUBERNETES_FOLDER = ROOT / "deploy/kubernetes"
SYSTEMD_FOLDER = ROOT / "deploy/systemd"
MONITORING_FOLDER = ROOT / "deploy/monitoring"
MAX_CONNECTIONS = 100  # PostgreSQL's default
FIRST_DAY = "From an empty server to the first batch"
"""The section of docs/operating.md whose commands ``test_first_day.py`` runs."""

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
MANIFESTS: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in KUBERNETES_FOLDER.glob("*.yaml")
}
PROXY = (COMPOSE_FOLDER / "haproxy.cfg").read_text()


def instructions(stage: int) -> list[tuple[str, str]]:
    """Return the instructions of one of the Dockerfile's stages and what follows each."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]
    starts = [i for i, (word, _) in enumerate(pairs) if word == "FROM"]
    return pairs[starts[stage] : [*starts[1:], len(pairs)][stage]]


BUILD, FINAL = instructions(0), dict(instructions(1))
ENVIRONMENT = dict(pair.split("=", 1) for pair in FINAL["ENV"].split())
HEALTHCHECK: list[str] = json.loads(FINAL["HEALTHCHECK"].partition("CMD ")[2])


def tool(name: str) -> str:
    """Return the path of a program of the dev group or of the machine; skips without it."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin"
    program = shutil.which(name, path=path)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return program


def run(*command: str | Path) -> str:
    """Return what a command prints, which has to succeed."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def seconds(duration: str) -> int:
    """Return the seconds of a Compose or HAProxy duration."""
    match = re.fullmatch(r"(\d+)s", duration)
    assert match, duration
    return int(match[1])


def references(path: Path) -> set[str]:
    """Return the secrets that a configuration reads from files."""
    return set(re.findall(r"\$\{file:[^}]*/([^}/]+)\}", path.read_text()))


def load(path: Path, scratch: Path) -> config.Settings:
    """Return the settings of a configuration, with secrets made up in a folder."""
    for name in references(path):
        value = "postgresql://service:password@postgres/acme" if "dsn" in name else "0" * 64
        (scratch / name).write_text(f"{value}\n")
    copy = scratch / "service.toml"
    copy.write_text(re.sub(r"\$\{file:[^}]*/", f"${{file:{scratch}/", path.read_text()))
    return config.load(copy)
