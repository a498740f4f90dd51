"""The raw SQL that the service runs, read once from ``sql/``.

``{schema}`` stands for the schema of the record table, the first of a database's ``search_path``.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

_INSTALLED = Path(__file__).with_name("sql")

SQL_FOLDER = _INSTALLED if _INSTALLED.exists() else Path(__file__).parents[1] / "sql"
"""Inside the package in a wheel, beside it in a checkout."""


def _read(name: str) -> str:
    return (SQL_FOLDER / f"{name}.sql").read_text()


APPLY = _read("engine/apply")
TERMINATE_BACKEND = _read("engine/terminate_backend")
DELETE_EXPIRED = _read("engine/delete_expired")
OTHER_BODIES = _read("engine/other_bodies")
RECEIPT_COUNT_ESTIMATE = _read("engine/receipt_count_estimate")
SESSION = _read("engine/session")

RECORD_COLUMNS = _read("reading/columns")
RECORD = _read("reading/record")
PAGE = _read("reading/page")
"""Its ``{order}`` is to be filled in."""

DISTRIBUTE = _read("operations/distribute")
FUNCTIONS_STATE = _read("operations/functions_state")
IS_DISTRIBUTED = _read("operations/is_distributed")
CONNECTION_STATE = _read("operations/connection_state")
COMMUTE_BLOCKERS = _read("operations/commute_blockers")
LOCK_FUNCTIONS = _read("operations/lock_functions")
MISSING_PRIVILEGES = _read("operations/missing_privileges")
PATHLESS_TRIGGERS = _read("operations/pathless_triggers")
NOTE_FUNCTIONS = _read("operations/note_functions")
SERVER_STATE = _read("operations/server_state")
SCHEMA_IS_CURRENT = _read("operations/schema_is_current")
UNSAFE_SCHEMAS = _read("operations/unsafe_schemas")
UNSUPPORTED = _read("operations/unsupported")

LATEST_RECORDS = SQL_FOLDER / "operations" / "latest_records.sql"
"""For psql, not for the service."""

COLUMNS = {path.stem: path.read_text() for path in sorted((SQL_FOLDER / "columns").glob("*.sql"))}
"""The lists of the record's columns; ``{NAME}`` in a function stands for one of them."""


def _read_function(path: Path) -> str:
    text = path.read_text()
    for name, columns in COLUMNS.items():
        text = text.replace(f"{{{name}}}", columns)
    return text


FUNCTIONS = [_read_function(path) for path in sorted((SQL_FOLDER / "functions").glob("*.sql"))]
"""The functions that the statements call; ``migrate`` applies them."""

FUNCTIONS_DIGEST = hashlib.sha256("".join(FUNCTIONS).encode()).hexdigest()


def with_columns(statement: str, *, as_bytes: bool = False) -> str:
    """Return a statement that reads records, with their columns; strings can be bytes as stored."""
    opening, closing = ("pg_catalog.convert_to(", ", 'SQL_ASCII')") if as_bytes else ("", "")
    columns = RECORD_COLUMNS.replace("{open}", opening).replace("{close}", closing)
    return statement.replace("{columns}", columns)


@lru_cache(256)
def in_schema(statement: str, schema: str) -> str:
    """Return the statement for a schema."""
    return statement.replace("{schema}", f'"{schema}"')


CLEAN_PATH = "pg_catalog, pg_temp"
"""The search path of the service's sessions: the statements name the schema, and the functions
have a search path of their own."""


def path_setting(search_path: Sequence[str]) -> str:
    """Return a search path as PostgreSQL's setting; temporary tables come last, never first."""
    return ", ".join(f'"{schema}"' for schema in (*search_path, "pg_temp"))
