"""Text that PostgreSQL cannot hold: lone surrogates, and bytes that are not UTF-8.

(The third kind, U+0000, decodes, so that it is found in the decoded item.)
"""

import re

import msgspec
from msgspec import Raw

# From one backslash to the next one that begins no escape, or a lone surrogate's. Bounded, since
# each turn of a group takes memory.
_GOOD_ESCAPES = re.compile(
    rb"(?:\\(?:[^u]|u[^dD]|u[dD][0-7]|u[dD][89abAB]..\\u[dD][c-fC-F])[^\\]*){1,1000}", re.DOTALL
)
_FIELDS = msgspec.json.Decoder(dict[str, Raw])


def masked(json: bytes) -> bytes:
    """Return JSON of the same length and structure whose escapes all decode.

    msgspec stops at a lone surrogate even where it only looks for the end of a value; so each
    surrogate becomes another character, also half of a pair.
    """
    if b"\\" not in json:
        return json
    return json.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")


def unstorable_field(item: bytes) -> str | None:
    """Return the JSON name of the field that holds the first unstorable text of an item.

    None where it stands elsewhere: in a name, or deeper.
    """
    end = len(item)
    try:
        item.decode()
    except UnicodeDecodeError as error:
        end = error.start
    escape = item.find(b"\\", 0, end)
    while escape >= 0 and (good := _GOOD_ESCAPES.match(item, escape, end)):
        escape = good.end()
    if escape >= 0:
        end = escape
    try:
        # Up to here, and with its text and itself closed, it is an object that ends in the field.
        return next(reversed(_FIELDS.decode(item[:end] + b'"}')), None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
