"""The load test's own parts: what it builds, and that it finds every kind of wrong response."""

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.harness.service import ServiceUnderTest
from tests.load.arrivals import Arrivals
from tests.load.batches import (
    KEY,
    Batch,
    Expected,
    Keys,
    Mismatch,
    Records,
    build,
    seconds_to_wait,
    verify,
    verify_refusal,
)
from tests.load.make_body import bodies
from tests.load.thresholds import Measured, broken, threshold

EXPECTED = [Expected("7", (201, 200)), Expected(None, (400,)), Expected("7", (200,))]


def outcome(key: str | None, status: int, body: str) -> dict[str, Any]:
    """Return one outcome as the service writes it."""
    return {"id": [{"key": KEY, "value": key}], "status": status, "body": body}


def envelope() -> dict[str, Any]:
    """Return the response that is due for EXPECTED."""
    data = [
        outcome("7", 201, "Created"),
        outcome(None, 400, f"{KEY} is expected to be an integer"),
        outcome("7", 200, "Updated"),
    ]
    return {"data": data, "error": None, "debug": {"activityID": "0d4c"}}


def refusal(status: int = 503) -> dict[str, Any]:
    """Return the response of a request that is refused as a whole."""
    error = {"type": "about:blank", "title": "", "status": status, "detail": "", "instance": "/"}
    return {"data": None, "error": error, "debug": {"activityID": "0d4c"}}


def batch_of(keys: list[int], **options: Any) -> Batch:
    return build(Records(), keys, random.Random(1), **options)


def test_what_is_due_is_accepted_and_counted() -> None:
    statuses = verify(json.dumps(envelope()).encode(), EXPECTED)

    assert statuses == Counter({201: 1, 400: 1, 200: 1})


def _swap(data: list[Any]) -> None:
    data[0], data[1] = data[1], data[0]


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        pytest.param(lambda data: data.pop(), "wrong number of outcomes", id="one-too-few"),
        pytest.param(
            lambda data: data.append(outcome("8", 200, "Updated")),
            "wrong number of outcomes",
            id="one-too-many",
        ),
        pytest.param(_swap, "wrong order of keys", id="order"),
        pytest.param(
            lambda data: data[0]["id"].append(data[0]["id"][0]), "wrong order of keys", id="two-ids"
        ),
        pytest.param(
            lambda data: data[0].update(status=500),
            "item status 500 instead of 201 or 200",
            id="status-of-a-good-item",
        ),
        pytest.param(
            lambda data: data[1].update(status=201),
            "item status 201 instead of 400",
            id="status-of-a-bad-item",
        ),
        pytest.param(
            lambda data: data[2].update(status=201),
            "item status 201 instead of 200",
            id="created-twice",
        ),
        pytest.param(
            lambda data: data[0].update(body="Updated"), "wrong text of an outcome", id="text"
        ),
        pytest.param(lambda data: data[1].update(body=""), "not the envelope", id="empty-text"),
        pytest.param(lambda data: data[0].pop("id"), "not the envelope", id="no-id"),
    ],
)
def test_a_wrong_outcome_is_found(spoil: Callable[[list[Any]], None], kind: str) -> None:
    response = envelope()
    spoil(response["data"])

    with pytest.raises(Mismatch) as found:
        verify(json.dumps(response).encode(), EXPECTED)

    assert found.value.kind == kind


def test_a_response_cut_anywhere_is_found() -> None:
    whole = json.dumps(envelope()).encode()

    for length in range(len(whole)):
        with pytest.raises(Mismatch) as found:
            verify(whole[:length], EXPECTED)
        assert found.value.kind == "incomplete JSON"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"data":[]}', "not the envelope"),
        (json.dumps(refusal()).encode(), "not the envelope"),
        (json.dumps(envelope()).encode() + b"}", "incomplete JSON"),
        (json.dumps(envelope()).encode().replace(b"Created", b"\xff"), "incomplete JSON"),
    ],
    ids=["no-debug", "data-null", "more-behind-it", "not-utf-8"],
)
def test_what_is_no_envelope_is_found(body: bytes, kind: str) -> None:
    with pytest.raises(Mismatch) as found:
        verify(body, EXPECTED)

    assert found.value.kind == kind


@pytest.mark.parametrize(
    ("status", "body", "retry_after", "kind"),
    [
        (503, refusal(), None, "503 without Retry-After"),
        (503, refusal(), "soon", "malformed Retry-After"),
        (429, refusal(), "2", "not the envelope"),
        (503, envelope(), "2", "not the envelope"),
    ],
    ids=["no-retry-after", "malformed", "another-status", "has-data"],
)
def test_a_wrong_refusal_is_found(
    status: int, body: Any, retry_after: str | None, kind: str
) -> None:
    with pytest.raises(Mismatch) as found:
        verify_refusal(status, json.dumps(body).encode(), retry_after)

    assert found.value.kind == kind


