"""The list of skips that are allowed: ``tests/skips.txt``.

A test that is skipped in silence is a promise that nobody checks. Where CI or TEST_STRICT_SKIPS
is set, a run fails on every skip that the list does not name.
"""

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

LIST = Path(__file__).parents[1] / "skips.txt"


class Allowed(NamedTuple):
    """A line of the list: the tests it speaks of, in fnmatch's wildcards, and why."""

    pattern: str
    reason: str


def allowed_skips(text: str) -> list[Allowed]:
    """Return the lines that are no comments. Raises ValueError for one without a reason."""
    allowed = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.partition(" ")
            if not reason.strip():
                raise ValueError(f"expected a pattern, a space and a reason, got {line!r}")
            allowed.append(Allowed(pattern, reason.strip()))
    return allowed


def is_strict() -> bool:
    """Tell whether a skip that is not on the list fails the run."""
    return os.environ.get("CI", "") not in ("", "0", "false") or (
        os.environ.get("TEST_STRICT_SKIPS") == "1"
    )


class Skips:
    """Notes the skips of a run that the list does not name."""

    def __init__(self, allowed: list[Allowed]) -> None:
        self._allowed = allowed
        self.unlisted: dict[str, str] = {}

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Look at the report of a phase of a test, or of the collection of a file."""
        # An expected failure is reported as skipped, too.
        if report.outcome != "skipped" or hasattr(report, "wasxfail"):
            return
        if not any(fnmatchcase(report.nodeid, allowed.pattern) for allowed in self._allowed):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
            self.unlisted[report.nodeid] = str(reason).removeprefix("Skipped: ")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.unlisted and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unlisted:
            terminalreporter.section("skips that tests/skips.txt does not allow", red=True)
            for nodeid, reason in sorted(self.unlisted.items()):
                terminalreporter.line(f"{nodeid}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the skips where they count, in the process that gathers all reports."""
    if is_strict() and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Skips(allowed_skips(LIST.read_text())), "skips")
