"""The service and its twin for all tests of the model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.checkout import Twins, make_twins


@pytest.fixture(scope="session")
def twins(server_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """One service process, its database and the twin, for all examples."""
    folder: Path = tmp_path_factory.mktemp("model")
    with make_twins(server_dsn, folder) as twins:
        yield twins
