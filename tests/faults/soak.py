"""The model and the histories for long: ``python -m tests.faults.soak --minutes 10``.

First random tables and batches held against the model, then senders under one fault after
another. Prints what was sent and what was found; exits with 1 when a promise was broken.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.model.histories import run_all, summary

MODEL = Path(__file__).parents[1] / "model" / "test_model.py"

MODEL_SHARE = 0.4


def run_model(seconds: float) -> bool:
    """Hold the service against the model for so long; return whether they agree."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(MODEL)]
    environment = {**os.environ, "MODEL_SECONDS": f"{seconds:.0f}"}
    return subprocess.run(command, env=environment, check=False).returncode == 0


def main() -> None:
    """Parse the arguments, run, exit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    seconds = parser.parse_args().minutes * 60
    agrees = run_model(seconds * MODEL_SHARE)
    verdicts = run_all(seconds * (1 - MODEL_SHARE))
    print(summary(verdicts))
    sys.exit(not agrees or any(verdict.violations for verdict in verdicts))


if __name__ == "__main__":
    main()
