"""Sending under faults: all is sent again, in order and under the keys it had."""

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import pytest

from service.client import CouldNotSend, connect
from service.send.delivery import Pace, Sender
from service.send.progress import Progress
from service.send.records import Fate, Record, Records
from tests.harness.running import MakeService
from tests.harness.senders import (
    TOKEN,
    Front,
    as_ndjson,
    bad_gateway,
    cut,
    failures,
    outcomes,
    problem,
    serving,
)
from tests.harness.service import API_KEY, KEY


class Send(Protocol):
    """Sends records as the command does."""

    async def __call__(
        self,
        url: str,
        records: Sequence[Any],
        *,
        batch_size: int = 1000,
        concurrency: int = 4,
        retries: int = 6,
    ) -> dict[str, int]:
        """Return the counts by status."""


@pytest.fixture
def send(tmp_path: Path) -> Send:
    """Sends records as the command does, with short delays; returns the counts."""

    async def send_them(
        url: str,
        records: Sequence[Any],
        *,
        batch_size: int = 1000,
        concurrency: int = 4,
        retries: int = 6,
    ) -> dict[str, int]:
        path = tmp_path / "r.ndjson"
        path.write_bytes(as_ndjson(records))
        os.utime(path, (1, 1))
        progress = Progress(path, tmp_path / "failed", url, "acme", batch_size)
        progress.load()
        pace = Pace(concurrency, retries, first_delay_seconds=0.01)
        async with connect(url, "acme", API_KEY, TOKEN, patience=10, concurrency=8) as client:
            with path.open("rb") as source:
                sender = Sender(client, progress, pace, asyncio.Event())
                await sender.send(Records(source, "ndjson"))
        progress.remove()
        return dict(progress.counts)

    return send_them


async def test_records_with_one_key_take_effect_in_file_order(
    make_service: MakeService, send: Send
) -> None:
    service = await make_service()
    records = [{KEY: 1 + number % 5, "comment": str(number)} for number in range(60)]

    counts = await send(service.url, records, batch_size=2, concurrency=4)

    assert counts == {"201": 5, "200": 55}
    assert await service.comments() == {1 + key: str(55 + key) for key in range(5)}


async def test_batches_that_share_a_key_are_never_sent_at_once(send: Send) -> None:
    async with serving(Front()) as front:
        front.seconds = 0.2
        records = [{KEY: key} for key in (0, 1, 0, 2, 1)]
        await send(front.url, records, batch_size=1, concurrency=8)

    assert front.most_of_a_key == {0: 2, 1: 1, 2: 1}


@pytest.mark.parametrize("status", [429, 503])
async def test_an_overloaded_service_is_asked_again_when_it_says(send: Send, status: int) -> None:
    async with serving(Front()) as front:
        front.answers = [problem(status, "1")]
        started_at = time.monotonic()
        counts = await send(front.url, [{KEY: 0}, {KEY: 1}])

    assert counts == {"200": 2}
    assert len(front.batches) == 2
    assert time.monotonic() - started_at >= 1


IN_AN_HOUR = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    ("retry_after", "requests"),
    [(None, 3), ("soon", 3), ("3600", 1), pytest.param(IN_AN_HOUR, 1, id="in an hour")],
)
async def test_a_service_that_stays_overloaded_ends_the_run_and_nothing_fails(
    send: Send, tmp_path: Path, retry_after: str | None, requests: int
) -> None:
    async with serving(Front()) as front:
        front.answers = [problem(503, retry_after)] * 3
        with pytest.raises(CouldNotSend, match="503: x"):
            await send(front.url, [{KEY: 0}, {KEY: 1}], retries=2)

    assert len(front.batches) == requests
    assert not (tmp_path / "failed").exists()


async def test_named_items_with_503_are_sent_again_alone(send: Send) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((1, 503), (2, 201), (1, 503), (41, 201))]
        counts = await send(front.url, [{KEY: key} for key in (1, 2, 1, 0)])

    assert [[item[KEY] for item in batch] for batch in front.batches] == [[1, 2, 1, 0], [1, 1]]
    assert counts == {"201": 2, "200": 2}
    assert len(set(front.keys)) == 2


async def test_items_without_key_that_got_503_are_sent_again_with_their_whole_batch(
    send: Send,
) -> None:
    async with serving(Front()) as front:
        front.answers = [
            outcomes((1, 503), (2, 201), (0, 503), (41, 201)),
            outcomes((1, 503), (2, 200), (42, 201), (41, 201)),
        ]
        counts = await send(front.url, [{KEY: key} for key in (1, 2, 0, 0)])

    assert [[item[KEY] for item in batch] for batch in front.batches] == [
        [1, 2, 0, 0],
        [1, 2, 0, 0],
        [1],
    ]
    assert front.keys[0] == front.keys[1] != front.keys[2]
    assert counts == {"201": 3, "200": 1}


