"""What was once seen to be wrong, one test for each kind; the reference tells what is right."""
# ruff: noqa: S608 (the statements are made of constants)

from collections.abc import Sequence
from typing import Any

import pytest

from tests.model.batches import item
from tests.model.checkout import Twins
from tests.model.examples import Example, report, try_out
from tests.model.reference import KEY, Item
from tests.model.tables import (
    KEY_COLUMN,
    SEQUENCE,
    TABLE,
    Feature,
    Stranger,
    Table,
    function,
    records,
    trigger,
)
from tests.model.tenants import HELD_ROW, HELD_VALUE
from tests.support import citus

UNIQUE = f"create unique index the_unique on {TABLE} (protocol_number)"
CHECK = f"alter table {TABLE} add check (study_length <> 'bad')"
BAD = {"study_Length": "bad"}


def record(key: int, protocol: str | None = None, **fields: Any) -> Item:
    """Return an item with a value for the column that is unique in many of these tables."""
    return item({KEY: key, "protocol_Number": protocol, **fields})


def created(*keys: int) -> list[Item]:
    """Return items of these keys."""
    return [record(key) for key in keys]


def prove(
    twins: Twins,
    *batches: Sequence[Item],
    ddl: str = "",
    table: Table | None = None,
    restored_before: int | None = None,
) -> list[list[int]]:
    """Return what the items of each batch were told, once that is what the reference tells."""
    table = table or Table(features=(Feature("of this test", ddl),) if ddl else ())
    example = Example(table, batches, restored_before)
    trial = twins.run(try_out(twins, example))
    assert not trial.differences, report(example, trial.differences)
    return [[status for _, status, _ in told] for told in trial.told]


# Key 0


def test_a_drawn_key_is_none_that_the_batch_names_later(twins: Twins) -> None:
    batch = created(0, *range(1000, 2500), 1)

    (statuses,) = prove(twins, batch)

    assert statuses == [201] * 1502


def test_a_drawn_key_is_none_that_the_batch_names_anywhere(twins: Twins) -> None:
    batch = [*created(*[0] * 700), *created(*range(1, 2000))]

    (statuses,) = prove(twins, batch)

    assert set(statuses) == {201}


@pytest.mark.parametrize("key", ["nextval('tenant.keys')", "7"])
def test_a_trigger_may_set_the_key_of_a_new_record(twins: Twins, key: str) -> None:
    body = f"new.{KEY_COLUMN} := {key}; return new;"
    ddl = "create sequence tenant.keys start 1000000;" + trigger(
        "rewrite_key", "before insert", body
    )
    table = Table(features=(Feature("of this test", ddl, rewrites_keys=True),))

    (statuses,) = prove(twins, created(0, 0, 0), table=table)

    assert statuses == ([201] * 3 if "nextval" in key else [201, 409, 409])


@pytest.mark.parametrize(
    "body",
    ["return null;", "insert into tenant.elsewhere values (new.comment); return null;"],
    ids=["suppressed", "redirected"],
)
def test_a_new_record_that_a_trigger_keeps_out_costs_no_keys(twins: Twins, body: str) -> None:
    ddl = (
        "create table tenant.elsewhere (comment text);"
        + records("n = 5", 5)
        + f"; update {TABLE} set {KEY_COLUMN} = 2147483647;"
        + trigger("suppress", "before insert", body, marked="suppress")
    )
    batch = [record(0, disease="suppress", comment="once"), record(0)]

    (first, second) = prove(twins, batch, created(0), ddl=ddl)

    assert (first, second) == ([409, 201], [201])


@pytest.mark.parametrize(("last", "number"), [(300, 30), (10_000, 500)])
def test_new_records_find_the_gaps_between_taken_keys(twins: Twins, last: int, number: int) -> None:
    (statuses,) = prove(twins, created(*[0] * number), ddl=records("n % 10 <> 0", last))

    assert statuses == [201] * number


@pytest.mark.parametrize("partitions", [0, 2])
def test_new_records_pass_by_keys_that_row_level_security_hides(
    twins: Twins, partitions: int
) -> None:
    ddl = (
        f"{records('true', 300, 'hidden')}; alter table {TABLE} enable row level security;"
        f" create policy hide on {TABLE} using (disease is distinct from 'hidden')"
    )

    (statuses,) = prove(
        twins, created(0, 0, 0), table=Table(partitions, (Feature("of this test", ddl),))
    )

    assert statuses == [201] * 3


def test_a_sequence_keeps_its_parity(twins: Twins) -> None:
    ddl = f"alter sequence {SEQUENCE} increment by 2; {records('true', 10)}"

    (first, second) = prove(twins, created(0, 0), created(0), ddl=ddl)

    assert (first, second) == ([201, 201], [201])


# What fails for one item


