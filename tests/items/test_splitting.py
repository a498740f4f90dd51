"""Where bodies are cut: the same items whatever they hold, bounded pieces, and what is refused."""

import json
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.items.decode import BatchDecoder, read_keys
from service.items.json_scanner import ItemTooLarge, MalformedBody
from service.items.split import Chunk, TooManyItems, split_batch
from service.json_text import NOT_UTF8, SURROGATE, describe_unstorable
from tests.support.service import KEY

ITEMS = [
    {KEY: 1},
    {KEY: 2, "comment": '},{"],["\\ ' * 50},
    [],
    [[1, {"a": "]"}], {}],
    "text, with },{",
    "",
    -1.5e10,
    True,
    None,
    {"nested": [{"deeper": {}}] * 5},
]


def split_body(
    body: bytes, max_item_bytes: int = 10_000, chunk_items: int = 500, probe_bytes: int = 16
) -> list[Chunk]:
    """Return the chunks of a body of 100,000 items at most."""
    found = split_batch(
        body, 100_000, max_item_bytes, probe_bytes=probe_bytes, chunk_items=chunk_items
    )
    return [chunk for chunk in found if chunk is not None]


@pytest.mark.parametrize("chunk_items", [1, 3, 40, 500])
@pytest.mark.parametrize(("comma", "space"), [*product([", ", ",", " \n,\t"], ["", " \r\n"])])
def test_any_two_items_beside_each_other_are_cut_apart(
    comma: str, space: str, chunk_items: int
) -> None:
    items = [item for pair in product(ITEMS, ITEMS) for item in pair]
    body = f"{space}[{space}{comma.join(map(json.dumps, items))}{space}]{space}".encode()

    chunks = split_body(body, chunk_items=chunk_items)

    found = [item for chunk in chunks for item in json.loads(b"[%b]" % body[slice(*chunk)])]
    assert found == items
    assert all(
        len(json.loads(b"[%b]" % body[slice(*chunk)])) <= 2 * chunk_items for chunk in chunks
    )


@pytest.mark.parametrize("separator", [b",", b" , ", b",\r\n\t"])
def test_items_of_about_one_size_are_cut_into_full_chunks(separator: bytes) -> None:
    """A statement takes 500, so 1 or 2 of a chunk of 502 would need another."""
    items = [b'{"a":%d,"b":"%b"}' % (n, b"},{" * (n % 7)) for n in range(2_000)]
    body = b"[" + separator.join(items) + b"]"

    chunks = split_body(body, probe_bytes=16_384)

    assert [len(json.loads(b"[%b]" % body[slice(*chunk)])) for chunk in chunks] == [500] * 4


@given(
    st.lists(st.sampled_from([b",", b" ,", b", ", b",  "]), min_size=90, max_size=300),
    st.integers(1, 400),
)
def test_items_behind_any_separators_are_cut_apart(separators: list[bytes], probe: int) -> None:
    body = b"[0%b]" % b"".join(s + b"%d" % n for n, s in enumerate(separators, 1))

    chunks = split_body(body, chunk_items=16, probe_bytes=probe)

    numbers = [n for start, end in chunks for n in json.loads(b"[%b]" % body[start:end])]
    assert numbers == list(range(len(separators) + 1))


@pytest.mark.parametrize("filler", [b"1", b'"},{"', b"[[],[]]", b'{"a":"}, "}', b'"\\ud800"'])
def test_a_chunk_holds_few_items_and_few_bytes_whatever_they_are(filler: bytes) -> None:
    body = b"[" + b",".join([filler] * 20_000 + [b'"%b"' % (b"x" * 9_000)] * 500) + b"]"

    chunks = split_body(body, probe_bytes=16_384)

    assert all(end - start <= 2 * 512 * 1024 + 16_384 for start, end in chunks)
    for start, end in chunks:
        assert len(json.loads(b"[%b]" % body[start:end])) <= 1_000


LARGE = [
    b'"%b"' % (b"x" * 10_000),
    b"[%b1]" % (b"1," * 5_000),
    b"1" * 10_001,
    b'"%b"' % (b"\\u00e4" * 2_000),
]


