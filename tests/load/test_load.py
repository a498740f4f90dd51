"""The load test's own parts: what it builds, and that it finds every kind of wrong response."""

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.load.batches import Batch, Mismatch, build, check
from tests.support.running import MakeService

KEYS = [1, 2, 3, 2, *range(10, 200)]


def batch_of(bad_share: float, existing: frozenset[int] = frozenset()) -> Batch:
    return build(KEYS, random.Random(1), bad_share=bad_share, existing=existing)


async def test_the_service_answers_as_the_load_test_expects(make_service: MakeService) -> None:
    service = await make_service()
    batch = batch_of(0.3)

    first = await service.put(batch.body)
    known = batch_of(0.3, frozenset(batch.stored_keys))
    again = await service.put(known.body)

    bad = sum(statuses == (400,) for _, statuses in batch.expected)
    assert 0 < bad < len(KEYS)
    assert check(first.body, batch)[201] == len(batch.stored_keys)
    assert check(again.body, known) == Counter({200: len(KEYS) - bad, 400: bad})


def outcome(key: str, status: int, body: str) -> dict[str, Any]:
    return {
        "id": [{"key": "careCaseClinicalTrial_Key", "value": key}],
        "status": status,
        "body": body,
    }


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda body: body[:-1], "not a whole envelope"),
        (lambda body: body.replace(b"Created", b"\xff"), "not a whole envelope"),
        (lambda body: body.replace(b'"id"', b'"other"'), "not a whole envelope"),
        (lambda body: b'{"data":null,' + body.rpartition(b"],")[2], "wrong number of outcomes"),
        (lambda body: body.replace(b'"7"', b'"8"', 1), "wrong order of keys"),
        (lambda body: body.replace(b"201", b"500"), "wrong status"),
        (lambda body: body.replace(b"200", b"201"), "wrong status"),
        (lambda body: body.replace(b"Created", b"Updated"), "wrong body"),
        (lambda body: body.replace(b"an integer", b""), "wrong body"),
    ],
    ids=[
        *("cut", "not UTF-8", "a missing field", "no data", "another key", "failed"),
        *("created twice", "another text", "no text"),
    ],
)  # fmt: skip
def test_a_wrong_response_is_found(spoil: Callable[[bytes], bytes], kind: str) -> None:
    batch = Batch(b"", [("7", (200, 201)), ("9", (400,)), ("7", (200,))], set())
    data = [outcome("7", 201, "Created"), outcome("9", 400, "an integer")]
    envelope = {
        "data": [*data, outcome("7", 200, "Updated")], "error": None, "debug": {"activityID": "x"}
    }  # fmt: skip
    body = json.dumps(envelope, separators=(",", ":")).encode()
    assert check(body, batch) == Counter({200: 1, 201: 1, 400: 1})

    with pytest.raises(Mismatch) as found:
        check(spoil(body), batch)

    assert found.value.kind == kind
