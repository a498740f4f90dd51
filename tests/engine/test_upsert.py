"""The engine by itself: items and a pool to outcomes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.config import Database, Tuning
from service.engine.databases import Databases
from service.engine.group_commit import Gatherer
from service.engine.rows import BatchContext
from service.engine.upsert import Upserter
from service.wire import Item
from tests.harness.postgres import MakeDatabase


@pytest.fixture
async def upserter(make_database: MakeDatabase) -> AsyncIterator[Upserter]:
    """The way of one batch into a fresh database."""
    databases = Databases({"acme": Database(make_database())}, Tuning())
    pool = await databases.pool("acme")
    yield Upserter(Gatherer(pool), BatchContext(pool, "tester", "an activity", set()))
    await databases.close()


def retries() -> float:
    """Return how many attempts on the database have failed so far."""
    return sum(
        sample.value
        for family in REGISTRY.collect()
        if family.name == "service_retries"
        for sample in family.samples
        if sample.name == "service_retries_total"
    )


NOT_ENCODABLE: dict[str, dict[str, Any]] = {
    "no text": {"comment": 5},
    "a lone surrogate": {"comment": "\ud800"},
    "no integer": {"case_key": "x"},
    "beyond 32 bits": {"case_key": 2**31},
    "no date": {"update_date": "2025-01-02"},
}


@pytest.mark.parametrize("fields", NOT_ENCODABLE.values(), ids=NOT_ENCODABLE.keys())
@pytest.mark.parametrize(
    ("keys", "created"),
    [([1], []), ([1, 2, 3], [2, 3]), ([1, 1], [1]), ([0], []), ([0, 0], [0])],
    ids=["alone", "among others", "with another of its key", "keyless", "among keyless"],
)
async def test_what_cannot_be_encoded_is_500_once_and_spoils_no_other(
    upserter: Upserter,
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, Any],
    keys: list[int],
    created: list[int],
) -> None:
    """Nothing that came by HTTP gets so far; if ever it does, no retry would help."""
    bad, *good = [Item(key) for key in keys]
    for name, value in fields.items():
        setattr(bad, name, value)
    before = retries()

    outcomes = await upserter.upsert([bad, *good])

    assert [outcome.status for outcome in outcomes] == [500, *[201] * len(created)]
    assert outcomes[0].body == "Internal error, activityID an activity"
    assert [key for key in created if key] == [o.key for o in outcomes[1:] if keys[0]]
    assert retries() == before
    assert [record.getMessage() for record in caplog.records] == ["item failed"]
