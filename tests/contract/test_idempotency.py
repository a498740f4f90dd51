"""Contract section 1, "Retries": a whole batch under its Idempotency-Key."""

import asyncio
from typing import Any

import asyncpg
import pytest

from service.statements import DELETE_EXPIRED, in_schema
from tests.engine.batches import make_batch
from tests.support.running import MakeService, StartProcess
from tests.support.service import KEY, ServiceUnderTest

BATCH = [{KEY: 0, "comment": "first"}, {KEY: 5000}, {KEY: 0, "case_Key": "x"}, {KEY: 0}]


def under(key: str) -> dict[str, str | None]:
    return {"Idempotency-Key": key}


async def test_a_record_without_key_is_created_once_under_one_key(
    make_service: MakeService,
) -> None:
    service = await make_service()

    first = await service.put(BATCH, headers=under("k"))
    again = await service.put(BATCH, headers=under('"k"'))

    assert first.statuses == [201, 201, 400, 201]
    assert again.statuses == [201, 200, 400, 201]
    assert [key for key, _, _ in again.outcomes] == [key for key, _, _ in first.outcomes]
    assert len(await service.comments()) == 3


async def test_the_activity_id_is_the_key_of_a_batch_that_came_without_one(
    make_service: MakeService,
) -> None:
    service = await make_service()

    first = await service.put(BATCH)
    key = under(first.envelope["debug"]["activityID"])
    other = await service.put([{KEY: 0}], headers=key)
    again = await service.put(BATCH, headers=key)
    other_again = await service.put([{KEY: 0}], headers=key)

    assert [key for key, _, _ in again.outcomes] == [key for key, _, _ in first.outcomes]
    # A rejected request changes nothing.
    assert (other.status, other_again.status) == (422, 422)
    assert len(await service.comments()) == 3


