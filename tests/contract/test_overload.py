"""Contract section 1: 503 with Retry-After, at once, for what a process cannot take on."""

import asyncio
from typing import Any

import pytest

from service.config import Tuning
from tests.harness.postgres import MakeDatabase
from tests.harness.running import MakeService
from tests.harness.service import GUEST_KEY, KEY


async def test_batches_beyond_the_limit_of_their_database_are_refused_at_once(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    service = await make_service(
        extra_databases={"globex": make_database()}, max_batches_in_flight=2
    )

    async with service.locked_table():
        accepted = [asyncio.create_task(service.put([{KEY: key}])) for key in (1, 2)]
        await asyncio.sleep(0.3)
        refused = await asyncio.wait_for(service.put([{KEY: 3}]), 2)
        other_tenant = await asyncio.wait_for(service.put([{KEY: 3}], database="globex"), 2)
        unauthenticated = await service.put([], headers={"x-api-key": "wrong"})

    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert "send this one again" in refused.detail
    assert other_tenant.statuses == [201]
    assert unauthenticated.status == 401
    assert [(await task).statuses for task in accepted] == [[201], [201]]
    assert (await service.put([{KEY: 3}])).statuses == [201]


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
    service = await make_service(tuning=Tuning(silence_seconds=0.2), max_batches_in_flight=1)

    answer = await service.raw(service.head(content_length=100) + b'[{"')

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"stopped coming" in answer
    assert (await service.put([{KEY: 1}])).statuses == [201]


async def test_a_connection_that_sends_no_request_is_closed(
    make_service: MakeService,
) -> None:
    service = await make_service(tuning=Tuning(header_seconds=0.2))

    answer = await asyncio.wait_for(service.raw(b"PUT / HTTP/1.1\r\nX-Slow: "), 5)

    assert answer == b""


async def test_a_client_that_never_reads_holds_no_connection_to_the_database(
    make_service: MakeService,
) -> None:
    service = await make_service(tuning=Tuning(write_seconds=0.5))
    body = b"[" + b",".join(b'{"%b":%d}' % (KEY.encode(), key) for key in range(1, 60_001)) + b"]"

    writer = await service.send_without_reading(service.head(content_length=len(body)) + body)
    stored = 0
    async with asyncio.timeout(30):
        while stored < 60_000:
            assert (await service.put([{KEY: 60_001}])).statuses in ([200], [201])
            (row,) = await service.fetch(
                "select count(*) from care_case_clinical_trial"
                " where care_case_clinical_trial_key <= 60000"
            )
            stored = row["count"]
            await asyncio.sleep(0.1)
    writer.close()


async def test_large_batches_wait_their_turn_no_longer_than_configured(
    make_service: MakeService,
) -> None:
    service = await make_service(tuning=Tuning(large_at_once=2), max_queue_seconds=1)

    def large(key: int) -> list[dict[str, Any]]:
        return [{KEY: key, "comment": "x" * 70_000}]

    async with service.locked_table():
        in_work = [asyncio.create_task(service.put(large(key))) for key in (1, 2)]
        await asyncio.sleep(0.3)
        small = asyncio.create_task(service.put([{KEY: 3}]))
        refused = await asyncio.wait_for(service.put(large(4)), 3)
        waiting = asyncio.create_task(service.put(large(5)))
        await asyncio.sleep(0.3)

    assert refused.status == 503
    assert refused.headers["Retry-After"]
    assert "Too many batches wait" in refused.detail
    assert [(await task).statuses for task in [*in_work, small, waiting]] == [[201]] * 4


async def test_the_body_of_a_batch_that_is_turned_away_is_not_taken_in_at_once(
    make_service: MakeService,
) -> None:
    service = await make_service(tuning=Tuning(hold_seconds=1), rate_limit="1/minute")
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
    guest = {"x-api-key": GUEST_KEY}

    first, second = await service.put([]), await service.put(b"{", headers={"Accept": "*/*"})
    third, refused = await service.put([{KEY: 1}]), await service.put([{KEY: 2}])
    other = await service.put([], headers=guest)

    assert [answer.status for answer in (first, second, third, refused)] == [207, 400, 207, 429]
    assert first.headers["RateLimit-Policy"] == '"key";q=3;w=60'
    assert first.headers["RateLimit"].startswith('"key";r=2;t=')
    assert second.headers["RateLimit"].startswith('"key";r=1;t=')
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert "too many requests" in refused.detail
    assert other.status == 403
    assert await service.comments() == {1: None}
