"""The function that applies items, called directly: where it stops, and what is written then."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from service.engine.rows import Mode
from service.engine.sqlstates import TRANSIENT_ARRAY
from service.engine.statement import Answer
from service.statements import APPLY, COMMUTE_BLOCKERS, in_schema
from service.wire import Item
from tests.support import citus
from tests.support.postgres import MakeDatabase

TRIGGER = """
    create function body() returns trigger language plpgsql as $$ begin {} return new; end $$;
    create trigger t before insert on care_case_clinical_trial
    for each row execute function body();
"""


@pytest.fixture
async def connection(
    make_database: MakeDatabase,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to a fresh database."""
    made = await asyncpg.connect(make_database())
    yield made
    await made.close()


def row(key: int) -> tuple[Any, ...]:
    return (key, *([None] * (len(Item.__struct_fields__) - 1)))


async def apply(
    connection: "asyncpg.Connection[asyncpg.Record]",
    keys: Sequence[int],
    *,
    reserved: Sequence[int] | None = None,
    seconds: float = 5,
    must_commute: bool = False,
    mode: Mode = Mode.UPSERT,
    first_place: int = 0,
) -> Answer:
    """Apply records of these keys, in this order, in which those without a key come first."""
    created = len(keys) if mode is Mode.CREATE else keys.count(0)
    name = "00000000-0000-0000-0000-000000000001"
    places = [asyncpg.Range(first_place, first_place + created)]
    request = (name, name, places, reserved, None, None) if created else None
    ((record,),) = await connection.fetch(
        in_schema(APPLY, "public"),
        list(map(row, keys)),
        None,
        "tester",
        len(set(keys) - {0}) == len(keys) - keys.count(0),
        request,
        time.time() + seconds,
        "80ms",
        TRANSIENT_ARRAY,
        must_commute,
        mode,
    )
    return Answer.from_record(record)


async def stored(connection: "asyncpg.Connection[asyncpg.Record]") -> set[int]:
    rows = await connection.fetch(
        "select care_case_clinical_trial_key as key from care_case_clinical_trial"
    )
    return {found["key"] for found in rows}


