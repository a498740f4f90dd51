"""The raw SQL that the service runs, read once from ``sql/``."""

from pathlib import Path

_INSTALLED = Path(__file__).with_name("sql")

SQL_FOLDER = _INSTALLED if _INSTALLED.exists() else Path(__file__).parents[1] / "sql"
"""Inside the package in a wheel, beside it in a checkout."""


def _read(name: str) -> str:
    return (SQL_FOLDER / f"{name}.sql").read_text()


UPSERT = _read("upsert/upsert")
UPSERT_EACH = _read("upsert/upsert_each")
ALLOT_KEYS = _read("upsert/allot_keys")
SKIP_TAKEN_KEYS = _read("upsert/skip_taken_keys")
END_BACKEND = _read("upsert/end_backend")
TRANSACTION_ID = _read("upsert/transaction_id")
HAS_ANY_KEY = _read("upsert/has_any_key")
TRANSACTION_STATUS = _read("upsert/transaction_status")

CONNECTION_STATE = _read("operations/connection_state")
SCHEMA_IS_CURRENT = _read("operations/schema_is_current")

LATEST_RECORDS = SQL_FOLDER / "operations" / "latest_records.sql"
"""For psql, not for the service."""
