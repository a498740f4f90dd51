"""Once an item got 503, the later ones of its key in the batch get 503, too."""

from service.engine.rows import RowChunk
from service.engine.schedule import Scheduler
from service.wire import Outcome
from tests.engine.batches import make_batch


async def test_a_statement_takes_as_many_rows_as_are_configured() -> None:
    scheduler = Scheduler(statement_rows=2, max_solo=1, long_lock_timeout=1000)
    batch = make_batch()
    batch.chunks.append(RowChunk(batch, [(1,), (2,), (3,)], range(3)))
    scheduler.add(batch)

    statement = scheduler.next_statement()

    assert statement is not None
    assert statement.keys == [1, 2]


async def test_a_statement_takes_several_runs_of_a_batch_where_more_rows_are_configured() -> None:
    scheduler = Scheduler(statement_rows=5, max_solo=1, long_lock_timeout=1000)
    batch = make_batch()
    for rows in [(1,), (2,)], [(3,), (4,)], [(5,), (6,)]:
        batch.chunks.append(RowChunk(batch, rows, range(2)))
    scheduler.add(batch)

    statements = [
        scheduler.next_statement(),
        scheduler.next_statement(),
        scheduler.next_statement(),
    ]

    assert [s and s.keys for s in statements] == [[1, 2, 3, 4], [5, 6], None]


async def test_a_run_that_names_a_key_of_the_one_before_it_waits_for_that_one() -> None:
    scheduler = Scheduler(statement_rows=5, max_solo=1, long_lock_timeout=1000)
    batch = make_batch()
    for rows in [(1,), (2,)], [(3,), (1,)]:
        batch.chunks.append(RowChunk(batch, rows, range(2)))
    scheduler.add(batch)

    statements = [scheduler.next_statement(), scheduler.next_statement()]

    assert [s and s.keys for s in statements] == [[1, 2], [3]]


async def test_later_items_of_a_refused_key_are_not_tried() -> None:
    scheduler = Scheduler(statement_rows=500, max_solo=1, long_lock_timeout=1000)
    batch = make_batch()
    chunk = RowChunk(batch, [(1,), (2,), (1,), (3,)], range(4))
    batch.chunks.append(chunk)
    scheduler.add(batch)

    first = scheduler.next_statement()
    assert first is not None
    chunk.refuse_next("Timed out waiting for a lock")
    scheduler.finish(first)
    second = scheduler.next_statement()
    assert second is not None
    chunk.add([Outcome(2, 200, "Updated")])
    scheduler.finish(second)
    third = scheduler.next_statement()
    assert third is not None

    assert [first.keys, second.keys, third.keys] == [[1, 2, 1, 3], [2], [3]]
    assert [outcome.status for outcome in chunk.outcomes] == [503, 200, 503]
    assert [outcome.body for outcome in chunk.outcomes if outcome.status == 503] == [
        "Timed out waiting for a lock; resend the item.",
        "Not attempted: an earlier item with the same key got 503; resend both in order.",
    ]