def test_what_is_stored_is_told_when_another_item_waits_in_vain(twins: Twins) -> None:
    features = (Feature("of this test", f"{UNIQUE}; {CHECK}"),)
    batch = [record(0, **BAD), *created(*[0] * 68), record(0, "held")]

    (statuses,) = prove(twins, batch, table=Table(features=features, stranger=HELD_VALUE.stranger))

    assert statuses == [400, *[201] * 68, 503]


CASES = "create table tenant.cases (case_key integer primary key);"
REFUSE = {"disease": "refuse"}
TAKEN = {"protocol_Number": "taken"}
ROW_LEVEL_SECURITY = f"alter table {TABLE} enable row level security; create policy own on {TABLE}"


@pytest.mark.parametrize(
    ("ddl", "fields", "status"),
    [
        (CHECK, BAD, 400),
        (f"{CASES} alter table {TABLE} add foreign key (case_key) references tenant.cases",
         {"case_Key": 1}, 409),
        (f"{CASES} alter table {TABLE} add foreign key (case_key) references tenant.cases"
         " deferrable initially deferred", {"case_Key": 1}, 409),
        (f"alter table {TABLE} add unique (protocol_number) deferrable initially deferred",
         TAKEN, 409),
        (f"alter table {TABLE} add exclude (protocol_number with =)", TAKEN, 409),
        (trigger("fail", "before insert", "assert false; return new;", marked="refuse"),
         REFUSE, 500),
        (f"{ROW_LEVEL_SECURITY} using (true) with check (disease is distinct from 'refuse')",
         REFUSE, 403),
        (f"{records('n in (2, 51, 52, 101)', 101, 'hidden')};"
         f"{ROW_LEVEL_SECURITY} using (disease is distinct from 'hidden')", {}, 403),
    ],
    ids=["check", "foreign key", "deferred foreign key", "deferred unique", "exclusion",
         "assertion in a trigger", "row-level security", "hidden record"],
)  # fmt: skip
def test_what_the_database_refuses_fails_alone(
    twins: Twins, ddl: str, fields: dict[str, Any], status: int
) -> None:
    refused = (2, 51, 52, 101)
    batch = [record(key, **(fields if key in refused else {})) for key in range(2, 102)]

    (_, statuses) = prove(twins, [record(1, "taken")], batch, ddl=ddl)

    assert statuses == [status if key in refused else 201 for key in range(2, 102)]


def test_items_of_a_key_beside_bad_ones_of_it_take_effect(twins: Twins) -> None:
    batch = [record(1, f"{place}", **(BAD if place % 2 == 0 else {})) for place in range(5)]

    (statuses,) = prove(twins, batch, ddl=CHECK)

    assert statuses == [400, 201, 400, 200, 400]


@pytest.mark.parametrize("size", [3, 1599])
def test_a_record_that_a_trigger_says_is_closed_is_refused_alone(twins: Twins, size: int) -> None:
    body = "raise exception 'the record is closed' using errcode = '55000';"
    ddl = trigger("refuse", "before insert", body, marked="closed")
    batch = created(*range(1, size + 1))
    batch[1] = record(2, disease="closed")

    (statuses,) = prove(twins, batch, ddl=ddl)

    assert statuses == [201, 409, *[201] * (size - 2)]


def test_a_locked_record_fails_alone(twins: Twins) -> None:
    batch = [*created(*range(1, 41)), record(1, "newer"), record(3, "newer")]

    (statuses,) = prove(twins, batch, table=HELD_ROW)

    assert statuses == [201, 201, 503, *[201] * 37, 200, 503]


def test_a_trigger_that_is_slow_for_many_records_fails_none(twins: Twins) -> None:
    """10 ms for each of 250 rows, where a statement may take 2 seconds."""
    body = "if current_database() !~ 'twin' then perform pg_sleep(0.01); end if; return new;"
    slow = trigger("slow", "before insert", body)
    nobody = Stranger("select", KEY, None)
    table = Table(features=(Feature("of this test", slow),), stranger=nobody)

    (statuses,) = prove(twins, created(*range(1, 251)), table=table)

    assert statuses == [201] * 250


def test_a_record_that_takes_too_long_fails_alone(twins: Twins) -> None:
    slow = trigger("slow", "before insert", "perform pg_sleep(5); return new;", marked="slow")
    too_long = Stranger("select", "disease", "slow")
    table = Table(features=(Feature("of this test", slow),), stranger=too_long)
    batch = created(*range(1, 11))
    batch[4] = record(5, disease="slow")

    (statuses,) = prove(twins, batch, table=table)

    assert statuses == [*[201] * 4, 503, *[201] * 5]


# Order


