"""Contract section 1: 503 with Retry-After, at once, for what a process cannot take on."""

import asyncio
import gzip
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from service.config import Tuning
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService
from tests.support.service import GUEST_KEY, KEY, ServiceUnderTest

MIB = 2**20


GUEST = {"x-api-key": GUEST_KEY}


@pytest.mark.parametrize("is_complete", [True, False], ids=["complete batches", "slow bodies"])
async def test_batches_beyond_the_limit_of_an_api_key_in_a_database_are_rejected_immediately(
    make_service: MakeService, make_database: MakeDatabase, is_complete: bool
) -> None:
    service = await make_service(
        extra_databases={"globex": make_database()}, max_batches_in_flight=2
    )

    async with AsyncExitStack() as connections:
        async with service.locked_table("globex"):
            for key in (1, 2):
                body = b'[{"%b":%d}]' % (KEY.encode(), key)
                request = service.head(len(body), "globex") + (body if is_complete else body[:1])
                await connections.enter_async_context(service.sending(request))
            await asyncio.sleep(0.3)
            refused = await asyncio.wait_for(service.put([{KEY: 3}], database="globex"), 2)
            other_tenant = await asyncio.wait_for(service.put([{KEY: 3}]), 2)
            other_key = await service.put([], database="globex", headers=GUEST)
            unauthenticated = await service.put([], headers={"x-api-key": "wrong"})
        async with asyncio.timeout(5):
            while len(await service.comments("globex")) < (2 if is_complete else 0):
                await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)
    afterwards = await service.put([{KEY: 3}], database="globex")

    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert "retry later" in refused.detail
    assert other_tenant.statuses == [201]
    assert other_key.status == 207
    assert unauthenticated.status == 401
    assert afterwards.statuses == [201]


