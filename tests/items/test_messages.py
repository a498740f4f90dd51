"""Messages about items: each of msgspec's complaints in our words, and JSON's types alone."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.items.decode import BatchDecoder
from service.items.split import Chunk
from service.messages import NAME_LENGTH, describe_invalid
from service.send.records import find_fault
from service.wire import Item
from tests.support.service import KEY

DECODER = BatchDecoder(ignore_unknown_fields=False)

NO_DATE = "must be an RFC 3339 date-time such as 2025-01-02T03:04:05Z"
NO_SUCH_DATE = "is not a valid date-time (years 1 to 9999)"

# The item, its message, and whether `send --check` finds that as well.
ROWS: list[tuple[Any, str, bool]] = [
    ({}, f"{KEY}: required", True),
    ({KEY: None}, f"{KEY}: must be an integer, got null", True),
    ({KEY: "5"}, f"{KEY}: must be an integer, got a string", True),
    ({KEY: True}, f"{KEY}: must be an integer, got a boolean", True),
    ({KEY: [1]}, f"{KEY}: must be an integer, got an array", True),
    ({KEY: {}}, f"{KEY}: must be an integer, got an object", True),
    ({KEY: 1.5}, f"{KEY}: must be an integer, got a fraction", True),
    ({KEY: 2**31}, f"{KEY}: must be at most 2147483647", True),
    ({KEY: -(2**31) - 1}, f"{KEY}: must be at least -2147483648", True),
    ({KEY: 10**30}, f"{KEY}: must be at most 2147483647", True),
    ({KEY: 1e30}, f"{KEY}: must be at most 2147483647", False),
    ({KEY: -1e30}, f"{KEY}: must be at least -2147483648", False),
    ({KEY: 1.0, "case_Key": "5"}, "case_Key: must be an integer or null, got a string", False),
    ({KEY: 1, "case_Key": "5"}, "case_Key: must be an integer or null, got a string", True),
    ({KEY: 1, "case_Key": False}, "case_Key: must be an integer or null, got a boolean", True),
    ({KEY: 1, "case_Key": 1.5}, "case_Key: must be an integer or null, got a fraction", True),
    ({KEY: 1, "case_Key": -(2**31) - 1}, "case_Key: must be at least -2147483648", True),
    ({KEY: 1, "comment": 5}, "comment: must be a string or null, got a number", True),
    ({KEY: 1, "comment": 5.5}, "comment: must be a string or null, got a number", True),
    ({KEY: 1, "comment": True}, "comment: must be a string or null, got a boolean", True),
    ({KEY: 1, "comment": ["x"]}, "comment: must be a string or null, got an array", True),
    ({KEY: 1, "comment": {"a": 1}}, "comment: must be a string or null, got an object", True),
    ({KEY: 1, "update_User": "x" * 21}, "update_User: must be at most 20 characters", True),
    (
        {KEY: 1, "careCaseClinicalTrialArm_ID": "x" * 65},
        "careCaseClinicalTrialArm_ID: must be at most 64 characters",
        True,
    ),
    (
        {KEY: 1, "entry_Date": None},
        "entry_Date: must not be null; omit it to use the default",
        False,
    ),
    (
        {KEY: 1.0, "entry_Date": None},
        "entry_Date: must not be null; omit it to use the default",
        False,
    ),
    ({KEY: 1, "entry_Date": 5}, "entry_Date: must be a string, got a number", False),
    ({KEY: 1.0, "entry_Date": 5}, "entry_Date: must be a string, got a number", False),
    ({KEY: 1, "update_Date": "today"}, f"update_Date: {NO_DATE}", False),
    ({KEY: 1, "update_Date": "2025-02-30"}, f"update_Date: {NO_SUCH_DATE}", False),
    (
        {KEY: 1, "update_Date": "0001-01-01T00:00:00+01:00"},
        f"update_Date: {NO_SUCH_DATE}",
        False,
    ),
    ({KEY: 1, "foo": 1}, "foo: unknown field", True),
    ({KEY: 1, "x` - at `$.y": 1}, "x` - at `$.y: unknown field", True),
    ({KEY: 1, "two\nlines": 1}, "two\nlines: unknown field", True),
    ({KEY: 1, "x" * 5000: 1}, f"{'x' * NAME_LENGTH}…: unknown field", True),
    ({KEY: 1, "comment": "a\0b"}, "comment: contains a NUL character", False),
    ({KEY: 1, "comment": "\ud800"}, "comment: contains an unpaired surrogate", False),
    ({KEY: 1, "website": "x\udc00y"}, "website: contains an unpaired surrogate", False),
    ([], "The item must be an object, got an array.", True),
    ("x", "The item must be an object, got a string.", True),
    (5, "The item must be an object, got a number.", True),
    (-5.5, "The item must be an object, got a number.", True),
    (True, "The item must be an object, got a boolean.", True),
    (False, "The item must be an object, got a boolean.", True),
    (None, "The item must be an object, got null.", True),
]


def message(item: bytes) -> str:
    """Return the message for an invalid item."""
    (outcome,) = DECODER.decode(item, Chunk(0, len(item))).refusals.values()
    assert outcome.status == 400
    return outcome.body


@pytest.mark.parametrize(("item", "expected"), [row[:2] for row in ROWS])
def test_a_message_names_the_field_and_the_reason(item: Any, expected: str) -> None:
    assert message(json.dumps(item).encode()) == expected


@pytest.mark.parametrize(("item", "expected"), [row[:2] for row in ROWS if row[2]])
def test_send_words_its_findings_as_the_service_does(item: Any, expected: str) -> None:
    assert find_fault(item) == expected


RAW_ROWS = [
    (b'{"%b":1e400}', f"{KEY}: number out of range"),
    (b'{"%b":1%b}' % (b"%b", b"0" * 400), f"{KEY}: must be at most 2147483647"),
    (b'{"%b":1%b}' % (b"%b", b"0" * 5000), f"{KEY}: number out of range"),
    (b'{"%b":1,"comment":1e400}', "comment: number out of range"),
    (b'{"%b":1,"comment":"\xe9"}', "comment: is not valid UTF-8"),
    (b'{"%b":1,"comment":"\xed\xa0\x80"}', "comment: is not valid UTF-8"),
    (b'{"%b":1,"comment":"\xff","website":"\\ud800"}', "comment: is not valid UTF-8"),
    (b'{"%b":1,"comment":"\\ud800\xff"}', "comment: contains an unpaired surrogate"),
    (b'{"%b":1,"comm\xe9nt":"x"}', "The item is not valid UTF-8."),
    (b'{"%b":1,"comment\\ud800":"x"}', "The item contains an unpaired surrogate."),
]


@pytest.mark.parametrize(("item", "expected"), RAW_ROWS)
def test_a_message_names_what_cannot_be_stored(item: bytes, expected: str) -> None:
    assert message(item.replace(b"%b", KEY.encode())) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("Expected `Decimal`, got `str` - at `$.comment`", "comment: is not valid"),
        ("Expected `int`, got `Decimal` - at `$.case_Key`", "case_Key: must be an integer"),
        ("`str` is a `dict` - at `$.comment`", "comment: is not valid"),
        ("Something new", "The item is not valid."),
    ],
)
def test_unknown_words_of_msgspec_become_a_message(error: str, expected: str) -> None:
    assert describe_invalid(error) == expected


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab\0\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(values | st.dictionaries(st.sampled_from(Item.__struct_encode_fields__), values, max_size=3))
def test_no_message_names_a_type_of_python(item: Any) -> None:
    text = json.dumps(item).replace("-Infinity", "-1e999").replace("Infinity", "1e999").encode()

    for outcome in DECODER.decode(text, Chunk(0, len(text))).refusals.values():
        assert not re.search(r"`|\b(str|int|float|bool|datetime|dict|list|None)\b", outcome.body)
        assert "is not valid" not in outcome.body.replace("is not valid UTF-8", "").replace(
            "is not a valid date-time", ""
        )
