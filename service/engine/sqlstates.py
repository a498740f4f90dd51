"""The meaning of each SQLSTATE (contract section 1, "Response: 207").

Codes and classes: PostgreSQL documentation, appendix A "PostgreSQL Error Codes".
"""

import re
from typing import NamedTuple

from service.wire import Item, shorten_message


class Meaning(NamedTuple):
    """Meaning of an error: the item's status, its message, and what the service does.

    ``is_transient``: it does not lie in an item, so the item is left for another statement.
    ``is_retried``: the same may succeed a moment later, so it is tried before anybody is told.
    ``is_stale``: the connection may remember something that was dropped and recreated since, such
    as a type after a restore; a new connection does not.
    ``message``: why, for the caller of a 503 and for the operator of a 500.
    """

    status: int
    message: str = "item failed"
    is_transient: bool = False
    is_retried: bool = False
    is_stale: bool = False


def _transient(message: str = "The database is overloaded or not ready") -> Meaning:
    return Meaning(503, message, is_transient=True, is_retried=True)


_BAD_VALUE = Meaning(400)
_REFUSED = Meaning(403)
_CONFLICT = Meaning(409)
_CONTENTION = _transient("Repeated conflicts with concurrent changes")
_SCHEMA = Meaning(
    500, "item failed: the schema is not current; run: care-trials migrate", is_stale=True
)
_INTERNAL = Meaning(500)

BY_CODE = {
    "0A000": Meaning(500, is_stale=True),  # feature not supported: a cached plan must not change
    # The sequence is at its end; no item is to blame, and no retry helps.
    "2200H": Meaning(500, "item failed: the key sequence is at its end; give it other bounds"),
    "23502": _BAD_VALUE,  # not null violation
    "23503": _CONFLICT,  # foreign key violation
    "23505": _CONFLICT,  # unique violation
    "23514": _BAD_VALUE,  # check violation
    "23P01": _CONFLICT,  # exclusion violation
    "25006": _transient("The database is read-only: a standby, or a primary that was demoted"),
    "3D000": _transient("The database does not exist on its server"),
    "42501": _REFUSED,  # insufficient privilege, row-level security
    "42703": _SCHEMA,  # undefined column
    "42704": _SCHEMA,  # undefined object: a type
    "42883": _SCHEMA,  # undefined function
    "42P01": _SCHEMA,  # undefined table
    "44000": _BAD_VALUE,  # with check option violation
    "53100": _transient("The database's disk is full"),
    "53300": _transient("The database has too many connections"),
    "55000": _CONFLICT,  # object not in prerequisite state: what triggers raise for "closed"
    "55P03": _transient("Timed out waiting for a lock"),  # lock not available
    # It has waited long enough, and so has the caller.
    "57014": Meaning(503, "The statement took longer than the database allows", is_transient=True),
    "57P03": _transient("The database is starting up or shutting down"),
    # Our own: care_case_clinical_trial_apply_items() does not run at another isolation level.
    "CT001": Meaning(
        500,
        "item failed: alter role … set default_transaction_isolation = 'read committed'",
    ),
    "CT002": Meaning(
        500,
        "item failed: grant select, insert, delete on care_case_clinical_trial_receipt to the"
        " service's role",
    ),
    # Our own: another statement of the same request is running.
    "CT003": _transient("A request with the same Idempotency-Key is still in progress"),
    "P0001": _BAD_VALUE,  # raise exception
}

BY_CLASS = {
    "08": _transient(),  # connection exception
    "22": _BAD_VALUE,  # data exception
    "25": _transient(),  # invalid transaction state
    "28": _transient("The database rejected the service's credentials"),
    "3D": _transient(),  # invalid catalog name
    "40": _CONTENTION,  # transaction rollback: deadlock, serialization failure
    "53": _transient(),  # insufficient resources
    "55": _transient(),  # object not in prerequisite state: in use
    "57": _transient(),  # operator intervention: shutdown
    "58": _transient(),  # system error: I/O
    # Internal error: "cache lookup failed for type" among others.
    "XX": Meaning(500, is_transient=True, is_retried=True, is_stale=True),
}

LOCK_NOT_AVAILABLE = "55P03"
READ_ONLY = "25006"
TIMED_OUT = "57014"

UNKNOWN = "XX000"
"""Stands for an error to which the server gave no code."""

_WORKER_LOST = "08006"
_WORKER_ERRORS = "connection marked as essential"
"""Part of Citus's message for an internal error that means a lost worker."""

NOT_RUNNABLE = ("42", "CT")
"""Classes of errors that lie in the statement, which fails for every row: for want of a migration,
a privilege or a setting of the role."""

NO_PRIVILEGE = "42501"

STILL_RUNNING = "CT003"

NO_RECEIPTS = "CT002"
"""Stands for a missing privilege on the receipts, which is not the item's 403."""

_NULL_COLUMN = re.compile('null value in column "([^"]+)"')
"""Start of a not-null error: a worker of Citus names the column only there."""

_JSON_NAMES = dict(zip(Item.__struct_fields__, Item.__struct_encode_fields__, strict=True))


def get_meaning(sqlstate: str) -> Meaning:
    """Return the meaning of this SQLSTATE; 500 if it is unknown."""
    return BY_CODE.get(sqlstate) or BY_CLASS.get(sqlstate[:2], _INTERNAL)


TRANSIENT = sorted(
    {code for code, meaning in BY_CODE.items() if meaning.is_transient}
    | {name for name, meaning in BY_CLASS.items() if meaning.is_transient and name != "55"}
    | {"55006", "55P02", "55P04"}
)
"""Codes and classes for which a statement leaves the item; of class 55 all codes but 55000."""

TRANSIENT_ARRAY = f"{{{','.join(TRANSIENT)}}}"
"""The same as PostgreSQL writes an array."""


def get_sqlstate(error: Exception) -> str:
    """Return the error's SQLSTATE; UNKNOWN if the server sent none."""
    sqlstate = getattr(error, "sqlstate", None) or UNKNOWN
    return _WORKER_LOST if sqlstate == UNKNOWN and _WORKER_ERRORS in str(error) else sqlstate


def format_message(message: str, column: str | None) -> str:
    """Return an outcome's message: the JSON field, if PostgreSQL names it, and the reason."""
    if not column and (found := _NULL_COLUMN.match(message)):
        column = found[1]
    if column in _JSON_NAMES:
        message = f"{_JSON_NAMES[column]}: {message}"
    return shorten_message(message or "The database rejected the item.")
