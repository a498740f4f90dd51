"""A body that is not JSON: the first byte that cannot be JSON, and the item at that place.

U+0000 is allowed nowhere in JSON, so wherever it is put, it is that byte.
"""

import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.items.json_scanner import MalformedBody
from service.items.split import split_batch
from service.json_text import find_syntax_error
from tests.items.kinds import BAD, real
from tests.support.service import KEY

BOM = b"\xef\xbb\xbf"
ITEMS = [
    b'{"%b":1,"comment":"a \\"}, {\\u00e4\\ud83d\\ude00\\n","case_Key":-1.5e+3}' % KEY.encode(),
    *(b"{}", b"[]", b'[1, {"a":[true, false, null]}]', b'"\\ud800"', b'"\xff"', b'""', b"-10.25E1"),
    *(b"0", b"true", b"false", b"null", b'{"a" : {"b":\t[{}]} , "c":"}"}'),
]

Owners = list[int | None]


def fault(body: bytes, max_item_bytes: int = 10_000, probe_bytes: int = 16) -> str:
    """Return the message for a body that is not JSON."""
    with pytest.raises(MalformedBody) as caught:
        list(split_batch(body, 100_000, max_item_bytes, probe_bytes=probe_bytes))
    return str(caught.value)


def place(message: str) -> tuple[int, int | None]:
    """Return the byte and the item that a message names."""
    match = re.search(r"not valid JSON: .* at byte (\d+)(?: \(item (\d+)\))?\.", message)
    assert match, message
    return int(match[1]), None if match[2] is None else int(match[2])


def array(items: list[bytes], separator: bytes) -> tuple[bytes, Owners]:
    """Return an array, and which item a fault at each of its bytes, and at its end, is in."""
    before, _, after = separator.partition(b",")
    owners: Owners = [None, None]
    for number, item in enumerate(items[:-1]):
        owners += [number] * len(item + before + b",") + [number + 1] * len(after)
    last = len(items) - 1
    owners += [last] * len(items[-1] + b"]") + [None, None]
    return b" [" + separator.join(items) + b"]\n", owners


SEPARATORS = [b",", b" , ", b",\r\n\t"]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("before", [b"", BOM])
def test_a_bad_byte_is_found_at_every_place(separator: bytes, before: bytes) -> None:
    body, owners = array(ITEMS, separator)

    for at, owner in enumerate(owners):
        found = place(fault(before + body[:at] + b"\0" + body[at:]))
        assert found == (len(before) + at, owner), body[:at]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_body_that_is_cut_short_ends_at_its_last_byte(separator: bytes) -> None:
    body, owners = array(ITEMS, separator)

    for end in range(2, body.rindex(b"]") + 1):
        message = fault(body[:end])
        assert "unexpected end" in message
        assert place(message) == (end, owners[end]), body[:end]


def test_the_place_is_right_in_a_body_of_many_chunks() -> None:
    chance = random.Random(0)
    items = [b'{"a":%d,"b":"%b"}' % (n, b'},{\\"' * chance.randrange(200)) for n in range(3_000)]
    body, owners = array(items, b", ")
    assert len(body) > 1_000_000

    for at in (2, len(body) - 2, *(chance.randrange(2, len(body) - 2) for _ in range(50))):
        message = fault(body[:at] + b"\0" + body[at:], probe_bytes=16 * 1024)
        assert place(message) == (at, owners[at])
        message = fault(body[:at], probe_bytes=16 * 1024)
        assert place(message) == (at, owners[at])


KINDS = [
    *("texts with quotes and braces", "a mixture", "texts", "numbers", "nested arrays"),
    *("one huge text", "one huge array", "lone surrogates", "records in cp1252", "U+0000"),
    *("white space between items", "much white space between items", "white space behind it all"),
]


@pytest.mark.parametrize("size", [100, 5_000, 100_000])
@pytest.mark.parametrize("body", [real, *(BAD[kind] for kind in KINDS)], ids=["real", *KINDS])
def test_a_bad_byte_is_found_in_bodies_of_every_kind(body: object, size: int) -> None:
    assert callable(body)
    text, chance = body(size), random.Random(size)

    for at in (1, len(text) - 1, *(chance.randrange(1, len(text)) for _ in range(10))):
        message = fault(text[:at] + b"\0" + text[at:], len(text) + 1, 16 * 1024)
        assert place(message)[0] == at