async def test_past_its_deadline_it_has_written_nothing(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    for keys in ([1, 2], [3], [4, 4], [0]):
        with pytest.raises(asyncpg.QueryCanceledError):
            await apply(connection, keys, seconds=-0.1)

    assert await stored(connection) == set()


async def test_after_a_second_it_returns_what_is_done(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await connection.execute(TRIGGER.format("perform pg_sleep(0.1);"))

    applied = await apply(connection, range(1, 41))

    done = len(applied.states)
    assert 2 < done < 20
    assert applied.stopped is None
    assert await stored(connection) == set(range(1, done + 1))


async def test_where_rows_do_not_commute_it_writes_nothing_that_must(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    commuting = await apply(connection, [1, 2], must_commute=True)
    await connection.execute("create unique index on care_case_clinical_trial (comment)")
    other = await apply(connection, [3, 4], must_commute=True)

    assert (commuting.states, commuting.commutes) == ("cc", True)
    assert (other.states, other.commutes) == ("", False)
    assert await stored(connection) == {1, 2}


async def test_other_items_of_a_request_go_all_at_once_as_well(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    for first in (0, 100, 200):
        applied = await apply(connection, [0] * 100, first_place=first)
        assert applied.states == "k" * 100
    named = range(1001, 1101)
    mixed = await apply(connection, [*[0] * 100, *named], first_place=300)
    assert mixed.states == "k" * 100 + "c" * 100
    again = await apply(connection, [*[0] * 100, *named], first_place=400)
    assert again.states == "k" * 100 + "u" * 100
    assert len({*mixed.assigned, *again.assigned, *named}) == 300

    # Of items that go one after another, 32 share a savepoint.
    savepoints = await connection.fetchval(
        "select count(distinct xmin::text) from care_case_clinical_trial"
    )
    # Each worker counts for itself.
    workers = "select count(*) from citus_get_active_worker_nodes()"
    assert savepoints == 5 * (await connection.fetchval(workers) if citus.URL else 1)


@pytest.mark.xfail(citus.URL is not None, reason="only a worker sees who waits", strict=True)
@pytest.mark.parametrize("mode", [Mode.UPSERT, Mode.NEWEST])
async def test_a_record_that_another_creates_among_new_ones_meanwhile_is_updated(
    make_database: MakeDatabase, mode: Mode
) -> None:
    dsn = make_database()
    connection, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with other.transaction():
            assert (await apply(other, [50])).states == "c"
            applying = asyncio.create_task(apply(connection, range(1, 101), mode=mode))
            waits = "select exists (select from pg_locks where not granted)"
            while not await other.fetchval(waits):
                assert not applying.done()
        applied = await applying
        assert applied.states == "c" * 49 + "u" + "c" * 50
        assert await stored(connection) == set(range(1, 101))
    finally:
        await connection.close()
        await other.close()


async def test_who_may_not_update_creates_nothing_under_a_key_either(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    role = f"inserts_{await connection.fetchval('select current_database()')}"
    await connection.execute(
        f'create role "{role}" login; grant select, insert on care_case_clinical_trial to "{role}"'
    )
    try:
        await connection.execute(f'set role "{role}"')
        for keys in ([1], range(1, 101)):
            applied = await apply(connection, keys)
            assert applied.states == "f" * len(applied.states)
            assert set(applied.sqlstates) == {"42501"}
    finally:
        await connection.execute("reset role")
        await connection.execute(f'drop owned by "{role}"; drop role "{role}"')


@pytest.mark.parametrize("mode", [Mode.UPSERT, Mode.NEWEST])
@pytest.mark.parametrize("keys", [[0, 0], [0, 0, 7], [0, 0, 7, 7]], ids=str)
async def test_a_stored_record_whose_key_is_drawn_stays(
    connection: "asyncpg.Connection[asyncpg.Record]", keys: list[int], mode: Mode
) -> None:
    await connection.execute(
        "insert into care_case_clinical_trial"
        " (care_case_clinical_trial_key, comment, entry_date, entry_user, update_date, update_user)"
        " values (2, 'stays', now(), 'x', now() + interval '1 day', 'x')"
    )

    applied = await apply(connection, keys, mode=mode)

    assert applied.states == "kkcu"[: len(keys)]
    assert not {2, 7}.intersection(applied.assigned)
    assert await stored(connection) == {2, *applied.assigned, *keys} - {0}
    assert await connection.fetchval(
        "select comment from care_case_clinical_trial where care_case_clinical_trial_key = 2"
    )


@pytest.mark.parametrize("keys", [[0], [0, 0], [0, 7]], ids=str)
async def test_no_reserved_key_is_drawn(
    connection: "asyncpg.Connection[asyncpg.Record]", keys: list[int]
) -> None:
    applied = await apply(connection, keys, reserved=[1, 2, 3, 4])

    assert min(key or 0 for key in applied.assigned) > 4


async def test_at_another_isolation_level_it_does_not_run(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await connection.execute("set default_transaction_isolation = 'repeatable read'")

    with pytest.raises(asyncpg.PostgresError) as raised:
        await apply(connection, [1])

    assert raised.value.sqlstate == "CT001"


COMMUTES = """
    select not exists (
        select from care_case_clinical_trial_commute_blockers()
    ) as commutes"""
COUNTED = """
    create function few(text) returns boolean language sql as
    'select count(*) < 2 from public.care_case_clinical_trial where comment = $1';
    create domain counted as text check (few(value));"""
PHASE = """
    create type phase as enum ('1', '2');
    create function f(varchar) returns phase language sql as
    $$ select (count(*)::text)::phase from public.care_case_clinical_trial where $1 > '0' $$;
    create cast (varchar as phase) with function f as assignment;"""
OTHER = "create table other (key integer primary key);"
TABLE = "alter table care_case_clinical_trial"


@pytest.mark.parametrize(
    ("change", "commutes"),
    [
        ("select 1", True),
        ("create index on care_case_clinical_trial (case_key)", True),
        ("create index on care_case_clinical_trial (lower(comment))", True),
        ("create index on care_case_clinical_trial (case_key) where disease is not null", True),
        (f"{TABLE} add check (length(comment) < 100)", True),
        (f"{OTHER} {TABLE} add foreign key (case_key) references other", True),
        (f"{TABLE} add column note text default 'none', add column at timestamptz default now()",
         True),
        ("create unique index on care_case_clinical_trial (comment)", False),
        ("create unique index on care_case_clinical_trial (comment) where case_key = 1", False),
        (f"{TABLE} add exclude (comment with =)", False),
        (f"{TABLE} add foreign key (case_key) references care_case_clinical_trial", False),
        (f"{OTHER} {TABLE} add foreign key (case_key) references other deferrable", False),
        (TRIGGER.format(""), False),
        (TRIGGER.format("") + f"{TABLE} disable trigger t", False),
        (f"{TABLE} add column number integer generated always as identity", False),
        (f"{TABLE} add column number double precision default random()", False),
        (f"{TABLE} alter column location set default random()", False),
        (f"create table parent (location text); {TABLE} inherit parent", False),
        ("create domain short as text check (value <> ''); "
         f"{TABLE} alter column comment type short", False),
        ("create function f(text) returns boolean immutable language sql as 'select true';"
         f"{TABLE} add check (f(comment))", False),
        ("create function f(text) returns text immutable language sql as 'select $1';"
         "create index on care_case_clinical_trial (f(comment))", False),
        (f"{COUNTED} {TABLE} add check (comment::counted is not null)", False),
        (f"{COUNTED} {TABLE} add check (('{{' || comment || '}}')::counted[] is not null)", False),
        (f"{COUNTED} {TABLE} add check (array[comment]::counted[] is not null)", False),
        (f"{COUNTED} create index on care_case_clinical_trial ((comment::counted))", False),
        (f"{TABLE} add check (current_date > '2001-01-01')", False),
        (f"{TABLE} add check (current_user <> 'nobody')", False),
        (f"{TABLE} add check (comment in ('a', 'b') and case when case_key > 1 then disease"
         " is not null else not coalesce(comment, '') like '%x' end)", True),
        (f"{TABLE} add check (case_key = any ('{{1,2}}') and nullif(case_key, 0) is distinct"
         " from 3)", True),
        (f"{TABLE} add check (entry_user in ('a', 'b') and greatest(case_key, 2) > 1)", True),
        (f"{TABLE} add check (study_length::integer > 0 and case_key::text ~ '[0-9]')", True),
        (f"{PHASE} {TABLE} alter column care_case_clinical_trial_arm_id type phase using null",
         False),
        ("create type mood as enum ('sad', 'ok');"
         f"{TABLE} add column mood mood default 'sad'", True),
        ("create table child () inherits (care_case_clinical_trial)", False),
        ("create rule r as on update to care_case_clinical_trial do also select 1", False),
    ],
    ids=range(35),
)  # fmt: skip
async def test_what_commutes(make_database: MakeDatabase, change: str, *, commutes: bool) -> None:
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    planned_before = {
        strings: await asyncpg.connect(
            dsn, server_settings={"standard_conforming_strings": strings}
        )
        for strings in ("on", "off")
    }
    for session in planned_before.values():
        # From the sixth call on PostgreSQL keeps the plan.
        for _ in range(7):
            await apply(session, [])

    await connection.execute(change)

    for strings, session in planned_before.items():
        await connection.execute(f"set standard_conforming_strings = {strings}")
        assert await connection.fetchval(COMMUTES) is commutes
        assert (await apply(session, [], must_commute=True)).commutes is commutes
        # The words for operators name what it is.
        blockers = await connection.fetch(in_schema(COMMUTE_BLOCKERS, "public"))
        assert bool(blockers) is not commutes
        await session.close()
    await connection.close()


async def test_ddl_that_a_statement_waited_for_counts(make_database: MakeDatabase) -> None:
    dsn = make_database()
    connection, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await apply(connection, [1, 2])
    await other.execute("begin")
    await other.execute("create unique index on care_case_clinical_trial (comment)")
    waiting = asyncio.create_task(apply(connection, [3, 4], must_commute=True))
    await asyncio.sleep(0.3)
    await other.execute("commit")

    assert (await waiting).commutes is False

    await connection.close()
    await other.close()


async def test_pages_leave_room_for_updates(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    options = await connection.fetchval(
        "select reloptions from pg_class where oid = 'care_case_clinical_trial'::regclass"
    )

    assert options == ["fillfactor=50"]
