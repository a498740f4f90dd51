"""Whatever the bytes are, they are cut and decoded in bounded time and memory, or refused.

``FUZZ_EXAMPLES=100000 python -m pytest tests/items/test_any_bytes.py`` looks longer.
"""

import os
import time
import tracemalloc
from functools import cache

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.items.decode import BatchDecoder, read_keys
from service.items.json_scanner import ItemTooLarge, MalformedBody
from service.items.split import TooManyItems, split_batch
from tests.items.kinds import BAD, many
from tests.support.service import KEY

DECODER = BatchDecoder(ignore_unknown_fields=False)
MOST_ITEMS = 10_000
ITEM_BYTES = 200_000

AT_MOST = 3
ITEM_IN_A_SERVICE = 8
"""An item costs a service, PostgreSQL not counted, so many times what it costs to decode it."""

ALWAYS_SECONDS = 0.002
ALWAYS_BYTES = 2_000_000
"""What a few chunks and items take at a time."""

FRAGMENTS = [
    *(b'{"%b":1' % KEY.encode(), b'{"%b":1}' % KEY.encode(), b'"comment":"', b'"entry_Date":"'),
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"{}", b"[]"),
    *(b"},{", b'"},{"', b'{"', b'":'),
    *(b"\\u", b"\\u0000", b"\\ud83d", b"\\ude00", b"\\uD800", b"\\\\", b'\\"', b"\\n", b"\\u00e4"),
    *(b"\xff", b"\xe9", b"\xc3\xa9", b"\xed\xa0\x80", b"\0", b"\xef\xbb\xbf", b" ", b"\n", b"\t"),
    *(b"1", b"-", b"1.5e9", b"9" * 50, b"0", b"true", b"null", b"fals", b"x", b"text", b"\xf0\x9f"),
    *(b"2025-01-02T03:04Z", b"2025-01-02 03:04:05+00", b'"x":1', b'""', b"1,", b'"",'),
]
runs = st.builds(
    lambda fragments, times: b"".join(fragments) * times,
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6),
    st.sampled_from([1, 1, 2, 30, 500, 3_000]),
)
bodies = st.builds(
    lambda start, parts, end: start + b"".join(parts)[:400_000] + end,
    st.sampled_from([b"[", b"[{", b'["', b""]),
    st.lists(runs | st.binary(max_size=20), max_size=6),
    st.sampled_from([b"]", b"}]", b'"}]', b'"]', b""]),
)


def work(body: bytes) -> int:
    """Cut and decode a body, and read its keys; return the number of its outcomes."""
    items = 0
    try:
        chunks = [c for c in split_batch(body, MOST_ITEMS, ITEM_BYTES) if c is not None]
    except TooManyItems:
        return MOST_ITEMS
    except (MalformedBody, ItemTooLarge):
        return 0
    for chunk in chunks:
        decoded = DECODER.decode(body, chunk)
        items += len(decoded.items) + len(decoded.refusals)
        read_keys(body, chunk)
    return items


def seconds(body: bytes, runs: int) -> float:
    """Return the CPU that the work takes, at best."""
    best = float("inf")
    for _ in range(runs):
        started_at = time.process_time()
        work(body)
        best = min(best, time.process_time() - started_at)
    return best


@cache
def good() -> tuple[float, float]:
    """Return what a good body costs a byte and an item, in seconds."""
    body = many(300_000)
    cost = seconds(body, 7)
    return cost / len(body), cost / work(body)


def check(body: bytes) -> None:
    """Fail unless the body's cost is bounded."""
    items = work(body)
    a_byte, an_item = good()
    allowed = ALWAYS_SECONDS + AT_MOST * (a_byte * len(body) + ITEM_IN_A_SERVICE * an_item * items)
    # More runs only where the first was too slow: the machine may have been.
    assert seconds(body, 1) <= allowed or seconds(body, 5) <= allowed
    tracemalloc.start()
    try:
        work(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= ALWAYS_BYTES + AT_MOST * len(body)


@given(bodies)
@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@example(b"[" + b"1," * 200_000)
@example(b'[{"comment":"' + b"\xe9" * 150_000 + b'"}]')
@example(b'[{"comment":"' + b"\\ud800" * 30_000 + b'"}]')
@example(b"[" + b'"},{\\",[",' * 9_000 + b"1]")
@example(b"[" + b'"\\ud83d",' * 9_000 + b"1]")
@example(b"[" + b"[" * 900 + b"]" * 900 + b"]")
@example(b"[" + b" " * 400_000)
@example(b'[{"' + b'":1,"' * 50_000)
@example(b"[" + b'{"%b":%b},' % (KEY.encode(), b"9" * 4_300) * 90 + b"1]")
def test_the_work_on_any_bytes_is_bounded(body: bytes) -> None:
    check(body)


@pytest.mark.parametrize("size", [20_000, 300_000])
@pytest.mark.parametrize("kind", BAD)
def test_the_work_on_a_kind_is_bounded(kind: str, size: int) -> None:
    check(BAD[kind](size))
