"""The service itself dies, or is told to stop, under load."""

import asyncio
import signal

from tests.harness.ledger import Ledger
from tests.harness.running import StartProcess
from tests.harness.service import KEY


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


async def test_sigterm_drops_none_of_50_open_requests_and_refuses_new_ones(
    start_process: StartProcess,
) -> None:
    service, process = await start_process()
    blocker = await service.connect()
    await blocker.execute("begin; lock table care_case_clinical_trial")
    opened = [
        asyncio.create_task(service.put([{KEY: key}, {KEY: 0, "comment": f"{key}"}]))
        for key in range(1001, 1051)
    ]
    async with asyncio.timeout(10):
        while not await service.fetch("select 1 from pg_locks where not granted"):
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)

    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        while True:
            async with service.session.get(f"{service.url}/readyz") as response:
                if response.status == 503:
                    break
    refused = await service.put([{KEY: 99}])
    await blocker.execute("rollback")
    await blocker.close()
    answers = await asyncio.gather(*opened)

    assert refused.status == 503
    assert refused.headers["Retry-After"]
    assert [answer.statuses for answer in answers] == [[201, 201]] * 50
    assert len(await service.comments()) == 100
    assert await asyncio.to_thread(process.wait, 10) == 0
