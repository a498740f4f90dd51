"""Reads of stored records: one by its key, or a page (contract section 1, "One record")."""

import asyncio
import codecs
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from service.engine.databases import Pool, PooledConnection
from service.engine.retrying import Unavailable, run_system_statement
from service.statements import PAGE, RECORD, with_columns
from service.wire import Item

WAIT_SECONDS = 10
"""Maximum wait for earlier reads, which use all connections that reads can have."""

_COLUMNS = dict(zip(Item.__struct_encode_fields__, Item.__struct_fields__, strict=True))
_KEY_FIELD = next(iter(_COLUMNS))


class PageTooLarge(Exception):
    """The page has several records and more bytes of text than allowed."""


class SortField(NamedTuple):
    """A field by whose values records are sorted, by its name on the wire."""

    name: str
    is_descending: bool


class Page(NamedTuple):
    """Some records, their bytes of text, and how many records there are in all."""

    records: list[Item]
    size: int
    total: int


async def find(pool: Pool, key: int, activity_id: str) -> Item | None:
    """Return the record with this key; None if it does not exist.

    Raises what run_system_statement() does.
    """
    rows = await _read(pool, RECORD, (key,), activity_id)
    return Item(*rows[0]) if rows else None


async def page(
    pool: Pool,
    sorting: Sequence[SortField],
    *,
    offset: int,
    limit: int,
    max_bytes: int,
    activity_id: str,
) -> Page:
    """Return at most ``limit`` records behind the first ``offset`` of all, in this order.

    The key breaks ties. A single record can have any number of bytes.

    Raises KeyError for a field that records do not have, PageTooLarge, and what
    run_system_statement() does.
    """
    statement = PAGE.replace("{order}", _order(sorting))
    max_bytes = max_bytes if limit > 1 else sys.maxsize
    rows = await _read(pool, statement, (limit, offset, max_bytes), activity_id)
    total, size = rows[0][:2]
    if size > max_bytes:
        raise PageTooLarge
    records = [Item(*row[2:]) for row in rows if row[2] is not None]
    return Page(records, size, total)


def _order(sorting: Sequence[SortField]) -> str:
    """Return the columns of "order by". Only known names reach the SQL."""
    fields = [*sorting]
    if not any(field.name == _KEY_FIELD for field in fields):
        fields.append(SortField(_KEY_FIELD, is_descending=False))
    return ", ".join(
        f"record.{_COLUMNS[name]} {'desc' if is_descending else 'asc'}"
        for name, is_descending in fields
    )


async def _read(
    pool: Pool, statement: str, arguments: tuple[int, ...], activity_id: str
) -> list[Any]:
    async def work(connection: PooledConnection, _deadline: float, seconds: float) -> list[Any]:
        try:
            usual: list[Any] = await connection.fetch(
                pool.sql(with_columns(statement)), *arguments, timeout=seconds
            )
        except (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError):
            # The server converts all of a string or none of it; the codec here replaces bytes.
            rows = await connection.fetch(
                pool.sql(with_columns(statement, as_bytes=True)), *arguments, timeout=seconds
            )
        else:
            return usual
        codec = _get_codec(connection.get_settings().server_encoding)
        return [
            [str(value, codec, "replace") if isinstance(value, bytes) else value for value in row]
            for row in rows
        ]

    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await pool.reads.acquire()
    except TimeoutError:
        raise Unavailable("Too many reads of this database are in progress") from None
    try:
        seconds = float(pool.statement_seconds)
        return await run_system_statement(
            pool, work, seconds, activity_id, failure="records cannot be read"
        )
    finally:
        pool.reads.release()


def _get_codec(server_encoding: str) -> str:
    """Return Python's name of an encoding; UTF-8 for SQL_ASCII and others without a codec."""
    name = server_encoding.replace("WIN", "cp")
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "utf-8"
