"""The files to deploy with, read once, and what several tests ask of them."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from service import config

ROOT = Path(__file__).parents[2]
COMPOSE_FOLDER = ROOT / "deploy/compose"
KUBERNETES_FOLDER = ROOT / "deploy/kubernetes"
SYSTEMD_FOLDER = ROOT / "deploy/systemd"
MONITORING_FOLDER = ROOT / "deploy/monitoring"
FIRST_DAY = "From an empty server to the first batch"
"""The section of docs/operating.md whose commands ``test_first_day.py`` runs."""

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
MANIFESTS: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in KUBERNETES_FOLDER.glob("*.yaml")
}
PROXY = (COMPOSE_FOLDER / "haproxy.cfg").read_text()
UNIT = (SYSTEMD_FOLDER / "care-trials@.service").read_text()


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


def found(pattern: str, text: str) -> str:
    """Return the group of a pattern's only match."""
    (match,) = re.findall(pattern, text, re.MULTILINE)
    assert isinstance(match, str)
    return match


def secrets_in(text: str) -> set[str]:
    """Return the paths of the files that ``${file:PATH}`` reads."""
    return set(re.findall(r"\$\{file:([^}]+)\}", text))


def load(
    path: Path, scratch: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> config.Settings:
    """Return the settings of a configuration and an environment, with made-up secrets in a folder.

    A password is the name of its file, and the user of a DSN in a file is the name of its folder.
    """

    def moved(text: str) -> str:
        return text.replace("${file:/", f"${{file:{scratch}/")

    text = path.read_text()
    for secret in map(Path, secrets_in(text + "".join(environment.values()))):
        values = {
            "dsn": f"postgresql://{secret.parent.name}@postgres/acme",
            "password": secret.name,
        }
        copy = scratch / secret.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(values.get(secret.name.rpartition("_")[2], "0" * 64) + "\n")
    (scratch / "service.toml").write_text(moved(text))
    variables = {name: moved(value) for name, value in environment.items()}
    return config.load(scratch / "service.toml", variables)
