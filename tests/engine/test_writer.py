"""The engine by itself: rows of batches to outcomes, whatever is raised on the way."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from msgspec.structs import astuple
from prometheus_client import REGISTRY

from service.config import Database
from service.engine.databases import open_pool
from service.engine.rows import Batch, BatchKeys
from service.engine.writer import Writer
from service.wire import Item, Outcome
from tests.engine.batches import make_batch
from tests.support.postgres import MakeDatabase


@pytest.fixture
async def writer(make_database: MakeDatabase) -> AsyncIterator[Writer]:
    """The writer of a fresh database."""
    writer = Writer(await open_pool("acme", Database(make_database()), connect_seconds=5))
    yield writer
    await writer.close()


async def apply(writer: Writer, batch: Batch, items: Sequence[Item]) -> list[Outcome]:
    """Apply items that are a whole batch."""
    return await writer.apply(batch, list(map(astuple, items)), range(len(items)))


def retries() -> float:
    """Return how many attempts on the database have failed so far."""
    return sum(
        sample.value
        for family in REGISTRY.collect()
        if family.name == "care_trials_retries"
        for sample in family.samples
        if sample.name == "care_trials_retries_total"
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
    writer: Writer,
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

    outcomes = await apply(writer, make_batch(), [bad, *good])

    assert [outcome.status for outcome in outcomes] == [500, *[201] * len(created)]
    assert outcomes[0].body == "Internal error, activityID an activity"
    assert [key for key in created if key] == [o.key for o in outcomes[1:] if keys[0]]
    assert retries() == before
    assert [record.getMessage() for record in caplog.records] == ["item failed"]


async def test_an_item_that_cannot_be_encoded_spoils_none_that_shares_its_statement(
    writer: Writer,
) -> None:
    bad = Item(50)
    bad.comment = "\ud800"
    batches = [[Item(key)] if key != 50 else [bad] for key in range(1, 101)]

    told = await asyncio.gather(*(apply(writer, make_batch(), batch) for batch in batches))

    assert [outcomes[0].status for outcomes in told] == [
        500 if key == 50 else 201 for key in range(1, 101)
    ]


async def outage(dsn: str, batches: Sequence[Sequence[Item]]) -> list[list[int]]:
    """Return the statuses of batches that were sent at once where no database can be reached."""
    writer = Writer(await open_pool("acme", Database(dsn), connect_seconds=5))
    told = await asyncio.gather(*(apply(writer, make_batch(), batch) for batch in batches))
    await writer.close()
    return [[outcome.status for outcome in outcomes] for outcomes in told]


@pytest.mark.usefixtures("short_retries")
@pytest.mark.parametrize(
    "dsn",
    [
        # UnicodeError, from the encoding of names.
        "postgresql://u@a..b/x",
        "postgresql://u@127.0.0.1:1/x",
        "postgresql://u@127.0.0.1:1/x?sslmode=verify-full&sslrootcert=/nowhere",
    ],
    ids=["no address", "nobody there", "no certificate"],
)
async def test_whatever_connecting_raises_every_batch_is_answered(dsn: str) -> None:
    batches = [*([Item(key)] for key in range(1, 65)), [Item(65), Item(0)]]

    statuses = await asyncio.wait_for(outage(dsn, batches), 20)

    assert statuses == [*[[503]] * 64, [503, 503]]


async def test_batches_that_share_no_statement_wait_for_an_outage_no_longer_than_others() -> None:
    started_at = time.monotonic()

    statuses = await outage("postgresql://u@127.0.0.1:1/x", [[Item(0)] for _ in range(8)])

    assert statuses == [[503]] * 8
    assert time.monotonic() - started_at < 6


async def test_a_batch_that_cannot_be_looked_at_whole_is_answered_and_holds_up_no_other(
    writer: Writer,
) -> None:
    are_both_there = asyncio.Event()

    async def broken() -> BatchKeys:
        await are_both_there.wait()
        raise LookupError

    batch = make_batch(broken)
    runs = [asyncio.create_task(apply(writer, batch, [Item(key)])) for key in (0, 1)]
    await asyncio.sleep(0)
    are_both_there.set()
    await asyncio.wait(runs, timeout=5)
    (outcome,) = await asyncio.wait_for(apply(writer, make_batch(), [Item(1)]), 5)

    assert outcome.status == 201
    assert isinstance(runs[0].exception(), LookupError)
    assert runs[1].done()
    for run in runs:
        run.cancel()


async def test_a_batch_whose_caller_is_gone_starts_nothing(writer: Writer) -> None:
    outcomes = await apply(writer, make_batch(is_gone=lambda: True), [Item(1), Item(2)])
    (created,) = await apply(writer, make_batch(), [Item(1)])

    assert [outcome.status for outcome in outcomes] == [503, 503]
    assert created.status == 201


async def test_no_key_is_drawn_before_all_that_the_batch_names_are_known(writer: Writer) -> None:
    async def slowly() -> BatchKeys:
        await asyncio.sleep(0.2)
        return BatchKeys([1], uuid.uuid4())

    batch = make_batch(slowly)
    named, assigned = await asyncio.gather(
        apply(writer, batch, [Item(5)]), apply(writer, batch, [Item(0)])
    )

    assert [outcome.status for outcome in (*named, *assigned)] == [201, 201]
    assert assigned[0].key != 1
