"""Kinds of bodies, good, mistaken and hostile, in any size: what work must be bounded for.

Some have more items than a batch may hold.
"""

import json
from collections.abc import Callable, Iterator
from itertools import count

from service.wire import DEFAULT_MAX_BATCH_ITEMS, KEY_FIELD, SAMPLE

Body = Callable[[int], bytes]

_KEY = KEY_FIELD.encode()
_REAL = [
    json.dumps({name: value for name, value in record.items() if name != KEY_FIELD}).encode()[1:]
    for record in json.loads(SAMPLE.read_text())
]


def _array(size: int, items: Iterator[bytes]) -> bytes:
    parts, length = [], 0
    for item in items:
        parts.append(item)
        length += len(item) + 1
        if length >= size:
            break
    return b"[" + b",".join(parts) + b"]"


def real(size: int) -> bytes:
    """Return trials of the public registry, each with a key of its own."""
    numbers = count(1)
    return _array(size, (b'{"%b":%d,%b' % (_KEY, n, _REAL[n % len(_REAL)]) for n in numbers))


def many(size: int) -> bytes:
    """Return as many records as a batch of this size may hold, and be good."""
    text = b"x" * (size // DEFAULT_MAX_BATCH_ITEMS - len(_record(b"")))
    if not text:
        return _array(size, (b'{"%b":%d}' % (_KEY, n) for n in count(1)))
    return _array(size, (b'{"%b":%d,"comment":"%b"}' % (_KEY, n, text) for n in count(1)))


GOOD: dict[str, Body] = {"real records": real, "many records": many}


def _filled(item: bytes) -> Body:
    """Return bodies of one item over and over."""

    def body(size: int) -> bytes:
        return b"[" + b",".join([item] * max(1, size // (len(item) + 1))) + b"]"

    return body


def _record(text: bytes, rest: bytes = b"") -> bytes:
    return b'{"%b":1,"comment":"%b"%b}' % (_KEY, text, rest)


def _spread(before: bytes, filler: bytes, after: bytes) -> Body:
    """Return bodies of one item, or none, that is as large as the body."""
    return lambda size: before + filler * (size // len(filler)) + after


def _changed(change: Callable[[bytes], bytes]) -> Body:
    return lambda size: change(real(size))


BAD: dict[str, Body] = {
    "numbers": _filled(b"1"),
    "long numbers": _filled(b"1234567890123"),
    "numbers of 4,000 digits": _filled(b'{"%b":%b}' % (_KEY, b"9" * 4_000)),
    "texts": _filled(b'"some text"'),
    "texts with quotes and braces": _filled(b'"},{\\",["'),
    "empty arrays": _filled(b"[]"),
    "wide arrays": _filled(b"[    []    ]"),
    "nested arrays": _filled(b"[" * 400 + b"]" * 400),
    "brackets that never close": _spread(b"", b"[", b""),
    "empty objects": _filled(b"{        }"),
    "a mixture": _filled(b'1,"},",[[]],{}'),
    "one huge text": _spread(b'[{"comment":"', b"x", b'"}]'),
    "one huge text in cp1252": _spread(b'[{"comment":"', b"\xe9", b'"}]'),
    "one huge array": _spread(b"[[", b"1,", b"1]]"),
    "one huge item of nothing but fields": _spread(b"[{", b'"comment":"x",', b'"a":1}]'),
    "items of 4 MB in cp1252": _filled(_record(b"\xe9" * 4_000_000)),
    "items of 4 MB with braces": _filled(_record(b"},{" * 1_300_000)),
    "texts in cp1252": _changed(lambda body: body.replace(b"e", b"\xe9")),
    "records in cp1252": _filled(_record(b"caf\xe9 cr\xe8me " * 200)),
    "lone surrogates": _filled(_record(b"\\ud800" * 300)),
    "a lone surrogate after pairs": _filled(_record(b"\\ud83d\\ude00" * 200 + b"\\ud800")),
    "U+0000": _filled(_record(b"\\u0000" * 300)),
    "escapes": _filled(_record(b"\\u00e4" * 300)),
    "backslashes": _filled(_record(b"\\\\" * 900)),
    "braces in texts": _filled(_record(b"},{" * 700)),
    "quotes in texts": _filled(_record(b'\\"},{\\"' * 300)),
    "white space alone": _spread(b"[", b" ", b"]"),
    "white space behind it all": _spread(b"[1]", b"\n", b""),
    "white space between items": _filled(_record(b"x") + b" " * 2_000),
    "much white space between items": _filled(_record(b"x") + b" " * 600_000),
    "a bad byte at the end": _changed(lambda body: body[:-1] + b"\xff]"),
    "the end missing": _changed(lambda body: body[:-5]),
    "unknown fields": _filled(_record(b"y" * 2_000, b',"x":1')),
    "short records, all unknown": _filled(b'{"%b":1,"x":1}' % _KEY),
    "long names": _filled(b'{"%b":1,"%b":1}' % (_KEY, b"y" * 100_000)),
    "the same field many times": _filled(b'{"%b":1%b}' % (_KEY, b',"comment":"x"' * 10_000)),
    "records without a key": _filled(b'{"%b":0}' % _KEY),
    "records with a key and without": _filled(b'{"%b":7},{"%b":0}' % (_KEY, _KEY)),
    "dates of COPY": _filled(_record(b"y" * 600, b',"entry_Date":"2025-01-02 03:04:05.123456+00"')),
    "dates that do not exist": _filled(_record(b"y" * 600, b',"entry_Date":"2025-13-02"')),
}
