"""The table of a tenant, and what a tenant puts around it, as the statements that make it.

All that is the tenant's own lies in the schema ``tenant``; ``pristine.record`` has the form that
the migrations give to the table.
"""
# ruff: noqa: S608 (the statements are made of constants)

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

TABLE = "care_case_clinical_trial"
KEY_COLUMN = f"{TABLE}_key"
SEQUENCE = f"{TABLE}_{KEY_COLUMN}_seq"

PARTITIONS = "partitions"
HELD = "held by a stranger"

REWRITTEN_FROM = 1_000_000
"""A trigger that draws keys of its own draws them from here on; no batch names one of them."""


@dataclass(frozen=True)
class Mix:
    """What the values of a batch's items are chosen from."""

    random: Random
    size: int
    keys: Callable[[], int]

    def few(self, prefix: str) -> str:
        """Return a text of which some others in the batch are equals."""
        return f"{prefix}{self.random.randrange(2 + self.size)}"

    def often(self, value: Any) -> Any:
        """Return the value or None; rarely the value where the batch is large."""
        return value if self.random.random() < (0.4 if self.size < 50 else 0.02) else None


Fields = Mapping[str, Callable[[Mix], Any]]


@dataclass(frozen=True)
class Feature:
    """Something of the tenant's own, and by which fields an item meets it."""

    kind: str
    ddl: str
    fields: Fields = field(default_factory=dict, repr=False, compare=False)
    goes_with_partitions: bool = True
    rewrites_keys: bool = False
    depends_on_keys: bool = False
    """So that a key-0 item that fails cannot be foretold: which key it had is not told."""
    is_met_by_key_0: bool = False
    """So that a batch should have some."""
    met_at_most: int | None = None
    """By how many items of a batch: several 503 in a row end a batch."""


@dataclass(frozen=True)
class Stranger:
    """An open transaction of somebody else's, and the field by which an item waits for it."""

    statement: str
    name: str
    value: Any


@dataclass(frozen=True)
class Table:
    """The table with all that is around it."""

    partitions: int = 0
    features: tuple[Feature, ...] = ()
    stranger: Stranger | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What makes it other than an ordinary table."""
        return (
            *([PARTITIONS] if self.partitions else []),
            *(feature.kind for feature in self.features),
            *([HELD] if self.stranger else []),
        )

    @property
    def features_ddl(self) -> str:
        """The statements that make its features."""
        return ";\n".join(feature.ddl for feature in self.features)

    @property
    def ddl(self) -> str:
        """The statements that make it, bare of features."""
        if not self.partitions:
            return f"create table {TABLE} (like pristine.record including all)"
        # An identity column of a partitioned table came with PostgreSQL 17.
        return "; ".join(
            [
                f"create table {TABLE} (like pristine.record including all excluding identity)"
                f" partition by hash ({KEY_COLUMN})",
                f"create sequence {SEQUENCE} as integer owned by {TABLE}.{KEY_COLUMN}",
                f"alter table {TABLE} alter {KEY_COLUMN} set default nextval('{SEQUENCE}')",
                *(
                    f"create table {TABLE}_{n} partition of {TABLE}"
                    f" for values with (modulus {self.partitions}, remainder {n})"
                    for n in range(self.partitions)
                ),
            ]
        )


def function(name: str, body: str, arguments: str = "", returns: str = "trigger") -> str:
    """Return the statement that makes a function of the tenant's."""
    return (
        f"create function tenant.{name}({arguments}) returns {returns} language plpgsql"
        f" security definer as $$ begin {body} end $$"
    )


def trigger(
    name: str,
    moment: str,
    body: str,
    *,
    marked: str | None = None,
    table: str = TABLE,
    each: str = "row",
) -> str:
    """Return the statements that make a trigger, for all items or those with a mark in disease."""
    condition = f" when (new.disease = '{marked}')" if marked else ""
    return (
        f"{function(name, body)};\n"
        f"create trigger {name} {moment} on {table} for each {each}{condition}"
        f" execute function tenant.{name}()"
    )


def marked(text: str) -> Fields:
    """Return how an item gets the mark that a trigger, or a policy, looks for."""
    return {"disease": lambda mix: mix.often(text)}


def records(condition: str, last: int, disease: str = "") -> str:
    """Return the statement that stores records with those keys n up to the last."""
    return (
        f"insert into {TABLE} ({KEY_COLUMN}, study_title, entry_date, update_date, disease)"
        f" select n, 'old', '2020-01-01Z', '2020-01-01Z', nullif('{disease}', '')"
        f" from generate_series(1, {last}) as n where {condition}"
    )
