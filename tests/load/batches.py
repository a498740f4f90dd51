"""What is sent and what must come back: batches of records, and the check of their envelopes.

Knows neither Locust nor the service's own structs: a mistake in those must show here.
"""

import random
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

PATH = "/care-case-clinical-trials-batch"
KEY = "careCaseClinicalTrial_Key"
SAMPLE = Path(__file__).parents[2] / "service" / "sample.json"

FIRST_KEY = 1_500_000_000
"""Far from the keys of real records, which a load test must not overwrite."""

STORED = {200: "Updated", 201: "Created"}
REFUSED = 400
TELL_TO_WAIT = (429, 503)


class Expected(NamedTuple):
    """What may come back for one item: the key, and one of the statuses."""

    key: str | None
    statuses: tuple[int, ...]


EXISTS, MAY_EXIST, IS_BAD = (200,), (200, 201), (REFUSED,)


class Batch(NamedTuple):
    """A request body, and what must come back for each of its items."""

    body: bytes
    expected: Sequence[Expected]
    stored_keys: frozenset[int]


class _Template(NamedTuple):
    """A record as JSON but for the digits of its key, which come between the two parts."""

    before: bytes
    after: bytes
    shows_key: bool = True


_BAD_FIELDS: Sequence[dict[str, Any]] = (
    {"careCaseClinicalTrialArm_ID": "A" * 65},
    {"update_User": "longer than twenty letters"},
    {"case_Key": 2**31},
    {"entry_Date": "yesterday"},
    {"comment": "a character PostgreSQL cannot hold: \0"},
    {"study_Title": 7},
)


class Records:
    """The sample's records, whole and spoilt, ready to be given keys."""

    def __init__(self, sample: Path = SAMPLE) -> None:
        records: list[dict[str, Any]] = msgspec.json.decode(sample.read_bytes())
        self.good = [_template(record) for record in records]
        self.bad = [_template(records[0] | fields) for fields in _BAD_FIELDS]
        # A key in quotes with a letter behind it is no integer: the service cannot tell it.
        whole = self.good[0]
        self.bad.append(_Template(whole.before + b'"', b'x"' + whole.after, shows_key=False))


def _template(record: Mapping[str, Any]) -> _Template:
    rest = {name: value for name, value in record.items() if name != KEY}
    return _Template(f'{{"{KEY}":'.encode(), b"," + msgspec.json.encode(rest)[1:])


class Keys:
    """The keys to draw from: all alike, or some hot.

    With ``skew`` 0 the keys of a batch differ, as those of a bulk loader do. Otherwise the
    n-th key weighs n to the power of -skew (Zipf's law), and hot ones repeat in a batch.
    """

    def __init__(self, count: int, skew: float = 0.0, first: int = FIRST_KEY) -> None:
        if count < 1 or skew < 0:
            raise ValueError(f"expected keys >= 1 and a skew >= 0, got {count} and {skew}")
        self._range = range(first, first + count)
        weights = ((n + 1) ** -skew for n in range(count))
        self._weights = list(accumulate(weights)) if skew else None

    def draw(self, size: int, chance: random.Random) -> Sequence[int]:
        """Return the keys of one batch."""
        if self._weights is not None:
            return chance.choices(self._range, cum_weights=self._weights, k=size)
        if size <= len(self._range):
            return chance.sample(self._range, size)
        return chance.choices(self._range, k=size)


def build(
    records: Records,
    keys: Sequence[int],
    chance: random.Random,
    *,
    bad_share: float = 0.0,
    existing: Container[int] = (),
) -> Batch:
    """Return a batch with the keys; ``existing`` are known to be stored already.

    A record that is known to be stored, or that an earlier item of the batch stores, must
    not be Created again; of any other the sender cannot know.
    """
    parts, expected = [], []
    stored: set[int] = set()
    for key in keys:
        if bad_share and chance.random() < bad_share:
            template = chance.choice(records.bad)
            expected.append(Expected(str(key) if template.shows_key else None, IS_BAD))
        else:
            template = records.good[key % len(records.good)]
            exists = key in stored or key in existing
            expected.append(Expected(str(key), EXISTS if exists else MAY_EXIST))
            stored.add(key)
        parts.append(b"%b%d%b" % (template.before, key, template.after))
    return Batch(b"[" + b",".join(parts) + b"]", expected, frozenset(stored))


class Mismatch(Exception):
    """A response is not what it must be: the kind of difference, and where it was found."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class _Pair(Struct):
    key: str
    value: str | None


class _Outcome(Struct):
    id: list[_Pair]
    status: int
    body: Annotated[str, Meta(min_length=1)]


class _Problem(Struct):
    type: str
    title: str
    status: int
    detail: str
    instance: str


class _Debug(Struct):
    activityID: Annotated[str, Meta(min_length=1)]  # noqa: N815


class _Envelope(Struct):
    data: list[_Outcome] | None
    error: _Problem | None
    debug: _Debug


_DECODER = msgspec.json.Decoder(_Envelope)


def _decode(body: bytes) -> _Envelope:
    try:
        return _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise Mismatch("not the envelope", str(error)) from None
    # UnicodeDecodeError is a ValueError.
    except (msgspec.DecodeError, ValueError) as error:
        raise Mismatch("incomplete JSON", f"{error}; it ends with {body[-80:]!r}") from None


def verify(body: bytes, expected: Sequence[Expected]) -> Counter[int]:
    """Return how often each status came. Raises Mismatch where a 207 is not what was due."""
    envelope = _decode(body)
    if envelope.data is None or envelope.error is not None:
        raise Mismatch("not the envelope", "a 207 has data and no error")
    outcomes = envelope.data
    if len(outcomes) != len(expected):
        raise Mismatch("wrong number of outcomes", f"{len(outcomes)} for {len(expected)} items")
    for index, (outcome, due) in enumerate(zip(outcomes, expected, strict=True)):
        pairs = [(pair.key, pair.value) for pair in outcome.id]
        if pairs != [(KEY, due.key)]:
            raise Mismatch("wrong order of keys", f"item {index}: {pairs}, not {due.key}")
        if outcome.status not in due.statuses:
            wanted = " or ".join(map(str, due.statuses))
            raise Mismatch(
                f"item status {outcome.status} instead of {wanted}",
                f"item {index}, key {due.key}: {outcome.body}",
            )
        if outcome.body != STORED.get(outcome.status, outcome.body):
            raise Mismatch("wrong text of an outcome", f"{outcome.status} {outcome.body!r}")
    return Counter(outcome.status for outcome in outcomes)


def verify_refusal(status: int, body: bytes, retry_after: str | None) -> float:
    """Return the seconds to wait before a refused request is sent again. Raises Mismatch."""
    envelope = _decode(body)
    if envelope.data is not None or envelope.error is None or envelope.error.status != status:
        raise Mismatch("not the envelope", f"a {status} has no data, and an error that says so")
    if retry_after is None:
        raise Mismatch(f"{status} without Retry-After", envelope.error.detail)
    return seconds_to_wait(retry_after)


def seconds_to_wait(retry_after: str) -> float:
    """Return what a Retry-After of seconds or of a date asks for. Raises Mismatch."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        raise Mismatch("malformed Retry-After", repr(retry_after)) from None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
