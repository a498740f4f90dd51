"""What a tenant may put around the table without a trigger: constraints, policies, sequences."""
# ruff: noqa: S608 (the statements are made of constants)

from tests.model.tables import (
    KEY_COLUMN,
    SEQUENCE,
    TABLE,
    Feature,
    Fields,
    function,
    marked,
    records,
)

DEFERRALS = ("", " deferrable", " deferrable initially deferred")

COUNT = function(
    "same",
    f"return (select count(*) from {TABLE} as other where other.location = place);",
    "place text",
    "bigint",
)

UNIQUE: Fields = {"protocol_Number": lambda mix: mix.few("p")}
COUNTED: Fields = {"location": lambda mix: mix.few("l")}

INDEXES = [
    "(protocol_number)",
    "(protocol_number) where location is null",
    "(protocol_number) nulls not distinct where case_key > 3",
    "(lower(protocol_number))",
    "(protocol_number, location)",
]

CHECKS: list[tuple[str, Fields]] = [
    ("add check (study_length <> 'bad')", {"study_Length": lambda mix: mix.often("bad")}),
    ("add check (100 / case_key > 0)", {"case_Key": lambda mix: mix.random.choice([None, 0, 5])}),
    (
        "alter study_title set not null",
        {"study_Title": lambda mix: None if mix.often(True) else "title"},
    ),
    ("alter website type varchar(5)", {"website": lambda mix: mix.often("too long")}),
]

POLICIES: list[tuple[str, Fields]] = [
    ("using (true) with check (tenant.same(location) < 2)", COUNTED),
    ("using (true) with check (disease is distinct from 'forbidden')", marked("forbidden")),
    ("using (disease is distinct from 'hidden')", marked("hidden")),
]

NUMBERS = [
    f"alter table {TABLE} add number integer generated always as identity",
    "create sequence tenant.numbers;\n"
    f"alter table {TABLE} add number integer default nextval('tenant.numbers')",
    function("rows", f"return (select count(*) from {TABLE});", returns="bigint")
    + f";\nalter table {TABLE} add number bigint default tenant.rows()",
]

THE_LAST_KEY = f"""
    ;insert into {TABLE} ({KEY_COLUMN}, study_title, entry_date, update_date)
    values (2147483647, 'old', '2020-01-01Z', '2020-01-01Z')"""

CONSTRAINTS = [
    *(
        Feature(
            "unique index",
            f"create unique index the_unique on {TABLE} {columns}{validity}",
            {**UNIQUE, "location": lambda mix: mix.random.choice([None, "here"])},
            goes_with_partitions=False,
        )
        for columns in INDEXES
        # A failed "create index concurrently" leaves one that is invalid and refuses all the same.
        for validity in (
            "",
            ";\nupdate pg_index set indisvalid = false where indexrelid = 'the_unique'::regclass",
        )
    ),
    *(
        Feature(
            "exclusion constraint",
            f"alter table {TABLE} add exclude using {method} (protocol_number with =){deferral}",
            UNIQUE,
            goes_with_partitions=False,
        )
        for method in ("btree", "hash")
        for deferral in DEFERRALS
    ),
    *(
        Feature(
            "deferrable unique constraint",
            f"alter table {TABLE} add unique (protocol_number){deferral}",
            UNIQUE,
            goes_with_partitions=False,
        )
        for deferral in DEFERRALS[1:]
    ),
    *(Feature("check", f"alter table {TABLE} {change}", fields) for change, fields in CHECKS),
    *(
        Feature(
            "check that counts",
            f"{COUNT};\nalter table {TABLE} add check (tenant.same(location) < {most})",
            COUNTED,
        )
        for most in (1, 2, 3)
    ),
    *(
        Feature(
            "foreign key",
            "create table tenant.cases (case_key integer primary key);\n"
            "insert into tenant.cases select generate_series(1, 5);\n"
            f"alter table {TABLE} add foreign key (case_key) references tenant.cases{deferral}",
            {"case_Key": lambda mix: mix.often(6) or mix.random.choice([None, 1, 5])},
        )
        for deferral in DEFERRALS
    ),
    *(
        Feature(
            "foreign key to itself",
            f"alter table {TABLE} add foreign key (case_key) references {TABLE}{deferral}",
            {"case_Key": lambda mix: mix.random.choice([None, mix.keys()])},
        )
        for deferral in DEFERRALS
    ),
    *(
        Feature(
            "row-level security",
            f"{COUNT};\nalter table {TABLE} enable row level security;\n"
            f"create policy the_policy on {TABLE} {policy}",
            fields,
        )
        for policy, fields in POLICIES
    ),
    *(
        Feature(
            "keys hidden by row-level security",
            f"{records('true', last, 'hidden')};\n"
            f"alter table {TABLE} enable row level security;\n"
            f"create policy hide on {TABLE} using (disease is distinct from 'hidden')",
            is_met_by_key_0=True,
        )
        for last in (1, 5, 40)
    ),
    *(
        Feature(
            "keys ahead of the sequence",
            f"{records(taken, last)}{more}",
            is_met_by_key_0=True,
        )
        for last in (3, 30, 300, 3000)
        for taken in ("n % 10 <> 0", "true", "n % 2 = 1", "n > 2")
        for more in ("", THE_LAST_KEY)
    ),
    *(
        Feature(
            "sequence of the tenant's own",
            f"alter sequence {SEQUENCE} {change};\n{records(taken, 10)}",
            is_met_by_key_0=True,
        )
        for change in (
            *("increment by 2", "increment by 3", "cache 7"),
            "increment by 10 start with 5 restart",
        )
        for taken in ("false", "true", "n % 3 = 0")
    ),
    *(Feature("numbered rows", number, goes_with_partitions=False) for number in NUMBERS),
]
