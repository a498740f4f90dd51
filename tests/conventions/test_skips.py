"""The list of skips that are allowed: its lines lead somewhere, and others fail a strict run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.skips import LIST, Allowed, allowed_skips
from tests.support.source import ROOT

TEST = """
import pytest

@pytest.mark.skip(reason="nobody knows")
def test_skipped():
    pass

@pytest.mark.xfail
def test_expected_to_fail():
    assert False

def test_passed():
    pass
"""


@pytest.mark.parametrize("allowed", allowed_skips(LIST.read_text()), ids=lambda a: a.pattern)
def test_a_line_names_a_test(allowed: Allowed) -> None:
    path, _, name = allowed.pattern.partition("::")

    assert f"def {name.rstrip('*')}" in (ROOT / path).read_text()


def test_a_line_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="a reason"):
        allowed_skips("# a comment\n\ntests/x.py::test_x why\ntests/x.py::test_y\n")


@pytest.mark.parametrize(
    ("environment", "options", "status"),
    [
        ({"CI": "true"}, [], 1),
        pytest.param({"CI": "true"}, ["-n", "2"], 1, marks=pytest.mark.slow),
        ({"TEST_STRICT_SKIPS": "1"}, [], 1),
        ({"CI": "false"}, [], 0),
        ({}, [], 0),
    ],
    ids=str,
)
def test_a_skip_that_is_not_listed_fails_a_strict_run(
    tmp_path: Path, environment: dict[str, str], options: list[str], status: int
) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(tmp_path)]

    result = subprocess.run(
        [*command, "-p", "tests.support.skips"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
    )

    assert result.returncode == status, result.stdout + result.stderr
    assert ("test_it.py::test_skipped: nobody knows" in result.stdout) == (status == 1)