async def test_a_third_tenant_has_room_for_1_mib_beside_two_that_hold_all_bytes(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    service = await make_service(
        extra_databases={"globex": make_database(), "initech": make_database()},
        max_body_bytes=8 * MIB,
        max_bytes_in_flight=10 * MIB,
    )
    compressed = gzip.compress(b" " * MIB)
    body = b'[{"%b":1}]' % KEY.encode()

    async with AsyncExitStack() as connections, asyncio.timeout(20):
        for database in ("acme", "globex"):
            unfinished = service.head(len(compressed) + 1, database, "gzip") + compressed
            while (await service.put([], database=database)).status != 503:
                await connections.enter_async_context(service.sending(unfinished))
                await asyncio.sleep(0.1)
        third = await service.put(body + b" " * (MIB - len(body)), database="initech")

    assert third.statuses == [201]


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_bodies_beyond_the_limit_of_all_bytes_are_refused(
    make_service: MakeService, is_chunked: bool
) -> None:
    service = await make_service(max_body_bytes=100_000, max_bytes_in_flight=100_000)

    async with service.locked_table():
        accepted = asyncio.create_task(service.put([{KEY: 1, "comment": "x" * 80_000}]))
        await asyncio.sleep(0.3)
        refused = await service.put([{KEY: 2, "comment": "x" * 80_000}], is_chunked=is_chunked)
        small = asyncio.create_task(service.put([{KEY: 3}]))
        await asyncio.sleep(0.1)

    assert refused.status == 503
    assert refused.headers["Retry-After"]
    assert (await accepted).statuses == (await small).statuses == [201]
    assert (await service.put([{KEY: 2, "comment": "x" * 80_000}])).statuses == [201]


async def test_a_body_that_stops_coming_is_refused_and_holds_nothing(
    make_service: MakeService,
) -> None:
    service = await make_service(tuning=Tuning(body_idle_seconds=0.2), max_batches_in_flight=1)

    request = service.head(content_length=100) + b'[{"'
    answer = await service.raw(request, silent_seconds=0.2)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"The body stalled for" in answer
    assert (await service.put([{KEY: 1}])).statuses == [201]


@pytest.mark.parametrize("content_length", [200_000, 100_000_000])
async def test_a_body_that_drips_is_refused_and_keeps_nobody_out(
    make_service: MakeService, content_length: int
) -> None:
    service = await make_service(
        tuning=Tuning(body_idle_seconds=0.5, body_bytes_per_second=1000), max_batches_in_flight=2
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(service.head(content_length) + b"[")

    async def drip() -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    meanwhile = await service.put([{KEY: 1, "comment": "x" * 200_000}])
    answer = await asyncio.wait_for(reader.read(65536), 3)
    dripping.cancel()
    writer.close()

    assert meanwhile.statuses == [201]
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"less than 1000 bytes per second" in answer


async def test_a_body_that_comes_slowly_but_steadily_is_taken(make_service: MakeService) -> None:
    service = await make_service(tuning=Tuning(body_idle_seconds=0.3, body_bytes_per_second=1000))
    body = b"[" + b" " * 2_000 + b"]"
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(service.head(len(body)))

    for start in range(0, len(body), 250):
        writer.write(body[start : start + 250])
        await asyncio.sleep(0.1)
    answer = await asyncio.wait_for(reader.read(65536), 3)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 207 ")


async def test_a_connection_that_sends_no_request_is_closed(
    make_service: MakeService,
) -> None:
    service = await make_service(tuning=Tuning(header_seconds=0.2))

    answer = await asyncio.wait_for(service.raw(b"PUT / HTTP/1.1\r\nX-Slow: "), 5)

    assert answer == b""


def large_body() -> bytes:
    """Return a batch whose outcomes are more than the buffers of a connection hold."""
    return b"[" + b",".join(b'{"%b":%d}' % (KEY.encode(), key) for key in range(1, 60_001)) + b"]"


async def stored_of_large(service: ServiceUnderTest) -> int:
    (row,) = await service.fetch(
        "select count(*) from care_case_clinical_trial where care_case_clinical_trial_key <= 60000"
    )
    count: int = row["count"]
    return count


async def test_a_client_that_never_reads_holds_nothing_and_its_batch_ends(
    make_service: MakeService,
) -> None:
    service = await make_service(tuning=Tuning(write_seconds=1), max_batches_in_flight=2)
    body = large_body()

    writer = await service.send_without_reading(service.head(content_length=len(body)) + body)
    async with asyncio.timeout(20):
        while not await stored_of_large(service):
            await asyncio.sleep(0.05)
        # Its own keys, too.
        for key in (1, 60_000, 60_001) * 5:
            answer = await asyncio.wait_for(service.put([{KEY: key, "comment": "mine"}]), 1)
            assert answer.statuses in ([200], [201])
        await asyncio.sleep(1.5)
        stored = await stored_of_large(service)
        await asyncio.sleep(0.5)

    assert 0 < stored < 60_000
    assert await stored_of_large(service) == stored
    # It counts no longer.
    async with service.locked_table():
        two = [asyncio.create_task(service.put([{KEY: key}])) for key in (1, 2)]
        await asyncio.sleep(0.3)
        refused = await service.put([{KEY: 3}])
    assert refused.status == 503
    assert [(await task).status for task in two] == [207, 207]
    writer.close()


async def test_a_client_that_reads_slowly_gets_all_outcomes_and_holds_up_no_other(
    make_service: MakeService,
) -> None:
    service = await make_service(tuning=Tuning(write_seconds=5))
    body = large_body()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1024)
    writer.write(service.head(content_length=len(body)) + body)
    await writer.drain()

    answer = bytearray()
    slowest = 0.0
    async with asyncio.timeout(60):
        while not answer.endswith(b"0\r\n\r\n"):
            answer += await reader.read(200_000)
            started_at = asyncio.get_running_loop().time()
            other = await service.put([{KEY: 60_000}])
            slowest = max(slowest, asyncio.get_running_loop().time() - started_at)
            assert other.statuses in ([200], [201])
    writer.close()

    assert answer.count(b'"body":"Created"') + answer.count(b'"body":"Updated"') == 60_000
    assert slowest < 1
    assert await stored_of_large(service) == 60_000


async def test_a_small_batch_is_answered_while_many_large_ones_are_at_work(
    make_service: MakeService,
) -> None:
    service = await make_service()

    def large(first: int) -> list[dict[str, Any]]:
        return [{KEY: key, "comment": "x" * 50} for key in range(first, first + 10_000)]

    in_work = [asyncio.create_task(service.put(large(10_000 * n))) for n in range(1, 9)]
    while not await service.fetch("select from care_case_clinical_trial limit 1"):
        await asyncio.sleep(0.02)
    small = await service.put([{KEY: 3}])

    assert small.statuses == [201]
    assert not all(task.done() for task in in_work)
    assert [(await task).statuses for task in in_work] == [[201] * 10_000] * 8


async def test_the_body_of_a_batch_that_is_turned_away_is_not_taken_in_at_once(
    make_service: MakeService,
) -> None:
    service = await make_service(
        tuning=Tuning(rejected_body_pause_seconds=1), rate_limit="1/minute"
    )
    await service.put([])
    started_at = asyncio.get_running_loop().time()
    body = b"[" + b" " * 3_000_000 + b"]"

    refused = await service.raw(service.head(content_length=len(body)) + body[:1_000_000], body)

    assert refused.startswith(b"HTTP/1.1 429")
    assert asyncio.get_running_loop().time() - started_at >= 1


async def test_a_key_beyond_its_rate_limit_gets_429_and_others_do_not(
    make_service: MakeService,
) -> None:
    service = await make_service(rate_limit="3/minute")

    first, second = await service.put([]), await service.put(b"{", headers={"Accept": "*/*"})
    third, refused = await service.put([{KEY: 1}]), await service.put([{KEY: 2}])
    other = await service.put([], headers=GUEST)

    assert [answer.status for answer in (first, second, third, refused)] == [207, 400, 207, 429]
    assert first.headers["RateLimit-Policy"] == '"key";q=3;w=60'
    assert first.headers["RateLimit"].startswith('"key";r=2;t=')
    assert second.headers["RateLimit"].startswith('"key";r=1;t=')
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert "too many requests" in refused.detail
    assert other.status == 403
    assert await service.comments() == {1: None}
