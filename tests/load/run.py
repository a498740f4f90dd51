"""Load the demo for a minute and report: ``make load``.

    make load LOAD="--users 20 --run-time 30s --bad-share 0.01"
    make load LOAD="--host https://service.example/vbasoftware --tenants acme"

Every argument goes to Locust (locustfile.py has the options beside its own). Without ``--host`` a
demo is started in a folder that is deleted afterwards; with it, LOAD_API_KEY and LOAD_TOKEN must be
set, and a base path is part of it. Writes tests/load/results/report.html, which git ignores. Exits
with 1 if any response was wrong.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = HERE / "results" / "report.html"
STOP_SECONDS = 60


@contextmanager
def demo() -> Iterator[dict[str, str]]:
    """Run a demo in a temporary folder; yield its URL, API key and Token."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        # As root the server's unprivileged account has to come through.
        Path(folder).chmod(0o755)
        log = Path(folder) / "demo.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", "demo", "--port", "0", "--folder", folder],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        try:
            yield _announced(process, log)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _announced(process: "subprocess.Popen[str]", log: Path) -> dict[str, str]:
    """Read the demo's welcome up to its last line; nothing more is printed after it."""
    assert process.stdout is not None
    said: dict[str, str] = {}
    for line in process.stdout:
        if found := re.match(r"(Serving at|API key|Token) {2,}(\S+)", line):
            said[found[1]] = found[2]
        if "--data-binary" in line:
            return said
    sys.exit(f"the demo did not start:\n{log.read_text()[-2000:]}")


def locust(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run Locust without a screen; return its exit status."""
    PAGE.parent.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "locust", "--locustfile", str(HERE / "locustfile.py"), "--headless",
        "--only-summary", "--stop-timeout", "10", "--html", str(PAGE),
        "--users", "8", "--spawn-rate", "2", "--run-time", "60s", *arguments,
    ]  # fmt: skip
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode
    print(f"Report: {PAGE}")
    return status


def main(arguments: Sequence[str]) -> int:
    """Run the load; return the exit status."""
    if any(argument.partition("=")[0] in ("--host", "-H") for argument in arguments):
        return locust(arguments, {})
    with demo() as said:
        credentials = {"LOAD_API_KEY": said["API key"], "LOAD_TOKEN": said["Token"]}
        return locust(["--host", said["Serving at"], *arguments], credentials)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
