"""SQLSTATE to item status and message (contract section 1, "Response: 207").

Codes and classes: PostgreSQL documentation, appendix A "PostgreSQL Error Codes".
"""

import asyncpg

from .wire import Item

MESSAGE_LENGTH = 500
"""Characters of PostgreSQL's message that an outcome carries at most: a trigger writes
what it likes."""

STATUS_BY_CODE = {
    "23502": 400,  # not null violation
    "23514": 400,  # check violation
    "P0001": 400,  # raise exception
    "44000": 400,  # with check option violation
    "42501": 403,  # insufficient privilege, row-level security
    "23503": 409,  # foreign key violation
    "23505": 409,  # unique violation
    "23P01": 409,  # exclusion violation
}

STATUS_BY_CLASS = {
    "22": 400,  # data exception
    "08": 503,  # connection exception
    "25": 503,  # invalid transaction state: read-only transaction
    "28": 503,  # invalid authorization: the service's own credentials
    "3D": 503,  # invalid catalog name: the database is gone
    "40": 503,  # transaction rollback: deadlock, serialization failure
    "53": 503,  # insufficient resources: disk full, too many connections
    "55": 503,  # object not in prerequisite state: lock not available
    "57": 503,  # operator intervention: shutdown, timeout
    "58": 503,  # system error: I/O
}

NOT_OF_AN_ITEM = [*(code for code, status in STATUS_BY_CLASS.items() if status == 503), "XX"]
"""Classes of errors in which the database is ill, not an item; XX is an internal error."""

SCHEMA_IS_OLD = {"42P01", "42703", "42704", "42883"}
"""Undefined table, column, object (type), function."""

SCHEMA_HINT = "item failed: the schema is not current; run: python -m service migrate"

REASON_BY_CODE = {
    "25006": "The database is read-only: a standby, or a primary that was demoted",
    "53100": "The database's disk is full",
    "53300": "The database has too many connections",
    "55P03": "Somebody else holds a lock for too long",
    "57014": "The statement took longer than the database allows",
    "3D000": "The database does not exist at its server",
    "57P03": "The database is starting up or shutting down",
}
REASON_BY_CLASS = {
    "28": "The database refused the service's own credentials",
    "40": "The item met others' changes to the same records again and again",
}

_JSON_NAMES = dict(zip(Item.__struct_fields__, Item.__struct_encode_fields__, strict=True))


def status_of(sqlstate: str) -> int:
    """Return the status of an item that failed with this SQLSTATE."""
    return STATUS_BY_CODE.get(sqlstate) or STATUS_BY_CLASS.get(sqlstate[:2], 500)


def reason_of(sqlstate: str) -> str:
    """Return why an item gets a 503, for its caller and for the operator."""
    return (
        REASON_BY_CODE.get(sqlstate)
        or REASON_BY_CLASS.get(sqlstate[:2])
        or "The database is overloaded or not ready"
    )


def sqlstate_of(error: asyncpg.PostgresError) -> str:
    """Return the error's SQLSTATE, XX000 (internal error) where the server sent none."""
    return error.sqlstate or "XX000"


def message_of(message: str, column: str | None) -> str:
    """Return an outcome's message: the JSON field, where PostgreSQL names it, and the reason."""
    if column in _JSON_NAMES:
        message = f"{_JSON_NAMES[column]}: {message}"
    return message if len(message) <= MESSAGE_LENGTH else message[: MESSAGE_LENGTH - 1] + "…"
