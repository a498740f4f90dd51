"""Senders with overlapping keys, under faults: what was told and is stored has one explanation.

Short here; ``HISTORY_SECONDS=600`` runs all faults for so long (``make soak`` does so).
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness.pgbouncer import PROGRAM as PGBOUNCER
from tests.harness.service import KEY
from tests.model.histories import Verdict, run, run_all, summary, world
from tests.model.history import LATE_SECONDS, fields
from tests.model.history_faults import FAULTS
from tests.model.history_senders import Load, Sender
from tests.model.history_strikes import LOCK_ROW
from tests.model.history_world import HAS_KEYS, Way, World

SECONDS = 2.5
"""Of one history."""

LONG_SECONDS = float(os.environ.get("HISTORY_SECONDS", "0"))

CRASHES = int(os.environ.get("HISTORY_CRASHES", "4"))
"""Issue 13 asks for 1,000; a crash takes a second."""

FAULT = {fault.name: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def plain() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture(scope="module")
def pooled() -> Iterator[World]:
    with world(is_pooled=True) as made:
        yield made


def assert_kept(*verdicts: Verdict) -> None:
    """Assert that every promise was kept, and that there was something to keep."""
    assert not any(verdict.violations for verdict in verdicts), "\n" + summary(verdicts)
    assert all(verdict.acknowledged for verdict in verdicts)


@pytest.mark.parametrize(
    "fault",
    [
        "two services, opposite order",
        "sessions ended",
        "rows locked",
        "service frozen",
    ],
)
async def test_one_order_explains_what_senders_were_told(plain: World, fault: str) -> None:
    assert_kept(await run(plain, FAULT[fault], SECONDS))


async def test_one_order_explains_batches_that_are_sent_again(plain: World) -> None:
    assert_kept(await run(plain, FAULT["answers swallowed"], SECONDS, idempotency=HAS_KEYS))


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")
async def test_one_order_explains_it_through_pgbouncer(pooled: World) -> None:
    assert_kept(await run(pooled, FAULT["sessions ended"], SECONDS))


async def test_what_was_acknowledged_before_a_crash_is_stored_once(plain: World) -> None:
    fault = FAULT["server killed, slow disk, one new record each"]

    assert_kept(await run(plain, fault, 0, strikes=CRASHES, idempotency=HAS_KEYS))


def close(way: Way) -> Callable[[], None]:
    """Reset the connections, and new ones; return what opens the way again."""
    way.fault = lambda link, _data: link.cut()
    way.cut()

    def open_again() -> None:
        way.fault = None

    return open_again


def stall(way: Way) -> Callable[[], None]:
    """Let nothing through; return what lets it through, late."""
    way.stall()
    return way.deliver


@pytest.mark.parametrize(
    ("service", "lose"), [(1, close), pytest.param(0, stall, marks=pytest.mark.slow)]
)
async def test_an_older_statement_overwrites_no_newer_record(
    plain: World, service: int, lose: Callable[[Way], Callable[[], None]]
) -> None:
    async with plain.reached():
        history = await plain.begin()
        sender = Sender(service, plain, history, Load())
        stranger = await plain.stranger()
        await stranger.execute("begin")
        await stranger.execute(LOCK_ROW, 1)

        # A statement that waits for the first row has the second still before it.
        older = asyncio.create_task(
            sender.send([{KEY: key, **fields(f"older {key}")} for key in (1, 2)])
        )
        await _wait_for_a_lock_that_is_waited_for(stranger)
        find_again = lose(plain.ways[service])
        refused = await older
        find_again()
        newer: Any = None
        while newer is None or not newer.is_done:
            newer = await sender.send([{KEY: 2, **fields("newer")}])
        await stranger.execute("rollback")
        assert await plain.settles(LATE_SECONDS)
        await plain.finish(history)
        await stranger.close()

    assert [write.status for write in refused.writes] == [503, 503]
    assert [row.marker for _, row in history.changes if row.key == 2][-1] == "newer"
    assert history.violations() == []


async def _wait_for_a_lock_that_is_waited_for(connection: Any) -> None:
    async with asyncio.timeout(10):
        while not await connection.fetch("select from pg_locks where not granted"):
            await asyncio.sleep(0.01)


if LONG_SECONDS:

    def test_one_order_explains_every_fault() -> None:
        verdicts = run_all(LONG_SECONDS)

        print(summary(verdicts))
        assert_kept(*verdicts)
