"""Faults in JSON text: syntax errors, unpaired surrogates, and bytes that are not UTF-8.

(U+0000, which PostgreSQL cannot store either, decodes, so that it is found in the decoded item.)
"""

import re
from collections.abc import Container

import msgspec
from msgspec import Raw

TRAILING_CHARACTERS = "trailing characters"
TRUNCATED = "Input data was truncated"
END = "unexpected end"

SURROGATE = "contains an unpaired surrogate"
NOT_UTF8 = "is not valid UTF-8"

KINDS = {
    ord(first): kind
    for firsts, kind in (
        ("{", "an object"),
        ("[", "an array"),
        ('"', "a string"),
        ("-0123456789", "a number"),
        ("tf", "a boolean"),
        ("n", "null"),
    )
    for first in firsts
}
"""The kinds of values by their first byte."""

_VALUE = msgspec.json.Decoder(Raw)
_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_MALFORMED = "JSON is malformed: "
_IN_UNICODE_ESCAPE = "invalid character in unicode escape"
_LITERALS = {literal[0]: literal for literal in (b"true", b"false", b"null")}
_PADDING = b"\0" * 8
"""Not allowed anywhere in JSON, and more than a literal or an escape can lack."""

# From one backslash to the next one that begins no escape, or a lone surrogate's. Bounded, since
# each turn of a group takes memory.
_GOOD_ESCAPES = re.compile(
    rb"(?:\\(?:[^u]|u[^dD]|u[dD][0-7]|u[dD][89abAB]..\\u[dD][c-fC-F])[^\\]*){1,1000}", re.DOTALL
)


def masked(json: bytes) -> bytes:
    """Return JSON of the same length and structure whose escapes all decode.

    msgspec stops at a lone surrogate even where it only looks for the end of a value; so each
    surrogate becomes another character, also half of a pair.
    """
    if b"\\" not in json:
        return json
    return json.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")


def find_first_value(json: bytes | memoryview) -> tuple[str, int]:
    """Return msgspec's complaint about what should be one value, and the offset that it names.

    Expects masked JSON. The complaint is TRAILING_CHARACTERS if more follows the value, TRUNCATED
    if something is missing, and empty if nothing is wrong.

    Raises RecursionError for JSON that is nested too deeply.
    """
    try:
        _VALUE.decode(json)
    except msgspec.DecodeError as error:
        # "JSON is malformed: trailing characters (byte 17)"; only truncation has no offset.
        reason, _, offset = str(error).removeprefix(_MALFORMED).partition(" (byte ")
        # After a value, msgspec counts from 1.
        return reason, int(offset[:-1] or 0) - (reason == TRAILING_CHARACTERS)
    return "", 0


def find_syntax_error(json: bytes) -> tuple[str, int] | None:
    """Return why this is not one JSON value, and the offset of the first byte that cannot be.

    None if it is one. Unpaired surrogates and bytes that are not UTF-8 are no syntax errors
    inside strings.

    Raises RecursionError for JSON that is nested too deeply.
    """
    padded = masked(json) + _PADDING
    reason, offset = find_first_value(padded)
    if reason == _IN_UNICODE_ESCAPE:
        offset -= 1
    elif reason == "invalid character" and offset and padded[offset - 1] in _LITERALS:
        # Of a misspelled literal, msgspec names the second character.
        start, literal = offset - 1, _LITERALS[padded[offset - 1]]
        while padded[offset] == literal[offset - start]:
            offset += 1
    if offset < len(json):
        return reason, offset
    return None if reason == TRAILING_CHARACTERS else (END, len(json))


def describe_syntax_error(reason: str, offset: int, item: int | None = None) -> str:
    """Return the words for a syntax error at this byte of a text, in the item of this index."""
    place = "" if item is None else f" (item {item})"
    return f"not valid JSON: {reason} at byte {offset}{place}"


def describe_unstorable(item: bytes, fields: Container[str]) -> str:
    """Return the message for the first unpaired surrogate or invalid UTF-8 of an item.

    Names the field if it is one of ``fields``; a name and a nested value have none.
    """
    end, reason = len(item), SURROGATE
    try:
        item.decode()
    except UnicodeDecodeError as error:
        end, reason = error.start, NOT_UTF8
    escape = item.find(b"\\", 0, end)
    while escape >= 0 and (good := _GOOD_ESCAPES.match(item, escape, end)):
        escape = good.end()
    if escape >= 0:
        end, reason = escape, SURROGATE
    try:
        # Up to here, and with its text and itself closed, it is an object that ends in the field.
        name = next(reversed(_FIELDS.decode(item[:end] + b'"}')), None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        name = None
    return f"{name}: {reason}" if name in fields else f"The item {reason}."
