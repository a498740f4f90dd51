"""Whether a database can do what the service promises: tried, and told in words."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import asyncpg

from service.config import Database
from service.postgres import CANNOT_CONNECT, address, connect_arguments, in_words
from service.statements import (
    IS_DISTRIBUTED,
    KEPT_FROM_COMMUTING,
    MISSING_PRIVILEGES,
    SCHEMA_IS_CURRENT,
    SERVER_STATE,
    UNSUPPORTED,
)

ISOLATION = "read committed"

Level = Literal["ok", "warning", "failed"]


class Finding(NamedTuple):
    """What was found out about a part of the configuration, in one line that holds no secret."""

    level: Level
    subject: str
    words: str


async def inspect(name: str, database: Database, connect_seconds: float) -> list[Finding]:
    """Return what is to be said of a database: first whether it can be used, then the rest."""
    subject = f"database {name}"
    try:
        connection = await asyncpg.connect(
            **connect_arguments(database.dsn, connect_seconds), statement_cache_size=0
        )
    except CANNOT_CONNECT as error:
        return [Finding("failed", subject, in_words(error, database.dsn))]
    try:
        found = [
            Finding(level, subject, words) async for level, words in _look(connection, database)
        ]
    except CANNOT_CONNECT as error:
        found = [Finding("failed", subject, in_words(error, database.dsn))]
    finally:
        with suppress(*CANNOT_CONNECT):
            await connection.close(timeout=connect_seconds)
    if not any(finding.level == "failed" for finding in found):
        found.insert(0, Finding("ok", subject, f"ready at {address(database.dsn)}"))
    return found


async def inspect_owner(name: str, dsn: str, connect_seconds: float) -> Finding:
    """Return whether the owner's DSN, which only ``migrate`` uses, leads to a database."""
    subject = f"database {name} as its owner"
    try:
        connection = await asyncpg.connect(
            **connect_arguments(dsn, connect_seconds), statement_cache_size=0
        )
        await connection.close(timeout=connect_seconds)
    except CANNOT_CONNECT as error:
        return Finding("failed", subject, in_words(error, dsn))
    return Finding("ok", subject, f"reached at {address(dsn)}")


async def _look(connection: Any, database: Database) -> AsyncIterator[tuple[Level, str]]:
    if not await connection.fetchval(SCHEMA_IS_CURRENT):
        yield "failed", "not at the current schema: run care-trials migrate"
        return
    (state,) = await connection.fetch(SERVER_STATE)
    role = state["user_name"]
    if state["is_standby"]:
        yield "failed", "a standby, which takes no writes; name the primary in dsn"
    for (missing,) in await connection.fetch(MISSING_PRIVILEGES):
        yield "failed", f"the role {role} lacks a right: grant {missing} to {role}"
    for (reason,) in await connection.fetch(UNSUPPORTED):
        yield "failed", reason
    if database.distributed and not await connection.fetchval(IS_DISTRIBUTED):
        yield "failed", "distributed = true, but it is not: run care-trials migrate"
    if database.transaction_pooling and state["isolation"] != ISOLATION:
        yield "failed", f"alter role {role} set default_transaction_isolation = '{ISOLATION}'"
    if database.transaction_pooling and state["statement_timeout"] == "0":
        seconds = database.statement_timeout_seconds
        yield "warning", f"alter role {role} set statement_timeout = '{seconds}s'"
    if database.pool_max_size > state["connections"]:
        yield (
            "failed",
            f"pool_max_size is {database.pool_max_size}, but the server grants {role}"
            f" {state['connections']} connections at most",
        )
    if not state["is_durable"]:
        yield (
            "warning",
            "synchronous_commit or fsync is off: a crash of the server may lose records that were"
            " acknowledged",
        )
    reasons = [reason for (reason,) in await connection.fetch(KEPT_FROM_COMMUTING)]
    if reasons:
        yield "ok", f"records are applied one by one, more slowly, because of {', '.join(reasons)}"