# Each, the byte, and the item.
FAULTS = [
    (b"[{},x]", "invalid character", 4, 1),
    (b"[{},{},]", "trailing comma in array", 7, 1),
    (b"[{} {}]", "expected ',' or ']'", 4, 0),
    (b"[,]", "invalid character", 1, 0),
    (b"[{},,{}]", "invalid character", 4, 1),
    (b"[}", "invalid character", 1, 0),
    (b"[]]", "trailing characters", 2, None),
    (b"[] []", "trailing characters", 3, None),
    (b"[NaN]", "invalid character", 1, 0),
    (b"[tr]", "invalid character", 3, 0),
    (b"[nul ]", "invalid character", 4, 0),
    (b"[falsy]", "invalid character", 5, 0),
    (b"[truex]", "expected ',' or ']'", 5, 0),
    (b"[01]", "invalid number", 2, 0),
    (b"[1.]", "invalid number", 3, 0),
    (b"[-]", "invalid character", 2, 0),
    (b"[1e+]", "invalid number", 4, 0),
    (b'["\\q"]', "invalid escaped character", 3, 0),
    (b'["\\u12"]', "invalid character in unicode escape", 6, 0),
    (b'["\n"]', "invalid character", 2, 0),
    (b"[{'a':1}]", "expected '\"'", 2, 0),
    (b"[{a:1}]", "expected '\"'", 2, 0),
    (b'[{"a" 1}]', "expected ':'", 6, 0),
    (b'[{"a":1,}]', "trailing comma in object", 8, 0),
    (b'[{"a":1]', "expected ',' or '}'", 7, 0),
    (b'[{"a":1 "b":2}]', "expected ',' or '}'", 8, 0),
    (b"[\xe9]", "invalid character", 1, 0),
    (b"[\xc2\xa0{}]", "invalid character", 1, 0),
    (b'["\xe9", x]', "invalid character", 6, 1),
    (b'["\\ud800", x]', "invalid character", 11, 1),
    (b'[{"careCase', "unexpected end", 11, 0),
    (b"[{}", "unexpected end", 3, 0),
    (b"[{},", "unexpected end", 4, 1),
    (b"[", "unexpected end", 1, 0),
]


@pytest.mark.parametrize(("body", "reason", "byte", "item"), FAULTS)
def test_a_fault_is_reported_in_words(body: bytes, reason: str, byte: int, item: int) -> None:
    suffix = "" if item is None else f" (item {item})"
    assert fault(body) == f"The body is not valid JSON: {reason} at byte {byte}{suffix}."


NO_ARRAYS = [
    (b"not JSON", "not valid JSON: invalid character at byte 1. Expected a JSON array"),
    (b'{"a":1}\n{"a":2}', "not valid JSON: trailing characters at byte 8. Expected a JSON array"),
    (b' {"a":1', "not valid JSON: unexpected end at byte 7. Expected a JSON array"),
    (b"\xff\xfe[\0]\0", "invalid character at byte 0. Expected a JSON array of objects in UTF-8."),
    (b'{"a":1}', "Expected a JSON array of objects in UTF-8, got an object."),
    (b'{"a":"%b"' % (b"x" * 20_000), "Expected a JSON array of objects in UTF-8, got an object."),
    (b'"[]"', "Expected a JSON array of objects in UTF-8, got a string."),
    (b"-5", "Expected a JSON array of objects in UTF-8, got a number."),
    (b"true", "Expected a JSON array of objects in UTF-8, got a boolean."),
    (BOM + b" null", "Expected a JSON array of objects in UTF-8, got null."),
    (BOM + b" nul", "not valid JSON: unexpected end at byte 7. Expected a JSON array"),
    (b"", "The body is empty. Expected a JSON array of objects in UTF-8."),
]


@pytest.mark.parametrize(("body", "words"), NO_ARRAYS, ids=lambda value: repr(value[:20]))
def test_a_body_that_is_not_an_array_is_reported_as_such(body: bytes, words: str) -> None:
    assert words in fault(body)


@given(st.text(alphabet='[]{}",:\\u0d8 1.-entrufalsx\n', max_size=30).map(str.encode))
@example(b'"\\u1"')
@example(b"[t x]")
def test_the_byte_is_the_first_that_cannot_be_json(text: bytes) -> None:
    found = find_syntax_error(text)
    if found is None:
        return
    reason, at = found

    assert find_syntax_error(text[:at]) in (None, ("unexpected end", at))
    if at < len(text):
        assert find_syntax_error(text[: at + 1]) == found
    else:
        assert reason == "unexpected end"
