"""Small batches that share a statement keep every promise as if each had its own."""

import asyncio

from tests.support.running import MakeService
from tests.support.service import KEY, token


async def test_small_batches_sent_at_once_fail_each_for_themselves(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.execute("alter table care_case_clinical_trial add check (comment <> 'bad')")

    answers = await asyncio.gather(
        *(
            service.put([{KEY: key, "comment": "bad" if key % 7 == 0 else f"good {key}"}])
            for key in range(1, 101)
        )
    )

    assert [answer.statuses for answer in answers] == [
        [400] if key % 7 == 0 else [201] for key in range(1, 101)
    ]
    assert await service.comments() == {key: f"good {key}" for key in range(1, 101) if key % 7 != 0}


async def test_small_batches_of_one_key_create_it_once(make_service: MakeService) -> None:
    service = await make_service()

    answers = await asyncio.gather(
        *(service.put([{KEY: 1, "comment": f"{number}"}, {KEY: 2}]) for number in range(50))
    )

    for place in (0, 1):
        statuses = sorted(answer.statuses[place] for answer in answers)
        assert statuses == [200] * 49 + [201]


async def test_each_caller_of_a_shared_statement_is_named_in_its_own_records(
    make_service: MakeService,
) -> None:
    service = await make_service()

    await asyncio.gather(
        *(
            service.put(
                [{KEY: key}, {KEY: -key, "entry_User": "given"}],
                headers={"Authorization": f"Bearer {token(sub=f'user {key}')}"},
            )
            for key in range(1, 61)
        )
    )

    rows = await service.fetch(
        "select care_case_clinical_trial_key, entry_user, update_user from care_case_clinical_trial"
    )
    for key, entry_user, update_user in rows:
        assert entry_user == (f"user {key}" if key > 0 else "given")
        assert update_user == f"user {abs(key)}"


async def test_a_small_batch_does_not_wait_for_locks_that_it_does_not_need(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.put([{KEY: key} for key in range(1, 5)])
    blocker = await service.connect()
    await blocker.execute("begin; select from care_case_clinical_trial for update")

    blocked = [asyncio.create_task(service.put([{KEY: key}])) for key in range(1, 5)]
    await asyncio.sleep(0.2)
    others = await asyncio.wait_for(
        asyncio.gather(*(service.put([{KEY: key}]) for key in range(100, 140))), 5
    )

    assert [answer.statuses for answer in others] == [[201]] * 40
    assert not any(task.done() for task in blocked)
    await blocker.execute("rollback")
    await blocker.close()
    assert [(await task).statuses for task in blocked] == [[200]] * 4


async def test_many_small_batches_at_once_share_few_transactions(make_service: MakeService) -> None:
    service = await make_service()

    answers = await asyncio.gather(*(service.put([{KEY: key}]) for key in range(1, 101)))

    assert [answer.statuses for answer in answers] == [[201]] * 100
    # A row tells the transaction that wrote it.
    (row,) = await service.fetch(
        "select count(distinct xmin::text) as transactions from care_case_clinical_trial"
    )
    assert row["transactions"] < 50
