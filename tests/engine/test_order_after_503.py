"""Once an item got 503, the later ones of its key in the batch get 503, too."""

import uuid

from service.engine.rows import Batch, Run, Whole
from service.engine.schedule import Schedule
from service.wire import Outcome


async def no_keys() -> Whole:
    return Whole((), uuid.uuid4())


async def test_later_items_of_a_refused_key_are_not_tried() -> None:
    schedule = Schedule(most_lone=1, long_patience=1000)
    batch = Batch(
        database="acme",
        caller="loader",
        user="tester",
        activity_id="an activity",
        key="a key",
        request_id=uuid.uuid4(),
        look_whole=no_keys,
    )
    run = Run(batch, [(1,), (2,), (1,), (3,)], range(4))
    batch.runs.append(run)
    schedule.add(batch)

    first = schedule.begin()
    assert first is not None
    run.refuse_next("Somebody else holds a lock")
    schedule.end(first)
    second = schedule.begin()
    assert second is not None
    run.add([Outcome(2, 200, "Updated")])
    schedule.end(second)
    third = schedule.begin()
    assert third is not None

    assert [first.keys, second.keys, third.keys] == [[1, 2, 1, 3], [2], [3]]
    assert [outcome.status for outcome in run.outcomes] == [503, 200, 503]
