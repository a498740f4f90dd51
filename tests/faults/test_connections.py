"""Connections to PostgreSQL that are cut, at every point of a statement, or fall silent."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.config import Database, Tuning
from service.engine.databases import open_pool
from tests.support.ledger import Ledger
from tests.support.postgres import MakeDatabase
from tests.support.proxy import Fault, Link, Proxy
from tests.support.running import MakeService
from tests.support.service import KEY

MARK = b"the marked text"
"""Stands in the arguments of the statement."""

PARSED = b"care_case_clinical_trial_apply_items("
"""Stands in its text, which a connection sends once, before the first arguments."""


@pytest.fixture
async def proxy(make_database: MakeDatabase) -> AsyncIterator[Proxy]:
    """A proxy before a database of its own."""
    async with Proxy(make_database()) as proxy:
        yield proxy


def before(link: Link, _data: bytes) -> None:
    """Cut before the statement is sent."""
    link.cut()


def during(link: Link, data: bytes) -> bytes:
    """Cut when half of the statement is sent."""
    asyncio.get_running_loop().call_later(0.05, link.cut)
    return data[: len(data) // 2]


def after(link: Link, data: bytes) -> bytes:
    """Cut when the statement is sent, while it runs."""
    asyncio.get_running_loop().call_soon(link.cut)
    return data


def before_the_answer(link: Link, data: bytes) -> bytes:
    """Cut when the statement has run (and, by itself, committed), before its answer."""
    link.swallows_answers = True

    async def cut() -> None:
        await link.answered.wait()
        link.cut()

    link.cutting = asyncio.create_task(cut())
    return data


class Once:
    """A fault that happens to the first data with a mark."""

    def __init__(self, mark: bytes, fault: Fault) -> None:
        self._mark = mark
        self._fault = fault
        self.happened = False

    def __call__(self, link: Link, data: bytes) -> bytes | None:
        if self.happened or self._mark not in data:
            return data
        self.happened = True
        return self._fault(link, data)


@pytest.mark.parametrize("mark", [PARSED, MARK], ids=["parse", "execute"])
@pytest.mark.parametrize("fault", [before, during, after, before_the_answer])
async def test_a_connection_cut_at_any_point_of_an_upsert_costs_no_item_and_creates_none_twice(
    make_service: MakeService, proxy: Proxy, mark: bytes, fault: Fault
) -> None:
    service = await make_service({"acme": proxy.dsn})
    await service.execute(
        "insert into care_case_clinical_trial"
        " (care_case_clinical_trial_key, entry_date, update_date) values (-1, now(), now())"
    )
    proxy.fault = once = Once(mark, fault)
    comments = [MARK.decode(), "updated", "new", "new"]

    answer = await service.put(
        [{KEY: key, "comment": text} for key, text in zip([0, -1, -2, 0], comments, strict=True)]
    )

    assert once.happened
    # A lost attempt can have created the record with an explicit key.
    assert answer.statuses in ([201, 200, 201, 201], [201, 200, 200, 201])
    assert await service.comments() == dict(zip(answer.keys, comments, strict=True))


@pytest.mark.parametrize("key", [0, 17])
@pytest.mark.parametrize("fault", [before, during, after, before_the_answer])
async def test_a_connection_cut_at_any_point_of_a_post_creates_its_record_once(
    make_service: MakeService, proxy: Proxy, fault: Fault, key: int
) -> None:
    service = await make_service({"acme": proxy.dsn}, allow=["write"])
    proxy.fault = once = Once(MARK, fault)
    record = {KEY: key, "comment": MARK.decode()}
    headers: dict[str, str | None] = {"Idempotency-Key": "k"}

    answer = await service.ask("POST", "", record, headers=headers)
    again = await service.ask("POST", "", record, headers=headers)

    assert once.happened
    # Also where the lost attempt had created it.
    assert (answer.status, again.status) == (201, 201)
    assert answer.envelope["data"] == again.envelope["data"]
    assert await service.comments() == {answer.envelope["data"][KEY]: MARK.decode()}


@pytest.mark.parametrize("fault", [before, during, after, before_the_answer])
async def test_a_connection_cut_at_any_point_of_a_delete_is_204(
    make_service: MakeService, proxy: Proxy, fault: Fault
) -> None:
    service = await make_service({"acme": proxy.dsn}, allow=["batch", "delete"])
    await service.put([{KEY: 17}])
    # The mode stands among the arguments.
    proxy.fault = once = Once(b"delete", fault)

    answer = await service.ask("DELETE", "/17")

    assert once.happened
    assert answer.status == 204
    assert await service.comments() == {}
    assert (await service.ask("DELETE", "/17")).status == 404


@pytest.mark.parametrize("fault", [before, during, after, before_the_answer])
async def test_a_connection_cut_at_any_point_of_a_read_costs_no_answer(
    make_service: MakeService, proxy: Proxy, fault: Fault
) -> None:
    service = await make_service({"acme": proxy.dsn}, allow=["batch", "read"])
    await service.put([{KEY: 17}])
    proxy.fault = once = Once(b"measured.size", fault)

    answer = await service.ask("GET")

    assert once.happened
    assert [record[KEY] for record in answer.envelope["data"]] == [17]


@pytest.mark.usefixtures("short_retries")
async def test_a_record_that_cannot_be_read_back_was_stored_all_the_same(
    make_service: MakeService, proxy: Proxy
) -> None:
    service = await make_service(
        {"acme": proxy.dsn}, allow=["write"], database={"statement_timeout_seconds": 1}
    )
    headers: dict[str, str | None] = {"Idempotency-Key": "k"}

    def stay_away(link: Link, _data: bytes) -> None:
        link.cut()

    def from_the_read_on(link: Link, data: bytes) -> bytes | None:
        # Nothing but the read asks for the record by its key.
        if b"where record.care_case_clinical_trial_key = $1" not in data:
            return data
        proxy.fault = stay_away
        link.cut()
        return None

    proxy.fault = from_the_read_on
    answer = await service.ask("POST", "", {KEY: 17, "comment": "kept"}, headers=headers)
    proxy.fault = None
    again = await service.ask("POST", "", {KEY: 17, "comment": "kept"}, headers=headers)

    assert answer.status == 201
    assert answer.headers["Location"].endswith("/17")
    assert answer.envelope["data"] is None
    assert again.envelope["data"]["comment"] == "kept"


async def test_a_record_whose_reply_is_lost_before_an_outage_is_in_doubt(
    make_service: MakeService, proxy: Proxy
) -> None:
    service = await make_service(
        {"acme": proxy.dsn}, database={"statement_timeout_seconds": 1}, allow=["batch", "write"]
    )

    def swallow_then_stay_away(link: Link, data: bytes) -> bytes:
        if MARK in data:
            link.swallows_answers = True
            proxy.fault = lambda link, _data: link.cut()
        return data

    proxy.fault = swallow_then_stay_away
    answer = await service.put([{KEY: 0, "comment": MARK.decode()}] * 3)
    proxy.fault = None

    key = answer.envelope["debug"]["activityID"]
    assert answer.statuses == [503] * 3
    assert all(f"Idempotency-Key: {key}" in body for _, _, body in answer.outcomes)


KEYS_OF_CLIENTS = [
    pytest.param({}, id="none"),
    pytest.param({"Idempotency-Key": "k"}, id="one of its own"),
]


@pytest.mark.usefixtures("short_retries")
@pytest.mark.parametrize("headers", KEYS_OF_CLIENTS)
async def test_a_commit_in_doubt_while_the_database_stays_away_says_how_to_send_again(
    make_service: MakeService, proxy: Proxy, headers: dict[str, str | None]
) -> None:
    service = await make_service({"acme": proxy.dsn}, database={"statement_timeout_seconds": 1})
    batch = [{KEY: 0, "comment": MARK.decode()}, {KEY: 0, "comment": "other"}]

    def lose_the_answer_and_stay_away(link: Link, data: bytes) -> bytes | None:
        proxy.fault = lambda link, _data: link.cut()
        return before_the_answer(link, data)

    proxy.fault = Once(MARK, lose_the_answer_and_stay_away)
    answer = await service.put(batch, headers=headers)
    proxy.fault = None

    assert answer.statuses == [503, 503]
    bodies = {body for _, _, body in answer.outcomes}
    assert all("may have been created anyway" in body for body in bodies)
    ((key,),) = (set(re.findall(r"Idempotency-Key: (\S+)\.", body)) for body in bodies)
    again = await service.put(batch, headers={"Idempotency-Key": key})
    assert again.statuses == [201, 201]
    assert await service.comments() == dict(zip(again.keys, [MARK.decode(), "other"], strict=True))


async def test_half_open_connections_are_noticed_within_the_timeout(
    make_service: MakeService, proxy: Proxy
) -> None:
    service = await make_service(
        {"acme": proxy.dsn},
        database={"statement_timeout_seconds": 1},
        tuning=Tuning(connect_seconds=0.5),
    )
    assert (await service.put([{KEY: 1}])).statuses == [201]

    proxy.stall()
    sending = asyncio.create_task(service.put([{KEY: 1}, {KEY: 0}]))
    await asyncio.sleep(2)
    proxy.resume()

    answer = await asyncio.wait_for(sending, 10)
    assert answer.statuses == [200, 201]
    assert len(await service.comments()) == 2


@pytest.mark.usefixtures("short_retries")
async def test_while_every_connection_is_half_open_items_get_503_in_bounded_time(
    make_service: MakeService, proxy: Proxy
) -> None:
    service = await make_service(
        {"acme": proxy.dsn},
        database={"statement_timeout_seconds": 1},
        tuning=Tuning(connect_seconds=0.3),
    )
    await service.put([{KEY: 1}])

    proxy.stall()
    answer = await asyncio.wait_for(service.put([{KEY: 1}, {KEY: 0}]), 15)
    proxy.resume()

    assert answer.statuses == [503, 503]
    await Ledger(service).assert_recovers()


async def test_connections_that_are_cut_again_and_again_lose_and_double_nothing(
    make_service: MakeService, proxy: Proxy
) -> None:
    service = await make_service({"acme": proxy.dsn})
    ledger = Ledger(service)

    async with ledger.under_load():
        for _ in range(30):
            await asyncio.sleep(0.1)
            proxy.cut()
    await ledger.assert_recovers()

    await ledger.assert_true()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux for its sockets")
async def test_idle_connections_are_kept_alive_by_tcp(proxy: Proxy) -> None:
    pool = await open_pool("acme", Database(proxy.dsn), connect_seconds=5)

    connection = await pool.acquire(5)
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    timers = [columns[5][:2] for columns in sockets if columns[2].endswith(f":{proxy.port:04X}")]
    await pool.release(connection)
    await pool.close()

    assert "02" in timers
