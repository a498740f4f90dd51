"""Text that PostgreSQL cannot hold: U+0000, lone surrogates, bytes that are not UTF-8."""

import codecs
import re

# An escape sequence, or two that together are a surrogate pair.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u[dD]([89a-fA-F])..|.)", re.DOTALL)
_NUL_ESCAPE = b"\\u0000"


def _nul_escapes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _NUL_ESCAPE.decode(), error.end


codecs.register_error("nul-escapes", _nul_escapes)


def mask_unstorable(json: bytes | bytearray) -> bytes:
    """Return the JSON with lone surrogates and bytes that are not UTF-8 replaced by U+0000.

    PostgreSQL can store none of the three, but only U+0000 decodes, so that one check
    finds them all and names the field.
    """
    text = json.decode("utf-8", "nul-escapes").encode()
    return _ESCAPE.sub(lambda escape: _NUL_ESCAPE if escape[1] else escape[0], text)
