"""Contract section 2, "Promises that make it trustworthy", and what the engine owes them."""

import asyncio
import random
from typing import Any

import pytest

from tests.harness.running import MakeRole, MakeService
from tests.harness.service import KEY


async def test_an_outcome_that_is_read_is_committed(make_service: MakeService) -> None:
    service = await make_service()

    for key in range(1, 30):
        answer = await service.put([{KEY: key, "comment": f"text {key}"}])
        assert answer.statuses == [201]
        assert (await service.comments())[key] == f"text {key}"


TEN_KINDS: list[dict[str, Any]] = [
    {"case_Key": "text"},
    {"unknown": 1},
    {"entry_User": "x" * 21},
    {"comment": "nul \0"},
    {"entry_Date": "never"},
    {"comment": "check"},
    {"comment": "raise"},
    {"comment": "deferred"},
    {"case_Key": 404},
    {"website": "taken"},
]
SPOILERS = """
    alter table care_case_clinical_trial add check (comment <> 'check');
    create table patient_case (case_key integer primary key);
    insert into patient_case values (1);
    alter table care_case_clinical_trial add foreign key (case_key) references patient_case;
    create unique index on care_case_clinical_trial (website) where website is not null;
    create function refuse() returns trigger language plpgsql as $$
    begin
        if new.comment = 'raise' then raise exception 'no such comment'; end if;
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
STATUS_OF_KIND = [400] * 8 + [409, 409]


async def test_ten_kinds_of_bad_items_in_5000_spoil_no_other(make_service: MakeService) -> None:
    service = await make_service()
    await service.execute(SPOILERS)
    await service.put([{KEY: 9_999, "website": "taken"}])
    batch = [{KEY: key, "comment": f"good {key}", "case_Key": 1} for key in range(1, 5001)]
    expected = [201] * 5000
    for n in range(50):
        batch[n * 100 + n] |= TEN_KINDS[n % 10]
        expected[n * 100 + n] = STATUS_OF_KIND[n % 10]

    created = await service.put(batch)
    updated = await service.put(batch)

    assert created.statuses == expected
    assert updated.statuses == [200 if status == 201 else status for status in expected]
    assert await service.comments() == {9_999: None} | {
        key: f"good {key}" for key, status in enumerate(expected, 1) if status == 201
    }


@pytest.mark.parametrize(
    ("table_change", "spoiler", "status"),
    [
        pytest.param(
            "alter table care_case_clinical_trial add check (comment <> 'bad')",
            {"comment": "bad"},
            400,
            id="check",
        ),
        pytest.param(
            "create table patient_case (case_key integer primary key);"
            "alter table care_case_clinical_trial add foreign key (case_key)"
            " references patient_case",
            {"case_Key": 1},
            409,
            id="foreign key",
        ),
        pytest.param(
            "create table patient_case (case_key integer primary key);"
            "alter table care_case_clinical_trial add foreign key (case_key)"
            " references patient_case deferrable initially deferred",
            {"case_Key": 1},
            409,
            id="deferred foreign key",
        ),
        pytest.param(
            "alter table care_case_clinical_trial add unique (website) deferrable"
            " initially deferred;"
            "insert into care_case_clinical_trial (care_case_clinical_trial_key, website,"
            " entry_date, update_date) values (1000, 'taken', now(), now())",
            {"website": "taken"},
            409,
            id="deferred unique",
        ),
        pytest.param(
            "alter table care_case_clinical_trial add exclude (location with =)"
            " where (location is not null);"
            "insert into care_case_clinical_trial (care_case_clinical_trial_key, location,"
            " entry_date, update_date) values (1000, 'here', now(), now())",
            {"location": "here"},
            409,
            id="exclusion",
        ),
        pytest.param(
            "create function assert_comment() returns trigger language plpgsql as"
            " $$ begin assert new.comment <> 'bad'; return new; end $$;"
            "create trigger t before insert on care_case_clinical_trial"
            " for each row execute function assert_comment()",
            {"comment": "bad"},
            500,
            id="assertion in a trigger",
        ),
        pytest.param(
            "create function later() returns trigger language plpgsql as $$ begin"
            " if new.comment = 'bad' then set constraints all deferred; end if;"
            " return new; end $$;"
            "create trigger t before insert on care_case_clinical_trial"
            " for each row execute function later();"
            "create table patient_case (case_key integer primary key);"
            "alter table care_case_clinical_trial add foreign key (case_key)"
            " references patient_case deferrable initially deferred",
            {"comment": "bad", "case_Key": 1},
            409,
            id="failing at commit",
        ),
    ],
)
async def test_what_the_database_refuses_spoils_only_its_own_item(
    make_service: MakeService, table_change: str, spoiler: dict[str, Any], status: int
) -> None:
    service = await make_service()
    await service.execute(table_change)
    batch = [{KEY: key, "comment": f"good {key}"} for key in range(1, 101)]
    for bad in (0, 49, 50, 99):
        batch[bad] |= spoiler

    answer = await service.put(batch)

    assert answer.statuses == [status if i in (0, 49, 50, 99) else 201 for i in range(100)]
    stored = {key for key in await service.comments() if key < 1000}
    assert stored == set(range(1, 101)) - {1, 50, 51, 100}


async def test_row_level_security_spoils_only_its_own_item(
    make_service: MakeService, make_role: MakeRole
) -> None:
    service = await make_service()
    await service.execute(
        """
        alter table care_case_clinical_trial enable row level security;
        create policy ours on care_case_clinical_trial using (location is distinct from 'theirs')
            with check (location is distinct from 'theirs');
        insert into care_case_clinical_trial
            (care_case_clinical_trial_key, location, entry_date, update_date)
            values (2, 'theirs', now(), now());
        """
    )
    restricted = await make_role(service)

    answer = await restricted.put(
        [{KEY: 1}, {KEY: 2, "comment": "overwritten"}, {KEY: 3, "location": "theirs"}, {KEY: 4}]
    )

    assert answer.statuses == [201, 403, 403, 201]
    assert await service.comments() == {1: None, 2: None, 4: None}


async def test_a_role_without_privilege_gets_403_for_each_item(
    make_service: MakeService, make_role: MakeRole
) -> None:
    service = await make_service()
    restricted = await make_role(service, privileges="select")

    answer = await restricted.put([{KEY: 1}, {KEY: 0}])

    assert answer.statuses == [403, 403]


async def test_a_key_sent_twice_is_created_then_updated(make_service: MakeService) -> None:
    service = await make_service()

    answer = await service.put([{KEY: 1, "comment": "first"}, {KEY: 1, "comment": "second"}])

    assert answer.outcomes == [("1", 201, "Created"), ("1", 200, "Updated")]
    assert await service.comments() == {1: "second"}


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


async def test_a_bad_item_between_two_of_its_key_leaves_both_in_effect(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.execute("alter table care_case_clinical_trial add check (comment <> 'bad')")

    answer = await service.put(
        [{KEY: 1, "comment": text} for text in ("bad", "first", "bad", "second", "bad")]
    )

    assert answer.statuses == [400, 201, 400, 200, 400]
    assert await service.comments() == {1: "second"}


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
