"""The modes of a batch: what becomes of a record that exists, and of one that does not."""
# ruff: noqa: S608 (the statements are made of constants)

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from msgspec.structs import astuple

from service.config import Database
from service.engine.databases import open_pool
from service.engine.rows import Batch, Mode
from service.engine.sqlstates import TRANSIENT_ARRAY
from service.engine.statement import Answer, Statement
from service.engine.writer import Writer
from service.statements import APPLY, in_schema
from service.wire import Item, Outcome
from tests.engine.batches import make_batch, whole
from tests.support import citus
from tests.support.postgres import MakeDatabase

MODES = list(Mode)
EARLY, STORED, LATE = (datetime(year, 1, 1, tzinfo=UTC) for year in (2024, 2025, 2026))
TABLE = "care_case_clinical_trial"


class Tenant:
    """A database, its writer, and a connection to look at it."""

    def __init__(self, writer: Writer, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.writer = writer
        self.connection = connection

    async def apply(self, mode: Mode, *items: Item, batch: Batch | None = None) -> list[Outcome]:
        """Apply items that are a whole batch."""
        batch = batch or make_batch(mode=mode)
        outcomes = await self.writer.apply(batch, list(map(astuple, items)), range(len(items)))
        self.writer.requests.release(batch)
        return outcomes

    async def told(self, mode: Mode, *items: Item, batch: Batch | None = None) -> list[int]:
        """Apply items; return their statuses."""
        return [outcome.status for outcome in await self.apply(mode, *items, batch=batch)]

    async def stored(self) -> dict[int, str | None]:
        """Return the comment of each record by its key."""
        rows = await self.connection.fetch(
            f"select {TABLE}_key as key, comment from {TABLE} order by key"
        )
        return {row["key"]: row["comment"] for row in rows}

    @contextmanager
    def answer_lost(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Let the answer of the first statement be lost, after its commit."""
        run: Callable[..., Awaitable[Any]] = Statement.run
        times = 0

        class Cut:
            """A connection that breaks after its statement."""

            def __init__(self, connection: Any) -> None:
                self._connection = connection

            async def fetch(self, *arguments: Any, **options: Any) -> Any:
                await self._connection.fetch(*arguments, **options)
                raise ConnectionResetError

        async def lossy(self: Statement, query: str, connection: Any, *arguments: Any) -> Any:
            nonlocal times
            times += 1
            cut = Cut(connection) if times == 1 else connection
            return await run(self, query, cut, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Statement, "run", lossy)
            yield
        assert times == 2


@pytest.fixture
async def tenant(make_database: MakeDatabase) -> AsyncIterator[Tenant]:
    """A database that holds record 1, of the beginning of 2025."""
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    pool = await open_pool("acme", Database(dsn), connect_seconds=5)
    tenant = Tenant(Writer(pool), connection)
    await tenant.apply(Mode.UPSERT, record(1, "stored", STORED))
    yield tenant
    await tenant.writer.close()
    await connection.close()


def record(key: int, comment: str = "sent", update_date: datetime | None = LATE) -> Item:
    """Return an item."""
    item = Item(key, comment=comment)
    if update_date is not None:
        item.update_date = update_date
    return item


async def trigger(tenant: Tenant, event: str, body: str) -> None:
    """Give the table a trigger."""
    await tenant.connection.execute(
        f"create function body() returns trigger language plpgsql as $$ begin {body} end $$;"
        f"create trigger t before {event} on {TABLE} for each row execute function body()"
    )


WHAT_BECOMES: dict[tuple[Mode, str], tuple[int, dict[int, str]]] = {
    (Mode.UPSERT, "existing"): (200, {1: "sent"}),
    (Mode.UPSERT, "absent"): (201, {1: "stored", 2: "sent"}),
    (Mode.NEWEST, "existing"): (200, {1: "sent"}),
    (Mode.NEWEST, "older"): (409, {1: "stored"}),
    (Mode.NEWEST, "same age"): (200, {1: "sent"}),
    (Mode.NEWEST, "absent"): (201, {1: "stored", 2: "sent"}),
    (Mode.CREATE, "existing"): (409, {1: "stored"}),
    (Mode.CREATE, "absent"): (201, {1: "stored", 2: "sent"}),
    (Mode.REPLACE, "existing"): (200, {1: "sent"}),
    (Mode.REPLACE, "absent"): (404, {1: "stored"}),
    (Mode.REPLACE, "no key"): (404, {1: "stored"}),
    (Mode.DELETE, "existing"): (204, {}),
    (Mode.DELETE, "absent"): (404, {1: "stored"}),
    (Mode.DELETE, "no key"): (404, {1: "stored"}),
}
ITEMS = {
    "existing": record(1),
    "older": record(1, update_date=EARLY),
    "same age": record(1, update_date=STORED),
    "absent": record(2),
    "no key": record(0),
}
TABLES = {
    "commuting": "select",
    "other": f"create unique index on {TABLE} (comment)",
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize(("mode", "item"), WHAT_BECOMES.keys())
async def test_what_becomes_of_a_record(tenant: Tenant, mode: Mode, item: str, table: str) -> None:
    await tenant.connection.execute(table)
    status, stored = WHAT_BECOMES[mode, item]

    (outcome,) = await tenant.apply(mode, ITEMS[item])

    assert (outcome.status, outcome.key) == (status, ITEMS[item].care_case_clinical_trial_key)
    assert outcome.body
    assert await tenant.stored() == stored


@pytest.mark.parametrize("mode", [Mode.UPSERT, Mode.NEWEST, Mode.CREATE])
async def test_a_record_without_a_key_is_created(tenant: Tenant, mode: Mode) -> None:
    (outcome,) = await tenant.apply(mode, record(0))

    assert outcome.status == 201
    assert await tenant.stored() == {1: "stored", outcome.key: "sent"}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
async def test_of_many_records_the_newest_stay(tenant: Tenant, table: str) -> None:
    await tenant.connection.execute(table)
    keys = [*range(60, 30, -1), *range(2, 31)]
    ages = {key: (EARLY, STORED, LATE)[key % 3] for key in keys}
    await tenant.apply(Mode.UPSERT, *(record(key, f"stored {key}", STORED) for key in keys[::2]))

    told = await tenant.told(Mode.NEWEST, *(record(key, f"sent {key}", ages[key]) for key in keys))

    is_known = dict.fromkeys(keys[::2], True)
    expected = [201 if key not in is_known else 409 if ages[key] < STORED else 200 for key in keys]
    assert told == expected
    assert await tenant.stored() == {1: "stored"} | {
        key: f"stored {key}" if status == 409 else f"sent {key}"
        for key, status in sorted(zip(keys, told, strict=True))
    }


async def test_of_records_without_a_key_none_that_is_taken_is_told(tenant: Tenant) -> None:
    """What newest leaves must not pass for one that was created."""
    await tenant.connection.execute(
        f"insert into {TABLE} ({TABLE}_key, comment, entry_date, update_date)"
        " values (2, 'stored', now(), 'infinity'), (3, 'stored', now(), 'infinity')"
    )

    outcomes = await tenant.apply(Mode.NEWEST, record(0), record(0), record(0))

    keys = [outcome.key for outcome in outcomes]
    assert len(set(keys) - {1, 2, 3}) == 3
    assert await tenant.stored() == {1: "stored", 2: "stored", 3: "stored"} | dict.fromkeys(
        keys, "sent"
    )


@pytest.mark.parametrize("date", [datetime.min, datetime.max], ids=["first", "last"])
async def test_the_ends_of_time_compare_as_dates(tenant: Tenant, date: datetime) -> None:
    """asyncpg sends them as infinities."""
    item = record(5, "sent", date.replace(tzinfo=UTC))

    told = [await tenant.told(Mode.NEWEST, item) for _ in range(2)]
    several = await tenant.told(Mode.NEWEST, item, record(6))

    assert (told, several) == ([[201], [200]], [200, 201])


LOST = {
    Mode.UPSERT: (record(2), [200], {1: "stored", 2: "sent"}),
    Mode.NEWEST: (record(2), [200], {1: "stored", 2: "sent"}),
    Mode.CREATE: (record(2), [201], {1: "stored", 2: "sent"}),
    Mode.REPLACE: (record(1), [200], {1: "sent"}),
    Mode.DELETE: (record(1), [204], {}),
}


@pytest.mark.parametrize("mode", LOST.keys())
async def test_after_a_lost_answer_the_second_attempt_says_what_the_first_did(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    item, told, stored = LOST[mode]

    with tenant.answer_lost(monkeypatch):
        assert await tenant.told(mode, item) == told

    assert await tenant.stored() == stored


async def test_what_was_lost_for_one_record_says_nothing_of_the_next(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tenant.answer_lost(monkeypatch):
        await tenant.apply(Mode.DELETE, record(1))

    assert await tenant.told(Mode.DELETE, record(1)) == [404]


async def test_what_is_created_and_sent_again_under_its_name_is_created(tenant: Tenant) -> None:
    digest = uuid4()
    first, again = (
        make_batch(lambda: whole((), digest), mode=Mode.CREATE, key="a key") for _ in range(2)
    )

    told = [await tenant.told(Mode.CREATE, record(2), batch=batch) for batch in (first, again)]

    assert told == [[201], [201]]
    # Of another name it is another.
    assert await tenant.told(Mode.CREATE, record(2)) == [409]


@pytest.mark.parametrize("mode", [Mode.CREATE, Mode.REPLACE, Mode.DELETE])
async def test_in_a_batch_each_item_goes_by_itself(tenant: Tenant, mode: Mode) -> None:
    items = [record(key) for key in (3, 1, 2, 1)]

    told = await tenant.told(mode, *items)

    assert (
        told
        == {
            Mode.CREATE: [201, 409, 201, 409],
            Mode.REPLACE: [404, 200, 404, 200],
            Mode.DELETE: [404, 204, 404, 404],
        }[mode]
    )


@pytest.mark.xfail(
    citus.URL is not None,
    reason="Citus takes a foreign key of a local table and does not check it",
    strict=True,
)
async def test_what_others_refer_to_is_not_deleted(tenant: Tenant) -> None:
    await tenant.apply(Mode.UPSERT, record(2), record(3))
    await tenant.connection.execute(
        f"create table child (trial integer references {TABLE} deferrable initially deferred,"
        f" other integer references {TABLE});"
        "insert into child values (1, null), (null, 2)"
    )

    told = await tenant.told(Mode.DELETE, record(1), record(2), record(3))

    assert told == [409, 409, 204]
    assert set(await tenant.stored()) == {1, 2}


async def test_a_trigger_that_keeps_a_record_is_told(tenant: Tenant) -> None:
    await trigger(tenant, "delete", "return null;")

    (outcome,) = await tenant.apply(Mode.DELETE, record(1))

    assert (outcome.status, outcome.body) == (409, "A database trigger prevented the deletion.")


async def test_the_date_that_counts_is_the_one_that_was_sent(tenant: Tenant) -> None:
    await trigger(tenant, "insert", "new.update_date := now(); return new;")

    assert await tenant.told(Mode.NEWEST, record(1, update_date=EARLY)) == [409]


@pytest.mark.parametrize("date", [EARLY, LATE], ids=["older", "newer"])
async def test_a_record_that_row_level_security_hides_is_refused_whatever_its_date(
    tenant: Tenant, date: datetime
) -> None:
    await tenant.connection.execute(
        f"alter table {TABLE} enable row level security, force row level security;"
        f"create policy hide on {TABLE} using (comment <> 'stored');"
        "do $$ begin execute 'create role ' || quote_ident('hidden_' || current_database())"
        " || ' login'; end $$"
    )
    role = f"hidden_{await tenant.connection.fetchval('select current_database()')}"
    await tenant.connection.execute(
        f"""
        grant select, insert, update on {TABLE} to "{role}";
        grant usage, update on sequence {TABLE}_{TABLE}_key_seq to "{role}"
        """
    )
    try:
        await tenant.connection.execute(f'set session authorization "{role}"')
        ((answer,),) = await tenant.connection.fetch(
            in_schema(APPLY, "public"), [astuple(record(1, "sent", date))], None, "tester", True,
            None, time.time() + 5, "80ms", TRANSIENT_ARRAY, False, Mode.NEWEST,
        )  # fmt: skip
    finally:
        await tenant.connection.execute("reset session authorization")
        await tenant.connection.execute(f'drop owned by "{role}"; drop role "{role}"')

    applied = Answer.from_record(answer)
    assert (applied.states, applied.sqlstates) == ("f", ["42501"])


async def test_a_trigger_that_files_elsewhere_does_not_run_for_what_is_older(
    tenant: Tenant,
) -> None:
    await tenant.connection.execute("create table filed (comment text)")
    await trigger(tenant, "insert", "insert into filed values (new.comment); return new;")

    told = await tenant.told(Mode.NEWEST, record(1, "older", EARLY), record(1, "newer", LATE))

    assert told == [409, 200]
    assert [row["comment"] for row in await tenant.connection.fetch("table filed")] == ["newer"]


@pytest.mark.parametrize("mode", [Mode.UPSERT, Mode.NEWEST, Mode.CREATE, Mode.REPLACE])
async def test_a_trigger_that_keeps_a_record_out_is_told(tenant: Tenant, mode: Mode) -> None:
    await trigger(tenant, "insert", "return null;")
    key = 1 if mode is Mode.REPLACE else 2

    (outcome,) = await tenant.apply(mode, record(key))

    assert (outcome.status, outcome.body) == (
        409, "A database trigger suppressed the write.",
    )  # fmt: skip


async def test_batches_of_all_modes_at_once_are_told_their_own(tenant: Tenant) -> None:
    """So many wait that they would share statements if they might."""
    batches = [
        (mode, record(10 * number + at + 100))
        for number in range(20)
        for at, mode in enumerate(MODES)
    ]
    await tenant.apply(Mode.UPSERT, *(item for _, item in batches[::2]))
    is_known = [at % 2 == 0 for at in range(len(batches))]

    told = await asyncio.gather(*(tenant.told(mode, item) for mode, item in batches))

    statuses = {
        Mode.UPSERT: (201, 200),
        Mode.NEWEST: (201, 200),
        Mode.CREATE: (201, 409),
        Mode.REPLACE: (404, 200),
        Mode.DELETE: (404, 204),
    }
    assert told == [
        [statuses[mode][known]] for (mode, _), known in zip(batches, is_known, strict=True)
    ]
