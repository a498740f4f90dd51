"""Sending under faults: what may be sent again is, in order, and nothing else twice."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from service.client import CouldNotSend, connect
from service.send.delivery import Pace, Sender
from service.send.progress import Progress
from service.send.records import Record, Records
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
        progress = Progress(path, tmp_path / "failed", url, "acme")
        pace = Pace(batch_size, concurrency, retries, first_delay_seconds=0.01)
        async with connect(url, "acme", API_KEY, TOKEN, patience=10, concurrency=8) as client:
            with path.open("rb") as source:
                sender = Sender(client, progress, pace, asyncio.Event())
                await sender.send(Records(source, "ndjson"))
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


async def test_items_with_503_are_sent_again_with_the_later_ones_of_their_key(send: Send) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((1, 503), (2, 201), (1, 201), (0, 503), (41, 503))]
        counts = await send(front.url, [{KEY: key} for key in (1, 2, 1, 0, 0)])

    # The second without a key may be stored: it is sent with the key that was drawn for it.
    assert [[item[KEY] for item in batch] for batch in front.batches] == [
        [1, 2, 1, 0, 0],
        [1, 1, 0, 41],
    ]
    assert counts == {"201": 1, "200": 4}


async def test_items_whose_503_lasts_fail_and_the_others_go_on(send: Send, tmp_path: Path) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((1, 200), (2, 503)), outcomes((2, 503))]
        records = [{KEY: 1}, {KEY: 2}, {KEY: 3}]
        counts = await send(front.url, records, batch_size=2, concurrency=1, retries=1)

    assert counts == {"200": 2, "503": 1}
    assert failures(tmp_path / "failed") == [(2, 503, "told", {KEY: 2})]


async def test_a_record_that_may_be_stored_under_a_drawn_key_is_not_left_with_key_0(
    send: Send, tmp_path: Path
) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((41, 503))]
        with pytest.raises(CouldNotSend):
            await send(front.url, [{KEY: 0}], retries=0)

    assert failures(tmp_path / "failed") == [(1, 503, "told", {KEY: 41})]


@pytest.mark.parametrize(
    ("harm", "read"),
    [(cut, 0), (outcomes((7, 201), is_cut=True), 1), (bad_gateway, 0), (problem(500), 0)],
    ids=["no answer", "half an answer", "a proxy's answer", "500"],
)
async def test_after_a_broken_connection_records_without_key_are_in_doubt_others_sent_again(
    send: Send, tmp_path: Path, harm: Any, read: int
) -> None:
    records = [{KEY: key} for key in (0, 1, 0, 2)]

    async with serving(Front()) as front:
        front.answers = [harm]
        counts = await send(front.url, records)

    assert [[item[KEY] for item in batch] for batch in front.batches] == [[0, 1, 0, 2], [1, 2]]
    assert counts == {"200": 2, "in doubt": 2 - read} | ({"201": 1} if read else {})
    for _, status, reason, item in failures(tmp_path / "failed"):
        assert (status, item) == (None, {KEY: 0})
        assert reason.startswith("in doubt: ")
        assert reason.endswith("; check before sending again")


async def test_a_kept_alive_connection_that_breaks_is_not_used_again_by_itself(send: Send) -> None:
    async with serving(Front()) as front:
        front.answers = [outcomes((9, 200)), cut]
        counts = await send(front.url, [{KEY: 9}, {KEY: 0}], batch_size=1, concurrency=1)

    # aiohttp would send any PUT again there.
    assert len(front.batches) == 2
    assert counts == {"200": 1, "in doubt": 1}


def test_a_new_run_keeps_the_failed_records_of_the_one_before(tmp_path: Path) -> None:
    failed = tmp_path / "failed"
    progress = Progress(None, failed, "http://x", "acme")
    progress.note(Record(1, b'{"a":\n1}', None), 400, "why")

    progress.start_anew()

    assert not failed.exists()
    assert failures(tmp_path / "failed.old") == [(1, 400, "why", {"a": 1})]
