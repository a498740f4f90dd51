"""What a tenant's triggers may do."""
# ruff: noqa: S608 (the statements are made of constants)

from tests.model.constraints import COUNTED, UNIQUE
from tests.model.tables import (
    KEY_COLUMN,
    REWRITTEN_FROM,
    TABLE,
    Feature,
    function,
    marked,
    trigger,
)

BEFORE = ("before insert", "before update", "before insert or update")
AFTER = ("after insert", "after update", "after insert or update")

CODES = ("P0001", "22023", "23514", "42501", "23505", "P0004", "XX000", "ZZ999", "2200H")
CODES_OF_503 = ("57014", "40001", "53100", "08006", "55P03", "25006", "28000", "58030", "57P01")

VALUES = [
    "new.study_drug := upper(new.comment);",
    f"new.study_drug := (select count(*) from {TABLE})::text;",
    f"new.study_drug := (select max(other.study_drug::integer) + 1 from {TABLE} as other)::text;"
    " new.study_drug := coalesce(new.study_drug, '1');",
]

LOG = "create table tenant.log (id integer generated always as identity, what text);\n"


def _refusing(kind: str, code: str, moment: str, most: int | None = None) -> Feature:
    body = f"raise exception 'refused' using errcode = '{code}';"
    ddl = trigger("refuse", moment, body, marked="refuse")
    return Feature(kind, ddl, marked("refuse"), met_at_most=most)


def _late(condition: str, code: str) -> str:
    body = f"if {condition} then raise exception 'late' using errcode = '{code}'; end if;"
    return (
        f"{function('late', f'{body} return null;')};\n"
        f"create constraint trigger late after insert or update on {TABLE}"
        " deferrable initially deferred for each row execute function tenant.late()"
    )


TRIGGERS = [
    *(_refusing("trigger refuses", code, moment) for code in CODES for moment in BEFORE + AFTER),
    *(_refusing("trigger refuses with 55000", "55000", moment) for moment in BEFORE + AFTER),
    *(
        Feature("deferred constraint trigger", _late(condition, code), fields)
        for code in ("P0001", "23514", "23505")
        for condition, fields in (
            ("new.disease = 'late'", marked("late")),
            (f"(select count(*) from {TABLE} as o where o.location = new.location) > 2", COUNTED),
        )
    ),
    *(
        Feature(
            "trigger suppresses",
            trigger("suppress", moment, "return null;", marked="suppress"),
            marked("suppress"),
        )
        for moment in BEFORE
    ),
    *(
        Feature(
            "trigger redirects",
            "create table tenant.elsewhere (id integer generated always as identity, what text);\n"
            + trigger(
                "redirect",
                moment,
                "insert into tenant.elsewhere (what) values (new.comment); return null;",
                marked="redirect",
            ),
            marked("redirect"),
        )
        for moment in BEFORE
    ),
    *(
        Feature(
            "trigger rewrites a value",
            trigger("rewrite", moment, f"{value} return new;"),
            {"study_Drug": lambda mix: "1"},
        )
        for moment in BEFORE
        for value in VALUES
    ),
    *(
        Feature(
            "trigger rewrites the key",
            f"create sequence tenant.keys start {REWRITTEN_FROM};\n"
            + trigger(
                "rewrite_key",
                "before insert",
                f"new.{KEY_COLUMN} := {key}; return new;",
                marked=mark,
            ),
            marked("rewrite"),
            # A trigger cannot move a row to another partition.
            goes_with_partitions=False,
            rewrites_keys=True,
        )
        for key in ("nextval('tenant.keys')", "7")
        for mark in ("rewrite", None)
    ),
    *(
        Feature(
            "trigger deletes another record",
            trigger(
                "delete_other",
                moment,
                f"delete from {TABLE} as other where other.{KEY_COLUMN} = new.case_key"
                f" and other.{KEY_COLUMN} <> new.{KEY_COLUMN}; return null;",
            ),
            {"case_Key": lambda mix: mix.keys() if mix.random.random() < 0.3 else None},
        )
        for moment in AFTER
    ),
    # These tell in which order rows came, and how many statements.
    *(
        Feature(
            "audit trigger",
            LOG
            + trigger(
                "log",
                moment,
                "insert into tenant.log (what) values (tg_op || coalesce(new.comment, ''));"
                " return new;",
            ),
        )
        for moment in BEFORE + AFTER
    ),
    Feature(
        "audit trigger",
        LOG
        + trigger(
            "log",
            "after insert",
            "insert into tenant.log (what) values (tg_op); return null;",
            each="statement",
        ),
    ),
    Feature(
        "suppressed redundant updates",
        f"create trigger redundant before update on {TABLE}"
        " for each row execute function suppress_redundant_updates_trigger()",
        {
            "update_Date": lambda mix: "2025-01-02T03:04:05Z",
            "comment": lambda mix: mix.random.choice(["same", "other"]),
        },
    ),
]

SLOW_TRIGGERS = [
    _refusing("trigger refuses for now", code, moment, most=2)
    for code in CODES_OF_503
    for moment in BEFORE + AFTER
]
"""They cost the service's retries."""

OF_ONE_PARTITION = [
    Feature(
        "of one partition",
        f"create unique index on {TABLE}_0 (protocol_number)",
        UNIQUE,
        depends_on_keys=True,
    ),
    Feature(
        "of one partition",
        trigger(
            "suppress_here", "before insert", "return null;", marked="suppress", table=f"{TABLE}_0"
        ),
        marked("suppress"),
        depends_on_keys=True,
    ),
]
