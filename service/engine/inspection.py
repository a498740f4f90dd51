"""Checks whether a database supports what the service promises."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import asyncpg

from service.config import Database
from service.postgres import (
    CANNOT_CONNECT,
    describe_error,
    find_unsafe_schemas,
    get_address,
    get_connect_arguments,
    schema_is_current,
)
from service.statements import (
    CLEAN_PATH,
    COMMUTE_BLOCKERS,
    FUNCTIONS_DIGEST,
    FUNCTIONS_STATE,
    IS_DISTRIBUTED,
    MISSING_PRIVILEGES,
    PATHLESS_TRIGGERS,
    SERVER_STATE,
    UNSUPPORTED,
    in_schema,
    path_setting,
)

ISOLATION = "read committed"

Level = Literal["ok", "warning", "failed"]


class Finding(NamedTuple):
    """Result of a check of one part of the configuration; contains no secret."""

    level: Level
    subject: str
    message: str


async def inspect(name: str, database: Database, connect_seconds: float) -> list[Finding]:
    """Return the findings for a database, usability first."""
    subject = f"database {name}"
    try:
        connection = await asyncpg.connect(
            **get_connect_arguments(database.dsn, connect_seconds),
            statement_cache_size=0,
            server_settings={} if database.transaction_pooling else {"search_path": CLEAN_PATH},
        )
    except CANNOT_CONNECT as error:
        return [Finding("failed", subject, describe_error(error, database.dsn))]
    found: list[Finding] = []
    try:
        async for level, message in _inspect_connection(connection, database):
            found.append(Finding(level, subject, message))
    except CANNOT_CONNECT as error:
        found.append(Finding("failed", subject, describe_error(error, database.dsn)))
    finally:
        with suppress(*CANNOT_CONNECT):
            await connection.close(timeout=connect_seconds)
    if not any(finding.level == "failed" for finding in found):
        found.insert(0, Finding("ok", subject, f"ready at {get_address(database.dsn)}"))
    return found


async def inspect_owner(name: str, dsn: str, connect_seconds: float) -> Finding:
    """Return whether the owner's DSN, which only ``migrate`` uses, can be connected to."""
    subject = f"database {name} as its owner"
    try:
        connection = await asyncpg.connect(
            **get_connect_arguments(dsn, connect_seconds), statement_cache_size=0
        )
        await connection.close(timeout=connect_seconds)
    except CANNOT_CONNECT as error:
        return Finding("failed", subject, describe_error(error, dsn))
    return Finding("ok", subject, f"connected to {get_address(dsn)}")


async def _inspect_connection(
    connection: Any, database: Database
) -> AsyncIterator[tuple[Level, str]]:
    schema, path = database.search_path[0], path_setting(database.search_path)
    reasons = await find_unsafe_schemas(connection, database.search_path)
    if reasons:
        for reason in reasons:
            yield "failed", reason
        return
    if not await schema_is_current(connection, schema):
        yield "failed", "the schema is out of date; run: care-trials migrate"
        return
    (functions,) = await connection.fetch(in_schema(FUNCTIONS_STATE, schema), FUNCTIONS_DIGEST)
    if functions["search_path"] != path:
        yield "failed", f"search_path was changed to {path}; run: care-trials migrate"
    (state,) = await connection.fetch(SERVER_STATE)
    role = state["user_name"]
    if state["is_standby"]:
        yield "failed", "the server is a standby, which is read-only; name the primary in dsn"
    for (missing,) in await connection.fetch(in_schema(MISSING_PRIVILEGES, schema)):
        yield "failed", f"missing privilege; run: grant {missing} to {role}"
    for (reason,) in await connection.fetch(in_schema(UNSUPPORTED, schema)):
        yield "failed", reason
    if database.distributed and not await connection.fetchval(in_schema(IS_DISTRIBUTED, schema)):
        yield "failed", "the table is not distributed yet; run: care-trials migrate"
    if database.transaction_pooling and state["isolation"] != ISOLATION:
        yield "failed", f"run: alter role {role} set default_transaction_isolation = '{ISOLATION}'"
    if database.transaction_pooling and state["statement_timeout"] == "0":
        seconds = database.statement_timeout_seconds
        yield "warning", f"run: alter role {role} set statement_timeout = '{seconds}s'"
    if database.pool_max_size > state["connections"]:
        yield (
            "failed",
            f"pool_max_size is {database.pool_max_size}, but the role {role} is limited to"
            f" {state['connections']} connections",
        )
    if not state["is_durable"]:
        yield (
            "warning",
            "synchronous_commit or fsync is off: acknowledged records can be lost in a crash",
        )
    if database.transaction_pooling and state["search_path"] != CLEAN_PATH:
        yield "warning", f"run: alter role {role} set search_path = {CLEAN_PATH}"
    if database.transaction_pooling and state["transaction_timeout"] not in (None, "0"):
        yield "failed", f"run: alter role {role} set transaction_timeout = 0"
    for (function,) in await connection.fetch(in_schema(PATHLESS_TRIGGERS, schema)):
        yield (
            "warning",
            f"the trigger function {function} has no search_path of its own and runs with {path};"
            f" to change that, run: alter function {function} set search_path = …",
        )
    reasons = [reason for (reason,) in await connection.fetch(in_schema(COMMUTE_BLOCKERS, schema))]
    if reasons:
        yield "ok", f"rows are applied one at a time (slower) because of {', '.join(reasons)}"
