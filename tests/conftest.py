"""What every test may ask for; ``tests/support`` makes it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from service.wire import SAMPLE

pytest.register_assert_rewrite("tests.support")

pytest_plugins = [
    "tests.support.citus",
    "tests.support.postgres",
    "tests.support.configuration",
    "tests.support.running",
    "tests.support.skips",
]


# They want a cluster.
collect_ignore = [] if os.environ.get("TEST_CITUS_URL") else ["citus"]


@pytest.fixture(scope="session")
def trials() -> list[dict[str, Any]]:
    """Real records: all 222 of the shared data where they lie beside the repo, else the sample."""
    shared = Path(__file__).parents[2] / "shared" / "data" / "trials.json"
    path = shared if shared.exists() else SAMPLE
    records: list[dict[str, Any]] = json.loads(path.read_text())
    return records
