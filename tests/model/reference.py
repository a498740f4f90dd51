"""The contract's definition of a batch, as a program: its items one after another.

It works on a database of its own, the twin of the service's, and asks PostgreSQL alone what a
statement does; here stands only what the contract says about it (section 1: "The batch", "Item
fields", "Response: 207"). It shares nothing with the service, neither code nor statements.
"""
# ruff: noqa: S608 (the statements are made of the constants below)

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

CALLER = "tester"
"""The user name in the token with which batches are sent."""

COLUMNS = {
    "careCaseClinicalTrial_Key": "care_case_clinical_trial_key",
    "careCaseClinicalTrialArm_ID": "care_case_clinical_trial_arm_id",
    "careCaseClinicalTrialReason_ID": "care_case_clinical_trial_reason_id",
    "careCaseClinicalTrialStudyPhase_ID": "care_case_clinical_trial_study_phase_id",
    "case_Key": "case_key",
    "comment": "comment",
    "disease": "disease",
    "entry_Date": "entry_date",
    "entry_User": "entry_user",
    "inclusionExclusion": "inclusion_exclusion",
    "location": "location",
    "protocol_Number": "protocol_number",
    "study_Drug": "study_drug",
    "study_Length": "study_length",
    "study_Title": "study_title",
    "update_Date": "update_date",
    "update_User": "update_user",
    "website": "website",
}
"""The columns by their names on the wire."""

KEY = "careCaseClinicalTrial_Key"
SET_ONCE = ("entry_Date", "entry_User")
REPLACED = [name for name in COLUMNS if name not in (KEY, *SET_ONCE)]
DEFAULTS = {
    "entry_Date": "now()",
    "entry_User": f"'{CALLER}'",
    "update_Date": "now()",
    "update_User": f"'{CALLER}'",
}

STATUSES = {
    "2200H": 500,  # a sequence at its end
    "22": 400,
    "23502": 400,
    "23514": 400,
    "44000": 400,
    "P0001": 400,
    "42501": 403,
    "23503": 409,
    "23505": 409,
    "23P01": 409,
    "55000": 409,
    **dict.fromkeys(("08", "25", "28", "3D", "40", "53", "55", "57", "58"), 503),
}
"""By SQLSTATE, else by its class; 500 for all others."""


@dataclass(frozen=True)
class Item:
    """An item as it goes on the wire, and what it means.

    ``meaning`` has the values of the fields that are sent, by their names on the wire, dates in a
    form that PostgreSQL reads; None: the item is not valid. ``key`` is what its outcome reports:
    an integer, None where it cannot be read, ``...`` where the contract leaves it open.
    """

    wire: Any
    meaning: Mapping[str, Any] | None
    key: Any

    @property
    def draws_key(self) -> bool:
        """Whether the database is to give it a key."""
        return self.meaning is not None and self.key == 0


@dataclass(frozen=True)
class Outcome:
    """What an item is told, the SQLSTATE that is the reason, and the key it is stored under."""

    status: int
    reason: str = ""
    stored_key: int | None = None


def _sent(name: str, position: int) -> str:
    return f"${position}::text::timestamptz" if name.endswith("_Date") else f"${position}"


def _value(name: str, position: int) -> str:
    sent = _sent(name, position)
    return f"coalesce({sent}, {DEFAULTS[name]})" if name in DEFAULTS else sent


INSERT = f"""
    insert into care_case_clinical_trial as stored ({", ".join(COLUMNS.values())})
    values ({", ".join(_value(name, place) for place, name in enumerate(COLUMNS, 1))})"""
ON_CONFLICT = f"""
    on conflict ({COLUMNS[KEY]}) do update
    set {", ".join(f"{COLUMNS[name]} = excluded.{COLUMNS[name]}" for name in REPLACED)}"""
# A query in "returning" sees the table as it was before the statement.
RETURNING = f"""
    returning {COLUMNS[KEY]} as key, exists(
        select from care_case_clinical_trial as before
        where before.{COLUMNS[KEY]} = stored.{COLUMNS[KEY]}
    ) as existed"""
CREATE = INSERT + RETURNING
REPLACE = INSERT + ON_CONFLICT + RETURNING
# A trigger may have led it to another record. (What row-level security hides is refused.)
REPLACE_OLDER = f"""{INSERT} {ON_CONFLICT}
    where row_security_active('care_case_clinical_trial')
        or stored.update_date <= {_sent("update_Date", [*COLUMNS].index("update_Date") + 1)}
    {RETURNING}"""
# Locked, so that the answer stays true.
IS_NEWER = f"""
    select update_date > {_sent("update_Date", 2)} from care_case_clinical_trial
    where {COLUMNS[KEY]} = $1 for no key update"""
# What was not sent and has a default equals whatever is stored.
EQUALS = f"""
    select exists(select from care_case_clinical_trial where {COLUMNS[KEY]} = $1 and {
    " and ".join(
        f"{column} is not distinct from "
        + (f"coalesce({_sent(name, place)}, {column})" if name in DEFAULTS else _sent(name, place))
        for place, name in enumerate(REPLACED, 2)
        for column in [COLUMNS[name]]
    )
})"""


class Reference:
    """Applies batches to the twin, on a connection of the role that the service has."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.connection = connection

    async def apply(
        self,
        batch: Sequence[Item],
        assigned: Sequence[int],
        is_held: Callable[[Item], bool] = lambda item: False,
        *,
        is_newest: bool = False,
    ) -> list[Outcome]:
        """Apply the items in array order; return what they are told.

        ``is_newest``: the batch came with ``Prefer: resolution=newest``.
        ``assigned`` has a key for each item of key 0, ``is_held`` the items that must wait for
        somebody else's lock until patience ends.
        """
        outcomes: list[Outcome] = []
        given_up: set[int] = set()
        async with self.connection.transaction():
            await self.connection.execute("set constraints all immediate")
            for item, key in zip(batch, assigned, strict=True):
                if item.meaning is None or (is_newest and "update_Date" not in item.meaning):
                    outcomes.append(Outcome(400))
                elif item.key in given_up or is_held(item):
                    outcomes.append(Outcome(503))
                else:
                    outcomes.append(await self._apply(item, item.meaning, key, is_newest=is_newest))
                if outcomes[-1].status == 503 and item.key != 0:
                    given_up.add(item.key)
        return outcomes

    async def _apply(
        self, item: Item, meaning: Mapping[str, Any], assigned: int, *, is_newest: bool
    ) -> Outcome:
        row = {**dict.fromkeys(COLUMNS), **meaning, KEY: item.key or assigned}
        try:
            async with self.connection.transaction():  # a savepoint
                if is_newest and await self.connection.fetchval(
                    IS_NEWER, row[KEY], row["update_Date"]
                ):
                    return Outcome(409, "a newer record is stored")
                replace = REPLACE_OLDER if is_newest else REPLACE
                statement = CREATE if item.key == 0 else replace
                stored = await self.connection.fetchrow(statement, *row.values())
            if stored is not None:
                return Outcome(200 if stored["existed"] else 201, stored_key=stored["key"])
            values = [row[name] for name in (KEY, *REPLACED)]
            if item.key != 0 and await self.connection.fetchval(EQUALS, *values):
                return Outcome(200, "suppressed, and equal", item.key)
            return Outcome(409, "suppressed")
        except asyncpg.PostgresError as error:
            sqlstate = error.sqlstate or "XX000"
            return Outcome(STATUSES.get(sqlstate) or STATUSES.get(sqlstate[:2], 500), sqlstate)
