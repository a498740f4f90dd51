"""Statements on connections that are lost: nothing is told or tried before they have ended."""

import time
from collections.abc import AsyncIterator

import pytest

from service.config import Database
from service.engine.databases import Pool, PooledConnection, open_pool
from service.engine.retrying import with_connection
from tests.support.postgres import MakeDatabase

SECONDS = 1.0


@pytest.fixture
async def pool(make_database: MakeDatabase) -> AsyncIterator[Pool]:
    """A pool as behind PgBouncer, through which no session of one's own can be ended."""
    settings = Database(make_database(), transaction_pooling=True)
    pool = await open_pool("acme", settings, connect_seconds=5)
    yield pool
    await pool.close()


async def test_a_lost_statement_is_sent_again_only_after_its_deadline(pool: Pool) -> None:
    sent_at: list[float] = []

    async def work(_connection: PooledConnection, _deadline: float, _seconds: float) -> int:
        sent_at.append(time.monotonic())
        if len(sent_at) == 1:
            raise ConnectionResetError
        return len(sent_at)

    assert await with_connection(pool, work, SECONDS, "an activity") == 2
    assert sent_at[1] - sent_at[0] >= SECONDS
