"""Text that PostgreSQL cannot hold: lone surrogates, and bytes that are not UTF-8.

(The third kind, U+0000, decodes, so that it is found in the decoded item.)
"""

import re

import msgspec
from msgspec import Raw

_NO_LONE_SURROGATE = re.compile(
    rb"(?:[^\\]++|(?:\\u[dD][89abAB]..\\u[dD][c-fC-F]..)++|\\(?:[^u]|u(?:[^dD]|[dD][0-7])))*+",
    re.DOTALL,
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
    match = _NO_LONE_SURROGATE.match(item, 0, end)
    assert match is not None
    try:
        # Up to here, and with its text and itself closed, it is an object that ends in the field.
        return next(reversed(_FIELDS.decode(item[: match.end()] + b'"}')), None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