async def test_items_whose_503_lasts_fail_and_the_others_go_on(send: Send, tmp_path: Path) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((1, 200), (2, 503)), outcomes((2, 503))]
        records = [{KEY: 1}, {KEY: 2}, {KEY: 3}]
        counts = await send(front.url, records, batch_size=2, concurrency=1, retries=1)

    assert counts == {"200": 2, "503": 1}
    assert failures(tmp_path / "failed") == [(2, 503, "told", {KEY: 2})]


async def test_a_batch_whose_item_without_key_keeps_503_is_left_and_those_of_other_keys_go_on(
    send: Send, tmp_path: Path
) -> None:
    records = [{KEY: key} for key in (0, 1, 2, 3, 4, 1, 5, 6)]

    async with serving(Front()) as front:
        front.answers = [outcomes((0, 503), (1, 200))]
        with pytest.raises(CouldNotSend, match="record 1 got 503: told"):
            await send(front.url, records, batch_size=2, concurrency=1, retries=0)
        counts = await send(front.url, records, batch_size=2, concurrency=1)

    # Of one key, what comes later in the file waits for what comes first.
    assert [[item[KEY] for item in batch] for batch in front.batches] == [
        [0, 1],
        [2, 3],
        [0, 1],
        [4, 1],
        [5, 6],
    ]
    assert front.keys[0] == front.keys[2]
    assert counts == {"200": 8}
    assert not (tmp_path / "failed").exists()


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
        counts = await send(front.url, [{KEY: key} for key in (0, 1, 0, 2)])

    assert [[item[KEY] for item in batch] for batch in front.batches] == [[0, 1, 0, 2]] * 2
    assert front.keys[0] == front.keys[1]
    assert counts == {"200": 4}


@pytest.mark.parametrize("status", [409, 422])
async def test_a_refusal_of_the_key_ends_the_run(send: Send, tmp_path: Path, status: int) -> None:
    async with serving(Front()) as front:
        front.answers = [problem(status)]
        with pytest.raises(CouldNotSend, match=f"the service answered {status}: x"):
            await send(front.url, [{KEY: 0}, {KEY: 1}])

    assert len(front.batches) == 1
    assert not (tmp_path / "failed").exists()


async def test_a_batch_has_the_same_key_in_every_run_and_another_elsewhere(send: Send) -> None:
    async with serving(Front()) as front:
        for records in ([{KEY: 0}] * 2, [{KEY: 0}] * 2, [{KEY: 0}, {KEY: 25}]):
            await send(front.url, records, batch_size=1, concurrency=1)

    first, again, edited = front.keys[:2], front.keys[2:4], front.keys[4:]
    assert first == again
    assert len({*first, *edited}) == 4


def test_failures_that_a_killed_run_did_not_finish_with_are_told_once(tmp_path: Path) -> None:
    source, failed = tmp_path / "r.ndjson", tmp_path / "failed"
    source.touch()
    batches = [[Record(number, b"{}", None)] for number in (1, 2)]
    fates = {1: Fate(400, "why"), 2: Fate(400, "too")}
    killed = Progress(source, failed, "http://x", "acme", 1)
    killed.finish(batches[0], fates)
    kept = (tmp_path / "r.ndjson.progress").read_bytes()
    killed.finish(batches[1], fates)
    (tmp_path / "r.ndjson.progress").write_bytes(kept)

    progress = Progress(source, failed, "http://x", "acme", 1)
    assert progress.load()
    left = list(progress.unfinished(chain(*batches)))
    progress.finish(batches[1], fates)

    assert left == [batches[1]]
    assert failures(failed) == [(1, 400, "why", {}), (2, 400, "too", {})]
    assert progress.counts == {"400": 2}


def test_a_new_run_keeps_the_failed_records_of_the_one_before(tmp_path: Path) -> None:
    failed = tmp_path / "failed"
    progress = Progress(None, failed, "http://x", "acme", 1)
    progress.finish([Record(1, b'{"a":\n1}', None)], {1: Fate(400, "why")})

    progress.start_anew()

    assert not failed.exists()
    assert failures(tmp_path / "failed.old") == [(1, 400, "why", {"a": 1})]
