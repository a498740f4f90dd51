"""Tenants' tables: a strategy that puts together what may stand together."""
# ruff: noqa: S608 (the statements are made of constants)

from collections.abc import Collection

from hypothesis import strategies as st

from tests.model.constraints import CONSTRAINTS
from tests.model.tables import (
    HELD,
    KEY_COLUMN,
    PARTITIONS,
    TABLE,
    Feature,
    Stranger,
    Table,
    records,
)
from tests.model.triggers import OF_ONE_PARTITION, SLOW_TRIGGERS, TRIGGERS

RIVALS = [
    {"unique index", "exclusion constraint", "deferrable unique constraint"},
    {"trigger refuses", "trigger refuses with 55000", "trigger refuses for now"},
    {"row-level security", "keys hidden by row-level security", "check that counts"},
    {
        "keys hidden by row-level security",
        "keys ahead of the sequence",
        "sequence of the tenant's own",
    },
]
"""Kinds of which a table has one: their statements use the same names."""

HELD_ROW = Table(
    features=(Feature("a record", records("n = 3", 3)),),
    stranger=Stranger(
        f"select from {TABLE} where {KEY_COLUMN} = 3 for update", "careCaseClinicalTrial_Key", 3
    ),
)
HELD_VALUE = Table(
    features=(
        Feature(
            "unique index",
            f"create unique index on {TABLE} (protocol_number)",
            {"protocol_Number": lambda mix: mix.often("held")},
            met_at_most=2,
        ),
    ),
    stranger=Stranger(
        f"insert into {TABLE} ({KEY_COLUMN}, protocol_number, entry_date, update_date)"
        " values (-77777, 'held', now(), now())",
        "protocol_Number",
        "held",
    ),
)
"""Tables of which somebody else holds a row, or a unique value, in an open transaction."""


@st.composite
def tables(draw: st.DrawFn, without: Collection[str] = (), *, slow: bool = False) -> Table:
    """Return an ordinary table, or one with up to three features, without some kinds.

    ``slow`` allows what makes the service wait and try again.
    """
    if draw(st.integers(0, 4)) == 0:
        return Table()
    if slow and HELD not in without and draw(st.integers(0, 19)) == 19:
        return draw(st.sampled_from([HELD_ROW, HELD_VALUE]))
    partitions = 0 if PARTITIONS in without else draw(st.sampled_from([0] * 9 + [2, 3]))
    if partitions and draw(st.booleans()):
        return Table(partitions, (draw(st.sampled_from(OF_ONE_PARTITION)),))
    known: dict[str, list[Feature]] = {}
    for feature in [*CONSTRAINTS, *TRIGGERS, *(SLOW_TRIGGERS if slow else [])]:
        if feature.kind not in without and (feature.goes_with_partitions or not partitions):
            known.setdefault(feature.kind, []).append(feature)
    features: list[Feature] = []
    for _ in range(draw(st.sampled_from([0, 1] if partitions else [1, 1, 1, 2, 3]))):
        if known:
            kind = draw(st.sampled_from(list(known)))
            features.append(draw(st.sampled_from(known[kind])))
            for rival in {kind}.union(*(rivals for rivals in RIVALS if kind in rivals)):
                known.pop(rival, None)
    # No trigger yet while the records are stored that are there from the beginning.
    features.sort(key=lambda feature: feature not in CONSTRAINTS)
    return Table(partitions, tuple(features))
