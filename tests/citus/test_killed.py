"""The coordinator and the workers die under load, and come back."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.citus import URL, servers_to_kill
from tests.support.ledger import Ledger
from tests.support.running import MakeService
from tests.support.service import ServiceUnderTest

FAULTS = 8
"""In each of three kinds of load."""

RECOVER_SECONDS = 60


@pytest.fixture
async def service(make_service: MakeService) -> AsyncIterator[ServiceUnderTest]:
    """One whose coordinator looks each second for what a crash left prepared, not each minute."""
    service = await make_service(database={"statement_rows": 5000})
    await service.execute("alter system set citus.recover_2pc_interval = '1s'")
    await service.execute("select pg_reload_conf()")
    yield service
    await service.execute("alter system reset citus.recover_2pc_interval")
    await service.execute("select pg_reload_conf()")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "keyless"),
    [(20, 3), (0, 100), (200, 0)],
    ids=["item by item", "new records, set-based", "named records, set-based"],
)
async def test_nothing_is_lost_or_doubled_when_servers_are_killed(
    service: ServiceUnderTest, size: int, key_zero: int
) -> None:
    assert URL is not None
    servers = await asyncio.to_thread(lambda: asyncio.run(servers_to_kill(URL)))
    ledger = Ledger(service)

    async with ledger.under_load(size=size, key_zero=key_zero):
        for fault in range(FAULTS):
            await asyncio.sleep(0.5)
            server = servers[fault % len(servers)]
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.5 * (fault % 2))
            await asyncio.to_thread(server.start)
            await ledger.assert_recovers(RECOVER_SECONDS)
    await service.fetch("select recover_prepared_transactions()")

    print(ledger.requests, "requests", dict(ledger.statuses), await ledger.audit())
    await ledger.assert_true()