@pytest.mark.parametrize(
    ("ddl", "batch", "expected"),
    [
        (UNIQUE, [record(2, "x"), record(1, "x")], [201, 409]),
        (UNIQUE, [record(0, "y"), record(5, "y")], [201, 409]),
        (UNIQUE, [record(11, "a"), record(11, "b"), record(12, "a")], [201, 200, 201]),
        (
            UNIQUE,
            [record(21, "p"), record(22, "q"), record(22, "p"), record(21, "r"), record(23, "p")],
            [201, 201, 409, 200, 201],
        ),
        (
            f"{UNIQUE}; {CHECK}",
            [record(1, **BAD), record(2, "w"), *created(*range(3, 901)), record(901, "w")],
            [400, *[201] * 899, 409],
        ),
    ],
    ids=["the second", "the second, named", "given back", "given back later", "far apart"],
)
def test_of_two_that_want_one_value_the_first_gets_it(
    twins: Twins, ddl: str, batch: list[Item], expected: list[int]
) -> None:
    (statuses,) = prove(twins, batch, ddl=ddl)

    assert statuses == expected


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_a_trigger_deletes_may_be_created_by_a_later_item(twins: Twins, moment: str) -> None:
    body = f"delete from {TABLE} as other where other.{KEY_COLUMN} = new.case_key; return new;"
    ddl = trigger("delete_other", f"{moment} insert or update", body)

    (statuses,) = prove(twins, [record(1, case_Key=2), record(2)], ddl=ddl)

    assert statuses == [201, 201]


def test_an_item_that_a_trigger_suppresses_is_told_so_itself(twins: Twins) -> None:
    ddl = trigger("suppress", "before update", "return null;", marked="suppress")

    (statuses,) = prove(twins, [record(1), record(1, disease="suppress"), record(1)], ddl=ddl)

    assert statuses == [201, 409, 200]


@pytest.mark.parametrize("with_bad", [False, True])
@pytest.mark.parametrize("deferral", ["", " deferrable initially deferred"])
def test_a_parent_that_comes_later_comes_too_late(
    twins: Twins, deferral: str, with_bad: bool
) -> None:
    ddl = f"{CHECK}; alter table {TABLE} add foreign key (case_key) references {TABLE}{deferral}"
    batch = [record(11, case_Key=12), record(12), *([record(13, **BAD)] if with_bad else [])]

    (statuses,) = prove(twins, batch, ddl=ddl)

    assert statuses == [409, 201, *([400] if with_bad else [])]


@pytest.mark.parametrize("with_bad", [False, True])
@pytest.mark.parametrize("deferral", ["immediate", "deferred"])
def test_two_records_cannot_swap_a_unique_value(
    twins: Twins, deferral: str, with_bad: bool
) -> None:
    ddl = (
        f"{CHECK}; alter table {TABLE} add unique (protocol_number) deferrable initially {deferral}"
    )
    swap = [record(1, "b"), record(2, "a"), *([record(3, **BAD)] if with_bad else [])]

    (_, statuses) = prove(twins, [record(1, "a"), record(2, "b")], swap, ddl=ddl)

    assert statuses == [409, 409, *([400] if with_bad else [])]


def test_an_update_that_changes_nothing_is_an_update(twins: Twins) -> None:
    ddl = (
        f"create trigger redundant before update on {TABLE} for each row"
        " execute function suppress_redundant_updates_trigger()"
    )
    batch = [record(1, "a", update_Date="2025-01-02T03:04:05Z"), record(2, "b")]

    (first, second) = prove(twins, batch, batch, ddl=ddl)

    assert (first, second) == ([201, 201], [200, 200])


# The table


def test_a_partitioned_table_takes_batches(twins: Twins) -> None:
    batch = created(1, 2, 3, 0, 2, 0)

    (first, second) = prove(twins, batch, created(*range(1, 9)), table=Table(partitions=3))

    assert first == [201, 201, 201, 201, 200, 201]
    assert second.count(200) >= 3


@pytest.mark.parametrize(
    "number",
    [
        "integer generated always as identity",
        "integer default nextval('tenant.numbers')",
        "bigint default tenant.rows()",
    ],
    ids=["identity", "sequence", "count"],
)
def test_a_tenant_may_number_the_records(twins: Twins, number: str) -> None:
    count = function("rows", f"return (select count(*) from {TABLE});", returns="bigint")
    ddl = f"create sequence tenant.numbers; {count}; alter table {TABLE} add number {number}"

    (statuses,) = prove(twins, created(7, 3, 0, 1), ddl=ddl)

    assert statuses == [201] * 4


@pytest.mark.xfail(
    citus.URL is not None,
    reason="the schema is dropped, and what Citus has in it",
    strict=True,
)
def test_a_restored_schema_needs_no_restart(twins: Twins) -> None:
    try:
        (first, second) = prove(twins, created(1, 0), created(1, 0), restored_before=1)
    finally:
        twins.run(twins.restart())

    assert (first, second) == ([201, 201], [201, 201])
