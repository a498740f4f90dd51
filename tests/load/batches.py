"""The batches of the load test, and the check of their outcomes. Does not import Locust."""

import random
from collections import Counter
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import msgspec

from service.wire import KEY_FIELD, SAMPLE, Envelope, KeyValuePair

FIRST_KEY = 1_500_000_000
"""Far from the keys of real records, which a load test must not overwrite."""

RECORDS: list[dict[str, Any]] = msgspec.json.decode(SAMPLE.read_bytes())

BAD_FIELDS: Sequence[dict[str, Any]] = (
    {"careCaseClinicalTrialArm_ID": "A" * 65},
    {"case_Key": 2**31},
    {"entry_Date": "yesterday"},
    {"comment": "a character that PostgreSQL cannot store: \0"},
    {"study_Title": 7},
    {KEY_FIELD: "not an integer"},
)

BODIES = {200: "Updated", 201: "Created"}


class Batch(NamedTuple):
    """A request body, the right outcome of each item, and the keys that it stores."""

    body: bytes
    expected: Sequence[tuple[str | None, Sequence[int]]]
    """The reported record key (None: it cannot be read), and the statuses that are right."""

    stored_keys: set[int]


def build(
    keys: Sequence[int],
    chance: random.Random,
    *,
    bad_share: float = 0.0,
    existing: Container[int] = (),
) -> Batch:
    """Return a batch with the keys.

    A record of ``existing``, or of an earlier item of the batch, must not be Created again. The
    sender cannot know that of any other record.
    """
    items: list[dict[str, Any]] = []
    expected: list[tuple[str | None, Sequence[int]]] = []
    stored: set[int] = set()
    for key in keys:
        item = RECORDS[key % len(RECORDS)] | {KEY_FIELD: key}
        if chance.random() < bad_share:
            fields = chance.choice(BAD_FIELDS)
            items.append(item | fields)
            expected.append((None if KEY_FIELD in fields else str(key), (400,)))
        else:
            items.append(item)
            exists = key in stored or key in existing
            expected.append((str(key), (200,) if exists else (200, 201)))
            stored.add(key)
    return Batch(msgspec.json.encode(items), expected, stored)


class Mismatch(Exception):
    """A response is wrong: the kind of difference, and its place."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


def check(body: bytes, batch: Batch) -> Counter[int]:
    """Return the number of items by status. Raises Mismatch unless a 207's body is right."""
    try:
        outcomes = msgspec.json.decode(body, type=Envelope).data
    # UnicodeDecodeError is a ValueError.
    except (msgspec.DecodeError, ValueError) as error:
        raise Mismatch("not a whole envelope", f"{error}; it ends with {body[-80:]!r}") from None
    if outcomes is None or len(outcomes) != len(batch.expected):
        raise Mismatch("wrong number of outcomes", f"{outcomes and len(outcomes)}")
    for index, (outcome, due) in enumerate(zip(outcomes, batch.expected, strict=True)):
        key, statuses = due
        if outcome.id != [KeyValuePair(KEY_FIELD, key)]:
            raise Mismatch("wrong order of keys", f"item {index}: {outcome}, expected {due}")
        if outcome.status not in statuses:
            raise Mismatch("wrong status", f"item {index}: {outcome}, expected {due}")
        if not outcome.body or outcome.body != BODIES.get(outcome.status, outcome.body):
            raise Mismatch("wrong body", f"item {index}: {outcome}")
    return Counter(outcome.status for outcome in outcomes)
