"""The raw SQL that the service runs, read once from ``sql/``."""

from pathlib import Path

_INSTALLED = Path(__file__).with_name("sql")

SQL_FOLDER = _INSTALLED if _INSTALLED.exists() else Path(__file__).parents[1] / "sql"
"""Inside the package in a wheel, beside it in a checkout."""


def _read(name: str) -> str:
    return (SQL_FOLDER / f"{name}.sql").read_text()


APPLY = _read("engine/apply")
CLAIM = _read("engine/claim")
CLOCK = _read("engine/clock")
END_SESSION = _read("engine/end_session")
FORGET = _read("engine/forget")
RECEIPTS_KEPT = _read("engine/receipts_kept")

RECORD = _read("reading/record")
PAGE = _read("reading/page")
"""Its ``{order}`` is to be filled in."""

DISTRIBUTE = _read("operations/distribute")
IS_DISTRIBUTED = _read("operations/is_distributed")
CONNECTION_STATE = _read("operations/connection_state")
KEPT_FROM_COMMUTING = _read("operations/kept_from_commuting")
MISSING_PRIVILEGES = _read("operations/missing_privileges")
SERVER_STATE = _read("operations/server_state")
SCHEMA_IS_CURRENT = _read("operations/schema_is_current")
UNSUPPORTED = _read("operations/unsupported")

LATEST_RECORDS = SQL_FOLDER / "operations" / "latest_records.sql"
"""For psql, not for the service."""