@pytest.mark.parametrize("large", LARGE)
@pytest.mark.parametrize("before", [0, 1, 700])
@pytest.mark.parametrize("after", [b"]", b" ]", b",1]", b"  , [2] ]", b" " * 30_000 + b"]", b","])
def test_an_item_that_is_too_large_is_named(large: bytes, before: int, after: bytes) -> None:
    body = b"[" + b'{"a":"},{"},' * before + large + after

    with pytest.raises(
        ItemTooLarge, match=rf"Item {before} \(counting from 0\) exceeds 10000 bytes"
    ):
        split_body(body)


@pytest.mark.parametrize("space", [b" " * 20_000, b"\n" * 1_100_000])
def test_white_space_around_items_belongs_to_none(space: bytes) -> None:
    body = space.join([b"", b"[", b"1", b",", b'"%b"' % (b"x" * 9_990), b"]"])

    chunks = split_body(body)

    assert [item for c in chunks for item in json.loads(b"[%b]" % body[slice(*c)])] == [
        1,
        "x" * 9_990,
    ]


@pytest.mark.parametrize(
    "end", [b"", b",", b"}", b"]]", b",]", b"] x", b"\xff]", b" 1]", b',"\\q"]', b",[]", b"\0]"]
)
@pytest.mark.parametrize("count", [1, 40, 5_000])
def test_a_body_that_is_wrong_at_its_end_is_malformed(end: bytes, count: int) -> None:
    body = b"[" + b",".join([b'{"a":"},{"}'] * count) + end

    with pytest.raises(MalformedBody, match="not valid JSON"):
        split_body(body)


def test_too_many_items_are_found_without_the_rest() -> None:
    with pytest.raises(TooManyItems):
        split_body(b"[" + b"1," * 100_001 + b"this is never looked at")


UNSTORABLE = [
    (rb'{"a":1,"b":"x\ud800"}', f"b: {SURROGATE}"),
    (rb'{"a":"\\","b":"\\\\ud800 \uDC00"}', f"b: {SURROGATE}"),
    (rb'{"a":"\ud83d\ude00","b":"\ud800\ud83d\ude00"}', f"b: {SURROGATE}"),
    (rb'{"a":"\ud83d\ude00\ude00"}', f"a: {SURROGATE}"),
    (rb'{"a":"\"\n\u00e4\uD7ff\ud800"}', f"a: {SURROGATE}"),
    (b'{"a":1, "b" : "x\xff"}', f"b: {NOT_UTF8}"),
    (b'{"a":"\xed\xa0\x80"}', f"a: {NOT_UTF8}"),
    (b'{"a":"\xff","b":"\\ud800"}', f"a: {NOT_UTF8}"),
    (b'{"a":"\\ud800","b":"\xff"}', f"a: {SURROGATE}"),
    (rb'{"a\ud800":1}', f"The item {SURROGATE}."),
    (b'{"a\xff":1}', f"The item {NOT_UTF8}."),
    (rb'{"a":{"b":"\ud800"}}', f"The item {SURROGATE}."),
    (rb'{"c":"\ud800"}', f"The item {SURROGATE}."),
]


@pytest.mark.parametrize(("item", "message"), UNSTORABLE)
def test_the_field_of_unstorable_text_is_found(item: bytes, message: str) -> None:
    assert describe_unstorable(item, ("a", "b")) == message


def test_unstorable_text_does_not_hide_keys_nor_items_beside_it() -> None:
    key = KEY.encode()
    body = b'[ {"%b":5,"comment":"\\ud800"} , {"%b":6,"comment":"\xff"},{"%b":7e0},\n{"%b":8} ]' % (
        (key,) * 4
    )

    (chunk,) = split_body(body)
    decoded = BatchDecoder(ignore_unknown_fields=False).decode(body, chunk)

    assert read_keys(body, chunk) == [5, 6, 7, 8]
    assert {place: (o.key, o.body[:9]) for place, o in decoded.refusals.items()} == {
        0: (5, "comment: "),
        1: (6, "comment: "),
    }
    assert [item.care_case_clinical_trial_key for item in decoded.items] == [7, 8]