async def test_another_body_under_the_same_key_is_422_and_nothing_is_applied(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.put([{KEY: 5000, "comment": "first"}, {KEY: 0}], headers=under("k"))

    answer = await service.put([{KEY: 5000, "comment": "second"}], headers=under("k"))

    assert answer.status == 422
    assert (await service.comments())[5000] == "first"


async def test_a_request_that_created_nothing_leaves_no_trace(make_service: MakeService) -> None:
    service = await make_service()
    batches: list[list[Any]] = [
        [{KEY: 1}, {KEY: 0, "case_Key": "x"}], [{KEY: 1}, {KEY: 2}], [{KEY: 0}], [{KEY: 0}],
    ]  # fmt: skip

    first, second, third, again = [
        await service.put(batch, headers=under("k")) for batch in batches
    ]

    assert [first.statuses, second.statuses, third.statuses] == [[201, 400], [200, 201], [201]]
    assert again.outcomes == third.outcomes


async def test_of_two_bodies_at_once_one_creates_its_records(make_service: MakeService) -> None:
    """Through two processes, which know of each other only by their receipts."""
    one = await make_service()
    two = await make_service(one.databases)
    bodies = [
        [{KEY: 0, "comment": f"{name}"} if n % 2 else {KEY: 5000 + n} for n in range(1200)]
        for name in "ab"
    ]

    answers = await asyncio.gather(
        one.put(bodies[0], headers=under("k")), two.put(bodies[1], headers=under("k"))
    )

    comments = [comment for comment in (await one.comments()).values() if comment is not None]
    assert len(set(comments)) == 1
    winner = "ab".index(comments[0])
    assert answers[winner].statuses.count(201) >= 600
    loser = answers[1 - winner]
    if loser.status != 422:
        assert [status for _, status, _ in loser.outcomes[1::2]] == [422] * 600
        assert {status for _, status, _ in loser.outcomes[::2]} <= {200, 201}
    assert len(comments) == 600


async def test_keys_count_for_each_api_key_and_database(make_service: MakeService) -> None:
    service = await make_service()
    first = await service.put([{KEY: 0}], headers=under("k"))

    other = await service.put([{KEY: 0}], headers=under("l"))

    assert first.outcomes[0][0] != other.outcomes[0][0]


@pytest.mark.parametrize("key", ["", '""', "two words", "ü", "x" * 256, "tab\tbed"])
async def test_a_key_that_is_none_is_400(make_service: MakeService, key: str) -> None:
    service = await make_service()

    answer = await service.put([{KEY: 1}], headers=under(key))

    assert answer.status == 400
    assert "Idempotency-Key" in answer.detail
    assert await service.comments() == {}


async def test_while_the_first_request_runs_the_second_waits_then_is_409(
    make_service: MakeService,
) -> None:
    service = await make_service(idempotency_wait_seconds=1)
    await service.put([{KEY: 7}])
    blocker = await service.connect()
    await blocker.execute(
        "begin; select from care_case_clinical_trial"
        " where care_case_clinical_trial_key = 7 for update"
    )
    batch = [{KEY: 7, "comment": "late"}, {KEY: 0}]
    first = asyncio.create_task(service.put(batch, headers=under("k")))
    await asyncio.sleep(0.2)

    second = await service.put(batch, headers=under("k"))
    await blocker.execute("rollback")
    await blocker.close()
    third = await service.put(batch, headers=under("k"))

    assert second.status == 409
    assert second.headers["Retry-After"]
    assert (await first).statuses == [200, 201]
    assert third.outcomes == (await first).outcomes


async def test_through_another_process_a_record_is_created_once(
    start_process: StartProcess,
) -> None:
    one, _ = await start_process()
    two, _ = await start_process(databases=one.databases)
    batch = [{KEY: 0, "comment": f"{place}"} for place in range(1200)]

    answers = await asyncio.gather(
        one.put(batch, headers=under("k")), two.put(batch, headers=under("k"))
    )

    assert {answer.status for answer in answers} == {207}
    assert answers[0].outcomes == answers[1].outcomes
    assert len(await one.comments()) == 1200


@pytest.mark.parametrize("explicit", [0, 1200])
async def test_while_another_process_works_on_the_request_nothing_of_it_is_created(
    make_service: MakeService, explicit: int
) -> None:
    """Before the first outcome that is 409; later, key-0 items get 503 with the key."""
    service = await make_service()
    batch = [*({KEY: 5000 + n} for n in range(explicit)), {KEY: 0}]
    other = await service.connect()
    request = make_batch(key="k")
    lock = "select pg_advisory_lock(hashtextextended($1, 0))"
    await other.execute(lock, str(request.request_id))

    answer = await service.put(batch, headers=under("k"))
    await other.close()
    again = await service.put(batch, headers=under("k"))

    if explicit:
        assert answer.statuses == [201] * explicit + [503]
        assert "resend the whole batch" in answer.outcomes[-1][2]
        assert "Idempotency-Key: k" in answer.outcomes[-1][2]
    else:
        assert answer.status == 409
        assert answer.headers["Retry-After"]
    assert again.statuses[-1] == 201
    assert len(await service.comments()) == explicit + 1


REDIRECT = """
    create table filed_elsewhere (comment text);
    create function redirect() returns trigger language plpgsql as $$ begin
        insert into filed_elsewhere values (new.comment); return null;
    end $$;
    create trigger redirect before insert on care_case_clinical_trial
    for each row execute function redirect();
"""


async def test_a_record_that_a_trigger_filed_elsewhere_is_filed_once(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.execute(REDIRECT)
    batch = [{KEY: 0, "comment": "x"}]

    first = await service.put(batch, headers=under("k"))
    again = await service.put(batch, headers=under("k"))

    assert [first.statuses, again.statuses] == [[409], [409]]
    assert len(await service.fetch("select comment from filed_elsewhere")) == 1


async def test_a_statement_that_comes_again_while_the_first_runs_creates_nothing(
    make_service: MakeService,
) -> None:
    """As through another process, cut otherwise: the same function, called beside the service."""
    service = await make_service()
    call = """
        select applied.states, applied.assigned
        from care_case_clinical_trial_apply_items(
            array_fill(
                row(0, null, null, null, null, null, null, null, null, null, null, null, null,
                    null, null, null, null, null)::care_case_clinical_trial_item,
                array[upper($1::int4multirange) - lower($1::int4multirange)]
            ),
            null, 'tester', true,
            row('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002', $1,
                null, null, null)::care_case_clinical_trial_request,
            extract(epoch from clock_timestamp()) + 10, '2s', array['55P03'], false, 'upsert'
        ) as applied
    """
    first, second = await service.connect(), await service.connect()
    opened = first.transaction()
    await opened.start()
    ((states, keys),) = await first.fetch(call, [asyncpg.Range(0, 4)])
    ((nothing, _),) = await second.fetch(call, [asyncpg.Range(2, 4)])
    await opened.commit()
    ((states_again, keys_again),) = await second.fetch(call, [asyncpg.Range(2, 4)])
    await first.close()
    await second.close()

    assert (states, nothing, states_again) == ("kkkk", "", "kk")
    assert keys_again == keys[2:]
    assert len(await service.comments()) == 4


FORGET_QUERY = in_schema(DELETE_EXPIRED, "public")
AGE = """
    update care_case_clinical_trial_receipt set created_at = created_at - $1::interval;
"""


async def age(service: ServiceUnderTest, days: int) -> None:
    """Let all that is known of requests be older by some days."""
    await service.execute(AGE.replace("$1", f"'{days} days'"))


async def test_an_expired_request_is_forgotten_whole_and_no_other(
    make_service: MakeService,
) -> None:
    service = await make_service()
    expired = await service.put([{KEY: 0}], headers=under("expired"))
    await service.put([{KEY: 0}])
    await age(service, 9)
    # A resend does not prolong it.
    await service.put([{KEY: 0}], headers=under("expired"))
    later = await service.put([{KEY: 0}], headers=under("later"))

    ((deleted,),) = await service.fetch(FORGET_QUERY, 7, 100)
    anew = await service.put([{KEY: 0}], headers=under("expired"))
    again = await service.put([{KEY: 0}], headers=under("later"))

    assert deleted == 2
    assert anew.outcomes[0][0] != expired.outcomes[0][0]
    assert again.outcomes == later.outcomes


async def test_no_request_is_forgotten_that_is_at_work(make_service: MakeService) -> None:
    service = await make_service()
    first = await service.put([{KEY: 0}], headers=under("k"))
    await age(service, 9)
    replay = await service.connect()
    await replay.execute(
        "begin; select pg_advisory_xact_lock(hashtextextended(request::text, 0))"
        " from care_case_clinical_trial_receipt"
    )

    ((deleted,),) = await service.fetch(FORGET_QUERY, 7, 100)
    await replay.execute("rollback")
    await replay.close()
    again = await service.put([{KEY: 0}], headers=under("k"))

    assert deleted == 0
    assert again.outcomes == first.outcomes


async def test_what_is_promised_still_is_not_forgotten(make_service: MakeService) -> None:
    service = await make_service()
    first = await service.put([{KEY: 0}], headers=under("k"))
    await age(service, 7)

    ((deleted,),) = await service.fetch(FORGET_QUERY, 7, 100)

    assert deleted == 0
    assert (await service.put([{KEY: 0}], headers=under("k"))).outcomes == first.outcomes
