"""The textbook handler: each item in its own savepoint, three round trips an item.

Run by the benchmark with DATABASE_URL and PORT in the environment. No credentials, no
validation: what it is compared for is its way of writing.
"""

import os
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import uvloop
from aiohttp import web
from asyncpg.pool import PoolConnectionProxy

from service.wire import Item

from .rows import upsert_of_one_row

POOL: web.AppKey["asyncpg.Pool[asyncpg.Record]"] = web.AppKey("pool", asyncpg.Pool)
STATEMENT = upsert_of_one_row()
FIELDS = [field.encode_name for field in msgspec.structs.fields(Item)]


async def put_batch(request: web.Request) -> web.Response:
    """Upsert the batch in one transaction; a bad item is rolled back to its savepoint."""
    items = await request.json()
    outcomes = []
    async with request.app[POOL].acquire() as connection, connection.transaction():
        for item in items:
            outcomes.append(await upsert(connection, item))
    return web.json_response({"data": outcomes, "error": None}, status=207)


async def upsert(
    connection: "PoolConnectionProxy[asyncpg.Record]", item: dict[str, Any]
) -> dict[str, Any]:
    """Return the outcome of one item."""
    row = [item.get(field) for field in FIELDS]
    for place, field in enumerate(FIELDS):
        if field.endswith("_Date"):
            row[place] = datetime.fromisoformat(item[field])
    status, body = 400, ""
    try:
        async with connection.transaction():
            created = await connection.fetchval(STATEMENT, *row)
        status, body = (201, "Created") if created else (200, "Updated")
    except asyncpg.PostgresError as error:
        body = str(error)
    return {"id": [{"key": FIELDS[0], "value": str(row[0])}], "status": status, "body": body}


async def pool_of(app: web.Application) -> AsyncIterator[None]:
    """Keep a pool while the application runs."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=0, max_size=10) as pool:
        app[POOL] = pool
        yield


def main() -> None:
    app = web.Application(client_max_size=2**27)
    app.cleanup_ctx.append(pool_of)
    app.router.add_put("/care-case-clinical-trials-batch", put_batch)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop=uvloop.new_event_loop(),
        access_log=None,
        print=None,
    )


if __name__ == "__main__":
    main()
