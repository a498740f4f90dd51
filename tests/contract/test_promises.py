"""Contract section 2, "Promises that make it trustworthy"; tests/model checks most of them."""

import asyncio
import random
from typing import Any

import pytest

from tests.support.running import MakeService
from tests.support.service import KEY

REJECTED: list[tuple[dict[str, Any], int]] = [
    ({"case_Key": "text"}, 400),
    ({"unknown": 1}, 400),
    ({"entry_User": "x" * 21}, 400),
    ({"comment": "nul \0"}, 400),
    ({"entry_Date": "never"}, 400),
    ({"comment": "check"}, 400),
    ({"comment": "raise"}, 400),
    ({"comment": "deferred"}, 400),
    ({"case_Key": 404}, 409),
    ({"website": "taken"}, 409),
    ({"comment": "at the commit", "case_Key": 404}, 409),
]
"""Fields that make an item fail, and its status."""
SPOILERS = """
    alter table care_case_clinical_trial add check (comment <> 'check');
    create table patient_case (case_key integer primary key);
    insert into patient_case values (1);
    alter table care_case_clinical_trial add foreign key (case_key) references patient_case
        deferrable;
    create unique index on care_case_clinical_trial (website) where website is not null;
    create function refuse() returns trigger language plpgsql as $$
    begin
        if new.comment = 'raise' then raise exception 'no such comment'; end if;
        if new.comment = 'at the commit' then set constraints all deferred; end if;
        return new;
    end $$;
    create trigger refuse before insert or update on care_case_clinical_trial
        for each row execute function refuse();
    create function refuse_later() returns trigger language plpgsql as $$
    begin
        if new.comment = 'deferred' then
            raise exception 'too late' using errcode = 'check_violation';
        end if;
        return null;
    end $$;
    create constraint trigger refuse_later after insert or update on care_case_clinical_trial
        deferrable initially deferred for each row execute function refuse_later();
"""


async def test_bad_items_of_every_kind_in_5000_spoil_no_other(make_service: MakeService) -> None:
    service = await make_service()
    await service.execute(SPOILERS)
    await service.put([{KEY: 9_999, "website": "taken"}])
    batch = [{KEY: key, "comment": f"good {key}", "case_Key": 1} for key in range(1, 5001)]
    expected = [201] * 5000
    for n, (fields, status) in enumerate(4 * REJECTED):
        batch[n * 100 + n] |= fields
        expected[n * 100 + n] = status

    created = await service.put(batch)
    updated = await service.put(batch)

    assert created.statuses == expected
    assert updated.statuses == [200 if status == 201 else status for status in expected]
    assert await service.comments() == {9_999: None} | {
        key: f"good {key}" for key, status in enumerate(expected, 1) if status == 201
    }


async def test_items_of_one_key_take_effect_in_array_order(make_service: MakeService) -> None:
    service = await make_service()
    keys = [random.Random(1).randrange(1, 40) for _ in range(3000)]
    batch = [{KEY: key, "comment": f"{i}", "disease": "x" * 300} for i, key in enumerate(keys)]

    answer = await service.put(batch)

    seen: set[int] = set()
    for key, status in zip(keys, answer.statuses, strict=True):
        assert status == (200 if key in seen else 201)
        seen.add(key)
    assert await service.comments() == {key: f"{i}" for i, key in enumerate(keys)}


async def test_a_batch_sent_again_gives_the_same_rows(
    make_service: MakeService, trials: list[dict[str, Any]]
) -> None:
    service = await make_service()
    await service.put(trials)
    before = await service.fetch("select t::text from care_case_clinical_trial t order by 1")

    await service.put(trials)

    assert before == await service.fetch(
        "select t::text from care_case_clinical_trial t order by 1"
    )


async def test_concurrent_batches_of_overlapping_keys_all_succeed(
    make_service: MakeService,
) -> None:
    service = await make_service()

    async def client(number: int) -> None:
        source = random.Random(number)
        for _ in range(5):
            keys = source.sample(range(1, 1001), 400)
            answer = await service.put([{KEY: key, "comment": f"{number}"} for key in keys])
            assert set(answer.statuses) <= {200, 201}

    await asyncio.gather(*(client(number) for number in range(16)))

    assert len(await service.comments()) > 900


async def test_of_a_client_that_hangs_up_what_is_at_work_ends_and_nothing_further_starts(
    make_service: MakeService,
) -> None:
    service = await make_service()
    batch = [{KEY: key, "comment": "x" * 200} for key in range(1, 20_001)]

    async with service.locked_table():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(service.put(batch), 1)
        await asyncio.sleep(0.1)

    async with asyncio.timeout(10):
        while not (stored := set(await service.comments())):
            await asyncio.sleep(0.05)
    # What comes later is dealt with as if nothing had been there.
    after = await service.put([{KEY: key, "comment": "mine"} for key in (1, 20_000)])
    await asyncio.sleep(1)
    comments = await service.comments()
    assert set(after.statuses) <= {200, 201}
    assert comments[1] == comments[20_000] == "mine"
    # Two statements of 500 rows were at work.
    assert stored <= set(comments) <= {*range(1, 1001), 20_000}
