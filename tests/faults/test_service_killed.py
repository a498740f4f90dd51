"""The service itself is killed under load."""

import asyncio

from tests.support.ledger import Ledger
from tests.support.running import StartProcess


async def test_every_outcome_read_before_the_service_was_killed_is_true(
    start_process: StartProcess,
) -> None:
    service, process = await start_process()
    ledger = Ledger(service, service_may_die=True)
    large = asyncio.create_task(ledger.send(900, size=9_000))

    async with ledger.under_load(senders=8):
        await asyncio.sleep(0.7)
        process.kill()
        process.wait()
    await large

    assert ledger.unanswered
    await ledger.assert_true()
    restarted, _ = await start_process(service.databases)
    await Ledger(restarted).assert_recovers()
