"""All that is known of a SQLSTATE (contract section 1, "Response: 207"), one row each.

Codes and classes: PostgreSQL documentation, appendix A "PostgreSQL Error Codes".
"""

from typing import NamedTuple

from service.wire import Item

MESSAGE_LENGTH = 500
"""Characters of PostgreSQL's message that an outcome carries at most: a trigger writes
what it likes."""


class Meaning(NamedTuple):
    """What an error means: the status of its item, and for 503 what is done and said about it.

    ``is_retried``: it passes, so the statement runs again before anybody is told.
    ``is_contention``: others hold locks, so the next statement may succeed.
    ``ends_call``: the database is ill, not an item, so the other items are not tried.
    ``words``: why, for the caller of a 503 and for the operator of a 500.
    """

    status: int
    words: str = ""
    is_retried: bool = False
    is_contention: bool = False
    ends_call: bool = False


def _item(status: int) -> Meaning:
    """Return the meaning of an error that lies in the item."""
    return Meaning(status)


def _passing(
    words: str = "The database is overloaded or not ready",
    *,
    is_retried: bool = True,
    is_contention: bool = False,
) -> Meaning:
    """Return the meaning of an error that lies in the database and passes."""
    return Meaning(503, words, is_retried, is_contention, ends_call=True)


_SCHEMA = Meaning(500, "item failed: the schema is not current; run: care-trials migrate")
_INTERNAL = Meaning(500, "item failed")

_CONTENTION = "The item met others' changes to the same records again and again"

BY_CODE = {
    "23502": _item(400),  # not null violation
    "23503": _item(409),  # foreign key violation
    "23505": _item(409),  # unique violation
    "23514": _item(400),  # check violation
    "23P01": _item(409),  # exclusion violation
    "25006": _passing("The database is read-only: a standby, or a primary that was demoted"),
    "3D000": _passing("The database does not exist at its server"),
    "40001": _passing(_CONTENTION, is_contention=True),  # serialization failure
    "40P01": _passing(_CONTENTION, is_contention=True),  # deadlock detected
    "42501": _item(403),  # insufficient privilege, row-level security
    "42703": _SCHEMA,  # undefined column
    "42704": _SCHEMA,  # undefined object: a type
    "42883": _SCHEMA,  # undefined function
    "42P01": _SCHEMA,  # undefined table
    "44000": _item(400),  # with check option violation
    "53100": _passing("The database's disk is full"),
    "53300": _passing("The database has too many connections"),
    "55P03": _passing("Somebody else holds a lock for too long", is_contention=True),
    # It has waited long enough, and so has the caller.
    "57014": _passing("The statement took longer than the database allows", is_retried=False),
    "57P03": _passing("The database is starting up or shutting down"),
    "P0001": _item(400),  # raise exception
}

BY_CLASS = {
    "08": _passing(),  # connection exception
    "22": _item(400),  # data exception
    "25": _passing(),  # invalid transaction state
    "28": _passing("The database refused the service's own credentials"),
    "3D": _passing(),  # invalid catalog name
    "40": _passing(_CONTENTION),  # transaction rollback
    "53": _passing(),  # insufficient resources
    "55": _passing(),  # object not in prerequisite state
    "57": _passing(),  # operator intervention: shutdown
    "58": _passing(),  # system error: I/O
    "XX": Meaning(500, "item failed", ends_call=True),  # internal error
}

READ_ONLY = "25006"
"""The connection leads to a server that was demoted; others of its pool may too."""

UNKNOWN = "XX000"
"""Stands for an error to which the server gave no code."""

SUPPRESSED = "00000"
"""Stands for a row that a trigger kept out without an error."""

NOT_RUNNABLE = "42"
"""Class of errors that lie in the statement, which fails for every row: for want of a migration
or a privilege."""

COMMIT_UNKNOWN = ("08", "57")
"""Classes of errors after which a COMMIT may have been done all the same."""

ENDING_CLASSES = sorted(name for name, meaning in BY_CLASS.items() if meaning.ends_call)

_JSON_NAMES = dict(zip(Item.__struct_fields__, Item.__struct_encode_fields__, strict=True))


def meaning_of(sqlstate: str) -> Meaning:
    """Return what is known of this SQLSTATE, 500 where nothing is."""
    return BY_CODE.get(sqlstate) or BY_CLASS.get(sqlstate[:2], _INTERNAL)


def sqlstate_of(error: Exception) -> str:
    """Return the error's SQLSTATE, where the server sent one."""
    return getattr(error, "sqlstate", None) or UNKNOWN


def message_of(message: str, column: str | None) -> str:
    """Return an outcome's message: the JSON field, where PostgreSQL names it, and the reason."""
    if column in _JSON_NAMES:
        message = f"{_JSON_NAMES[column]}: {message}"
    return message if len(message) <= MESSAGE_LENGTH else message[: MESSAGE_LENGTH - 1] + "…"
