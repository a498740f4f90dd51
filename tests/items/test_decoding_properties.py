"""No input yields a 500 or an unfinished envelope, and every item gets an outcome."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.items.decode import BatchDecoder
from service.items.json_scanner import MalformedBody
from service.items.split import split_batch
from service.wire import Item, Outcome
from tests.support.running import MakeService
from tests.support.service import KEY, ServiceUnderTest

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [KEY, *Item.__struct_encode_fields__]
almost_items = st.dictionaries(st.sampled_from([*FIELDS, "else"]), json_values, max_size=6)
good_items = st.fixed_dictionaries(
    {KEY: st.integers(-(2**31), 2**31 - 1)},
    optional={
        "comment": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        "update_Date": st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
        "case_Key": st.none() | st.integers(-(2**31), 2**31 - 1),
    },
)
batches = st.lists(json_values | almost_items | good_items, max_size=8)


@pytest.fixture
async def running_service(make_service: MakeService) -> ServiceUnderTest:
    """A service for all examples of a test."""
    return await make_service()


def decode(body: bytes) -> list[Outcome]:
    """Return the outcome of each item: Created for those that are valid."""
    decoder = BatchDecoder(ignore_unknown_fields=False)
    entries: list[Outcome] = []
    for chunk in filter(None, list(split_batch(body, 1000, 10_000))):
        decoded = decoder.decode(body, chunk)
        entries += decoded.in_order([stored(item) for item in decoded.items])
    return entries


def stored(item: Item) -> Outcome:
    return Outcome(item.care_case_clinical_trial_key, 201, "Created")


def is_json(body: bytes) -> bool:
    """Tell by another parser whether the body is an array; bytes that are not UTF-8 are allowed
    inside texts, which the contract gives to the item."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
        return isinstance(json.loads(text, parse_constant=refuse), list)
    except (ValueError, RecursionError):
        return False


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:\\u0d8 12\n', max_size=40).map(str.encode))
@settings(max_examples=500)
def test_bytes_are_a_batch_exactly_when_they_are_a_json_array(body: bytes) -> None:
    try:
        decode(body)
    except MalformedBody:
        assert not is_json(body)
    else:
        assert is_json(body)


@given(batches, st.sampled_from([None, 1]), st.booleans())
@settings(max_examples=300)
def test_every_item_of_a_json_array_gets_an_entry(
    batch: list[Any], indent: int | None, ensure_ascii: bool
) -> None:
    text = json.dumps(batch, indent=indent, ensure_ascii=ensure_ascii)
    text = text.replace("NaN", "null").replace("-Infinity", "1").replace("Infinity", "1e999")

    entries = decode(text.encode("utf-8", "surrogatepass"))

    assert len(entries) == len(batch)
    for entry in entries:
        assert entry.status == 201 or (entry.status == 400 and entry.body)


whole_bodies = batches.map(lambda batch: json.dumps(batch).encode())
cut_bodies = st.builds(lambda body, end: body[:end], whole_bodies, st.integers(0, 50))


@given(body=whole_bodies | cut_bodies | st.binary(max_size=50))
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_no_body_yields_a_500_or_an_unfinished_envelope(
    running_service: ServiceUnderTest, body: bytes
) -> None:
    answer = await running_service.put(body)

    assert answer.status in (207, 400)
    if answer.status == 207:
        assert set(answer.statuses) <= {200, 201, 400}
        assert len(answer.outcomes) == len(json.loads(body.decode("utf-8", "replace")))
