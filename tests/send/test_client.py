"""The client to import: what its users rely on, under faults too."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import pytest
from aiohttp import web

from service.client import Client, CouldNotSend, Outcome
from service.wire import Item
from tests.support.running import MakeService
from tests.support.senders import TOKEN, Front, bad_gateway, cut, outcomes, problem, serving
from tests.support.service import API_KEY, KEY


class Send(Protocol):
    """Sends records with short pauses."""

    async def __call__(
        self, url: str, records: Any, *, name: str = "", **options: Any
    ) -> list[tuple[Any, Outcome]]:
        """Return the records with their outcomes."""


@pytest.fixture
def pauses() -> list[tuple[str, float, int]]:
    """What the client told before its retries."""
    return []


@pytest.fixture
def send(pauses: list[tuple[str, float, int]]) -> Send:
    async def pause(reason: str, seconds: float, attempt: int) -> None:
        pauses.append((reason, seconds, attempt))
        await asyncio.sleep(0.001)

    async def send_them(
        url: str, records: Any, *, name: str = "", **options: Any
    ) -> list[tuple[Any, Outcome]]:
        options = {"timeout_seconds": 10, "pause": pause, **options}
        async with Client(url, "acme", API_KEY, TOKEN, **options) as client:
            return [pair async for pair in client.send(records, name)]

    return send_them


def statuses(pairs: Iterable[tuple[Any, Outcome]]) -> list[int]:
    return [outcome.status for _, outcome in pairs]


def read_keys(batches: Sequence[Sequence[dict[str, int]]]) -> list[list[int]]:
    return [[item[KEY] for item in batch] for batch in batches]


async def test_each_record_comes_back_with_its_outcome_in_order(
    make_service: MakeService, send: Send
) -> None:
    service = await make_service()
    records = [{KEY: number, "update_User": "x" * (number % 30)} for number in range(1, 100)]

    pairs = await send(service.url, records, batch_items=7, concurrency=4)

    assert [record for record, _ in pairs] == records
    assert [outcome.key for _, outcome in pairs] == list(range(1, 100))
    bad = [record[KEY] for record, outcome in pairs if outcome.status == 400]
    assert bad == [number for number in range(1, 100) if number % 30 > 20]
    assert {outcome.body for _, outcome in pairs if outcome.status == 201} == {"Created"}


async def test_records_may_be_structs_or_json_and_come_from_an_async_iterable(
    make_service: MakeService, send: Send
) -> None:
    service = await make_service()
    moment = datetime(2025, 1, 2, tzinfo=UTC)
    records = [
        Item(1, entry_date=moment, update_date=moment),
        msgspec.Raw(b'{"%b": 2}' % KEY.encode()),
        {KEY: 3, "entry_Date": moment},
    ]

    async def each() -> AsyncIterator[Any]:
        for record in records:
            yield record

    pairs = await send(service.url, each())

    assert statuses(pairs) == [201, 201, 201]
    assert [record for record, _ in pairs] == records


async def test_batches_are_cut_by_items_and_by_bytes(send: Send) -> None:
    async with serving(Front()) as front:
        records = [{KEY: key, "comment": "x" * (900 if key == 5 else 1)} for key in range(1, 9)]
        await send(front.url, records, batch_items=3, batch_bytes=500, concurrency=1)

    assert read_keys(front.batches) == [[1, 2, 3], [4], [5], [6, 7, 8]]


async def test_records_of_one_key_take_effect_in_their_order(
    make_service: MakeService, send: Send
) -> None:
    service = await make_service()
    records = [{KEY: 1 + number % 5, "comment": str(number)} for number in range(60)]

    pairs = await send(service.url, records, batch_items=2, concurrency=4)

    assert Counter(statuses(pairs)) == {201: 5, 200: 55}
    assert await service.comments() == {1 + key: str(55 + key) for key in range(5)}


async def test_batches_that_share_a_key_are_never_sent_at_once(send: Send) -> None:
    async with serving(Front()) as front:
        front.seconds = 0.2
        # 1.0 is the same key.
        records = [{KEY: key} for key in (0, 1, 0, 2, 1.0)]
        await send(front.url, records, batch_items=1, concurrency=8)

    assert front.most_of_a_key == {0: 2, 1: 1, 2: 1}


async def test_no_more_batches_are_under_way_than_concurrency_allows(send: Send) -> None:
    async with serving(Front()) as front:
        front.seconds = 0.05
        await send(front.url, [{KEY: 0}] * 12, batch_items=1, concurrency=3)

    assert front.most_of_a_key == {0: 3}


@pytest.mark.parametrize("status", [429, 503])
async def test_an_overloaded_service_is_asked_again_when_it_says(
    send: Send, pauses: list[tuple[str, float, int]], status: int
) -> None:
    async with serving(Front()) as front:
        front.answers = [problem(status, "7")] * 2
        pairs = await send(front.url, [{KEY: 0}, {KEY: 1}])

    assert statuses(pairs) == [200, 200]
    assert [(reason, attempt) for reason, _, attempt in pauses] == [
        (f"the service returned {status}: x", 2),
        (f"the service returned {status}: x", 3),
    ]
    assert 7.25 <= pauses[0][1] <= 7.5
    assert 7.5 <= pauses[1][1] <= 8


async def test_without_a_pause_of_its_own_it_sleeps() -> None:
    async with serving(Front()) as front:
        front.answers = [problem(503, "1")]
        started_at = time.monotonic()
        async with Client(front.url, "acme", API_KEY, TOKEN) as client:
            assert [outcome.status async for _, outcome in client.send([{KEY: 1}])] == [200]

    assert time.monotonic() - started_at >= 1


@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [(None, 0), ("soon", 0), ("3600", 3600)],
)
async def test_a_service_that_stays_overloaded_ends_the_sending(
    send: Send, pauses: list[tuple[str, float, int]], retry_after: str | None, pause: int
) -> None:
    async with serving(Front()) as front:
        front.answers = [problem(503, retry_after)] * 3
        with pytest.raises(CouldNotSend, match="503: x") as raised:
            await send(front.url, [{KEY: 0}, {KEY: 1}], retries=2)

    assert len(front.batches) == 3
    assert all(pause < seconds <= pause + 1 for _, seconds, _ in pauses)
    assert raised.value.status == 503
    assert raised.value.retry_after is not None


async def test_what_was_finished_before_the_end_is_told(send: Send) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((1, 200)), problem(401)]
        told: list[int] = []

        async def send_all() -> None:
            options: Any = {"batch_items": 1, "concurrency": 1}
            async with Client(front.url, "acme", API_KEY, TOKEN, **options) as client:
                async for record, _ in client.send([{KEY: key} for key in range(1, 9)]):
                    told.append(record[KEY])

        with pytest.raises(CouldNotSend, match="401") as raised:
            await send_all()

    assert told == [1]
    assert len(front.batches) == 2
    assert (raised.value.status, raised.value.retry_after) == (401, None)


@pytest.mark.parametrize(
    ("count", "sent"),
    [(1, []), (2, [[0, 1]]), (3, [[0, 1]]), (4, [[0, 1], [2, 3]])],
)
async def test_an_error_of_the_records_is_raised_after_the_outcomes_of_whole_batches(
    send: Send, count: int, sent: list[list[int]]
) -> None:
    told: list[int] = []

    def records() -> Iterator[dict[str, int]]:
        yield from ({KEY: key} for key in range(count))
        raise ValueError("cut")

    async def send_all(url: str) -> None:
        async with Client(url, "acme", API_KEY, TOKEN, batch_items=2) as client:
            async for record, _ in client.send(records()):
                told.append(record[KEY])

    async with serving(Front()) as front:
        front.seconds = 0.1
        with pytest.raises(ValueError, match="cut"):
            await send_all(front.url)

    assert read_keys(front.batches) == sent
    assert told == [key for batch in sent for key in batch]


async def test_named_items_with_503_are_sent_again_alone(send: Send) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((1, 503), (2, 201), (1, 503), (41, 201))]
        pairs = await send(front.url, [{KEY: key} for key in (1, 2, 1, 0)])

    assert read_keys(front.batches) == [[1, 2, 1, 0], [1, 1]]
    assert statuses(pairs) == [200, 201, 200, 201]
    assert len(set(front.keys)) == 2


async def test_items_without_key_that_got_503_are_sent_again_with_their_whole_batch(
    send: Send,
) -> None:
    async with serving(Front()) as front:
        front.answers = [
            outcomes((1, 503), (2, 201), (0, 503), (41, 201)),
            outcomes((1, 503), (2, 200), (42, 201), (41, 201)),
        ]
        pairs = await send(front.url, [{KEY: key} for key in (1, 2, 0, 0)])

    assert read_keys(front.batches) == [[1, 2, 0, 0], [1, 2, 0, 0], [1]]
    assert front.keys[0] == front.keys[1] != front.keys[2]
    assert statuses(pairs) == [200, 200, 201, 201]
    assert [outcome.key for _, outcome in pairs] == [1, 2, 42, 41]


async def test_a_503_that_lasts_is_told_and_the_others_go_on(send: Send) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((1, 200), (2, 503)), outcomes((2, 503))]
        records = [{KEY: 1}, {KEY: 2}, {KEY: 3}]
        pairs = await send(front.url, records, batch_items=2, concurrency=1, retries=1)

    assert statuses(pairs) == [200, 503, 200]


async def test_a_503_of_every_item_ends_the_sending(send: Send) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((1, 503), (2, 503))] * 2
        records = [{KEY: 1}, {KEY: 2}, {KEY: 3}]
        with pytest.raises(CouldNotSend, match="told"):
            await send(front.url, records, batch_items=2, concurrency=1, retries=1)


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        outcomes((7, 201), is_cut=True),
        outcomes((7, 201)),
        bad_gateway,
        problem(500),
        problem(409, "0"),
    ],
    ids=["no answer", "half an answer", "too few outcomes", "a proxy's answer", "500", "at work"],
)
async def test_without_a_whole_answer_the_batch_is_sent_again_under_its_key(
    send: Send, harm: Any
) -> None:
    async with serving(Front()) as front:
        front.answers = [harm]
        pairs = await send(front.url, [{KEY: key} for key in (0, 1, 0, 2)])

    assert read_keys(front.batches) == [[0, 1, 0, 2]] * 2
    assert front.keys[0] == front.keys[1]
    assert statuses(pairs) == [200] * 4


@pytest.mark.parametrize("status", [404, 409, 422])
async def test_a_refusal_of_the_request_ends_the_sending(send: Send, status: int) -> None:
    async with serving(Front()) as front:
        front.answers = [problem(status)]
        with pytest.raises(CouldNotSend, match=f"the service returned {status}: x") as raised:
            await send(front.url, [{KEY: 0}, {KEY: 1}])

    assert len(front.batches) == 1
    assert raised.value.retry_after is None


async def test_what_a_batch_is_refused_for_is_found_and_the_rest_is_stored(
    make_service: MakeService, send: Send
) -> None:
    service = await make_service(max_batch_items=3, max_body_bytes=1000)
    records = [{KEY: key, "comment": "x" * (2000 if key == 5 else 1)} for key in range(1, 12)]

    pairs = await send(service.url, records)

    assert [(record[KEY], o.status) for record, o in pairs if o.status != 201] == [(5, 413)]
    assert set(await service.comments()) == set(range(1, 12)) - {5}


async def test_a_400_that_is_not_the_services_own_is_no_reason_to_look_for_a_bad_record(
    send: Send,
) -> None:
    async def refuse(*_: Any) -> Any:
        return web.Response(status=400, text="no")

    async with serving(Front()) as front:
        front.answers = [refuse]
        with pytest.raises(CouldNotSend, match="400"):
            await send(front.url, [{KEY: 1}, {KEY: 2}])

    assert len(front.batches) == 1


async def test_under_a_name_the_same_records_have_the_same_keys_in_every_call(send: Send) -> None:
    async with serving(Front()) as front:
        for name, last in (("a", 0), ("a", 0), ("a", 25), ("b", 0)):
            await send(front.url, [{KEY: 0}, {KEY: last}], name=name, batch_items=1, concurrency=1)

    first, again, edited, named = (front.keys[at : at + 2] for at in (0, 2, 4, 6))
    assert first == again
    assert len({*first, *edited, *named}) == 5


async def test_without_a_name_no_two_calls_have_a_key_in_common(
    make_service: MakeService, send: Send
) -> None:
    service = await make_service()

    for _ in range(2):
        await send(service.url, [{KEY: 0}] * 2)

    assert len(await service.comments()) == 4


async def test_whoever_goes_on_at_a_place_sends_the_same_batches() -> None:
    records = [{KEY: 0, "comment": str(number)} for number in range(10)]
    async with serving(Front()) as front:
        for place in (0, 3, 6):
            async with Client(front.url, "acme", API_KEY, TOKEN, batch_items=3) as client:
                async for _ in client.batches(records[place:], "n", place):
                    pass

    whole, rest, end = front.keys[:4], front.keys[4:7], front.keys[7:]
    assert whole[1:] == rest
    assert rest[1:] == end
