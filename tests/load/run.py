"""Load the demo for a minute and report: ``python -m tests.load.run``, or ``make load``.

    make load LOAD="--users 20 --run-time 30s --bad-share 0.01"
    make load LOAD="--stages 10s:4,20s:16 --key-skew 1.1"
    make load LOAD="--arrival-rate 20 --fail-if 'p95>200ms'"
    make load LOAD="--host https://service.example/vbasoftware --tenants acme"

Every argument goes to Locust (see locustfile.py). Without ``--host`` a demo is started in a
folder that is deleted afterwards; with it, LOAD_API_KEY and LOAD_TOKEN must be set. Writes
report.html and Locust's CSV files into tests/load/results/, where git ignores them. Exits with
Locust's status: 1 if any response was not as it must be, or a threshold was not kept.
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
RESULTS = HERE / "results"
DEFAULTS = ("--users", "8", "--spawn-rate", "2", "--run-time", "60s")
AT_A_RATE = ("--users", "100", "--spawn-rate", "100", "--run-time", "60s")
STOP_SECONDS = 60


class DemoError(Exception):
    """The demo did not start; the message has the end of its log."""


@contextmanager
def demo() -> Iterator[dict[str, str]]:
    """Run a demo in a temporary folder; yield its URL, API key and Token. Raises DemoError."""
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
    raise DemoError(f"the demo did not start:\n{log.read_text()[-2000:]}")


def locust(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run Locust without a screen; return its exit status."""
    given = {argument.partition("=")[0] for argument in arguments}
    has_stages = "--stages" in given
    defaults = AT_A_RATE if "--arrival-rate" in given else DEFAULTS
    files = [HERE / "locustfile.py", *([HERE / "stages.py"] if has_stages else [])]
    command = [
        sys.executable, "-m", "locust", "--locustfile", ",".join(map(str, files)), "--headless",
        "--only-summary", "--stop-timeout", "10",
        "--html", str(RESULTS / "report.html"), "--csv", str(RESULTS / "locust"),
        *(() if has_stages else defaults), *arguments,
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode


def main(arguments: Sequence[str]) -> int:
    """Run the load and write the results; return the exit status."""
    RESULTS.mkdir(exist_ok=True)
    page = RESULTS / "report.html"
    page.unlink(missing_ok=True)
    if any(argument.partition("=")[0] in ("--host", "-H") for argument in arguments):
        status = locust(arguments, {})
    else:
        try:
            with demo() as said:
                credentials = {"LOAD_API_KEY": said["API key"], "LOAD_TOKEN": said["Token"]}
                status = locust(["--host", said["Serving at"], *arguments], credentials)
        except DemoError as error:
            print(error, file=sys.stderr)
            return 1
    if page.exists():
        print(f"\nReport: {page}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
