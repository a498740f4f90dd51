"""PostgreSQL dies under load and comes back."""

import asyncio

import pytest

from tests.support.embedded import EmbeddedPostgres
from tests.support.ledger import Ledger
from tests.support.running import MakeService


@pytest.mark.parametrize("seconds_down", [0, pytest.param(2, marks=pytest.mark.slow)])
async def test_nothing_is_lost_or_doubled_when_postgresql_is_killed_and_restarted(
    postgres: EmbeddedPostgres, make_service: MakeService, seconds_down: float
) -> None:
    service = await make_service({"acme": postgres.tcp_dsn("acme")})
    ledger = Ledger(service)

    async with ledger.under_load():
        for _ in range(2):
            await asyncio.sleep(0.5)
            await asyncio.to_thread(postgres.kill)
            await asyncio.sleep(seconds_down)
            await asyncio.to_thread(postgres.start)
            await ledger.assert_recovers()

    await ledger.assert_true()


@pytest.mark.usefixtures("short_retries")
async def test_items_are_503_while_postgresql_is_down_and_the_service_heals(
    postgres: EmbeddedPostgres, make_service: MakeService
) -> None:
    service = await make_service({"acme": postgres.tcp_dsn("acme")})
    ledger = Ledger(service)
    assert await ledger.send(1)

    await asyncio.to_thread(postgres.stop)
    answer = await service.put([{"careCaseClinicalTrial_Key": key} for key in (1, 2, 0)])
    await asyncio.to_thread(postgres.start)

    assert answer.statuses == [503, 503, 503]
    assert all("resend the item" in body for _, _, body in answer.outcomes)
    await ledger.assert_recovers()
    await ledger.assert_true()
