"""The image: how it is built, what it holds, and as whom it runs."""

import importlib.metadata
import json
import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement

from service import cli
from tests.deploy.files import (
    BUILD,
    COMPOSE,
    ENVIRONMENT,
    FINAL,
    HEALTHCHECK,
    ROOT,
    instructions,
    run,
    tool,
)

COPIED = {name for word, rest in BUILD if word == "COPY" for name in rest.split()[:-1]}


def test_the_dockerfile_passes_hadolint() -> None:
    run(tool("hadolint"), "Dockerfile")


def test_base_images_are_pinned() -> None:
    images = [BUILD[0][1].split()[0], FINAL["FROM"].split()[0]]
    images += [COMPOSE["services"][name]["image"] for name in ("postgres", "proxy")]

    assert images[0] == images[1]
    for image in images:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?-[a-z-]+", image), image


def test_the_base_image_has_a_supported_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    match = re.match(r"python:(\d+\.\d+\.\d+)", BUILD[0][1])

    assert match is not None
    assert Requirement(f"python{project['requires-python']}").specifier.contains(match[1])


def test_the_final_stage_builds_nothing_and_copies_only_the_environment() -> None:
    final = instructions(1)

    assert "RUN" not in FINAL
    assert [rest for word, rest in final if word in ("COPY", "ADD")] == [
        "--from=build /etc/passwd /etc/passwd",
        "--from=build /app/venv /app/venv",
    ]


def test_the_image_starts_and_stops_as_the_service_does() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert json.loads(FINAL["ENTRYPOINT"]) == list(scripts)
    assert json.loads(FINAL["CMD"]) == ["serve"]
    assert [*scripts, "healthcheck"] == HEALTHCHECK
    assert {"serve", "healthcheck"} <= cli.main.commands.keys()
    assert FINAL["STOPSIGNAL"] == "SIGTERM"
    assert ENVIRONMENT["PATH"].startswith("/app/venv/bin:")
    assert ENVIRONMENT["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_image_can_be_built_with_tracing_and_the_demo() -> None:
    (argument,) = [rest for word, rest in BUILD if word == "ARG"]
    extras = (ROOT / "requirements-extras.lock").read_text()
    pinned = {
        name: set(re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-extras.lock", "requirements-dev.lock")
    }

    assert argument == "LOCK=requirements.lock"
    assert any('--requirement "${LOCK}"' in rest for word, rest in BUILD if word == "RUN")
    assert "requirements-extras.lock" in COPIED
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in project["optional-dependencies"].values():
        for requirement in extra:
            assert f"\n{Requirement(requirement).name}==" in extras
    assert pinned["requirements.lock"] < pinned["requirements-extras.lock"]
    assert pinned["requirements-extras.lock"] < pinned["requirements-dev.lock"]


def test_the_user_has_a_name() -> None:
    """PostgreSQL's initdb asks for it."""
    user, group = FINAL["USER"].split(":")

    assert any(f":x:{user}:{group}::" in rest for word, rest in BUILD if word == "RUN")


def test_only_what_git_tracks_is_copied_into_the_build() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")

    for name in COPIED:
        run("git", "ls-files", "--error-unmatch", name)


def test_the_build_is_sent_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()

    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == COPIED
    assert rules[-1] == "**/__pycache__"


def test_the_build_backend_is_locked_as_a_whole() -> None:
    """The Dockerfile names what it takes of the lock; pip would refuse if one were missing."""
    step = next(rest for word, rest in BUILD if word == "RUN" and "awk" in rest)
    command = step.partition(" > ")[0]

    result = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=True, cwd=ROOT
    )

    locked = set(re.findall(r"^([a-z-]+)==", result.stdout, re.MULTILINE))
    assert result.stdout.count("--hash=") >= len(locked)
    assert locked == needed_by("hatchling")


def needed_by(name: str) -> set[str]:
    """Return a distribution's name and those of all that it requires on a recent Python."""
    names = {name}
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"python_version": "3.13", "extra": ""}):
            names |= needed_by(requirement.name)
    return names