def test_retry_after_may_be_seconds_or_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)

    assert verify_refusal(503, json.dumps(refusal()).encode(), "2") == 2
    assert 55 < seconds_to_wait(in_a_minute) <= 60
    assert seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_a_batch_is_json_with_the_keys_that_were_drawn() -> None:
    batch = batch_of([17, 18, 17], existing={18})

    assert [item[KEY] for item in json.loads(batch.body)] == [17, 18, 17]
    assert batch.expected == [
        Expected("17", (200, 201)), Expected("18", (200,)), Expected("17", (200,)),
    ]  # fmt: skip
    assert batch.stored_keys == {17, 18}


def test_bad_items_are_expected_to_be_refused() -> None:
    batch = batch_of(list(range(1, 1001)), bad_share=0.1)

    bad = [due for due in batch.expected if due.statuses == (400,)]
    assert 50 < len(bad) < 200
    assert len(batch.stored_keys) == 1000 - len(bad)
    assert any(due.key is None for due in bad)


async def test_the_service_answers_as_the_load_test_expects(
    make_service: Callable[..., Any],
) -> None:
    service: ServiceUnderTest = await make_service()
    batch = batch_of([1, 2, 3, 2, *range(10, 200)], bad_share=0.3)

    first = await service.put(batch.body)
    known = batch_of([1, 2, 3, 2, *range(10, 200)], bad_share=0.3, existing=batch.stored_keys)
    again = await service.put(known.body)

    bad = sum(due.statuses == (400,) for due in batch.expected)
    assert verify(first.body, batch.expected)[201] == len(batch.stored_keys)
    assert verify(again.body, known.expected) == Counter({200: len(known.expected) - bad, 400: bad})


def test_uniform_keys_differ_within_a_batch_and_skewed_ones_repeat() -> None:
    chance = random.Random(1)

    uniform = Keys(1000, first=5).draw(1000, chance)
    skewed = Counter(Keys(1000, skew=1.2, first=5).draw(1000, chance))

    assert sorted(uniform) == list(range(5, 1005))
    assert skewed.most_common(1)[0][0] == 5
    assert skewed[5] > 100


def test_a_body_file_has_a_batch_a_line_and_no_key_twice() -> None:
    batches = [json.loads(line) for line in bodies(items=30, batches=3).splitlines()]

    assert [len(batch) for batch in batches] == [30, 30, 30]
    assert len({item[KEY] for batch in batches for item in batch}) == 90


def test_stages_are_read() -> None:
    pytest.importorskip("locust", reason="Locust is installed by make load, not by make test")
    from tests.load.stages import Stage, stages

    assert stages("10s:4,1m:16") == [Stage(10, 4), Stage(70, 16)]


def measured(answered: int, failed: int = 0, refused: int = 0) -> Measured:
    """Return what a load test found whose slowest 10% of the batches took 300 ms, others 100 ms."""
    return Measured(answered, failed, refused, lambda share: 300 if share > 0.9 else 100)


@pytest.mark.parametrize(
    ("texts", "found", "failed"),
    [
        ([], measured(10), []),
        ([], measured(10, failed=1), ["failures>0%: it was 9.09%"]),
        (["failures>10%"], measured(10, failed=1), []),
        (["failures > 9%"], measured(10, failed=1), ["failures > 9%: it was 9.09%"]),
        (["refused>50%"], measured(10, refused=10), []),
        (["refused>49.5%"], measured(10, refused=10), ["refused>49.5%: it was 50.00%"]),
        (["p90>100ms", "p95>300ms", "max>0.3s"], measured(10), []),
        (["p50>99.9ms"], measured(10), ["p50>99.9ms: it was 100 ms"]),
        (
            ["p95>200ms", "max>0.2s", "p50>1s"],
            measured(10),
            ["p95>200ms: it was 300 ms", "max>0.2s: it was 300 ms"],
        ),
    ],
)
def test_a_threshold_that_is_not_kept_is_told(
    texts: list[str], found: Measured, failed: list[str]
) -> None:
    assert broken(list(map(threshold, texts)), found) == failed


@pytest.mark.parametrize("text", ["p95", "p95>200", "p101>1s", "p95<1s", "failures>1", "rate>1%"])
def test_a_threshold_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="p95>200ms"):
        threshold(text)


def test_arrivals_keep_their_rate_whatever_the_service_does() -> None:
    arrivals = Arrivals(50, random.Random(1))

    # Asked late: the clock of who asks has no part in it after the first.
    due = [arrivals.next(now=100.0 + asked * 7) for asked in range(5001)]

    assert due[0] == 100
    assert due == sorted(due)
    assert 98 < due[-1] - due[0] < 102
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert min(gaps) < 0.001
    assert max(gaps) > 0.1
