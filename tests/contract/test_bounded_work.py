"""Contract section 2, promise 9: what a body costs, whatever it holds, beside a good one.

CPU and memory are those of the service's process; PostgreSQL's are not counted, which bad items
do not reach. The good body is the costlier one of two: real records, and as many as a batch of
the size may hold. The best of some runs counts, because others use the machine as well.
"""

import gzip
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.config import Auth, Jwt, Settings, Tuning
from service.http import probes
from service.http.app import build_app
from tests.items.kinds import BAD, GOOD, Body, real
from tests.support.observed import Cost, Measure, observed
from tests.support.postgres import MakeDatabase

AT_MOST = 3
HELD_SECONDS = 0.05
UNNOTICED = Cost(cpu=0.05, held=0, peak_bytes=16_000_000)
"""What a request may cost without a comparison, on a machine that others use: CPU that counts in a
body of a megabyte alone, and the buffers of one item."""

ATTEMPTS = 4
"""What else the machine does may show in some, what a body costs in each."""


@pytest.fixture
async def measure(make_database: MakeDatabase, tmp_path: Path) -> AsyncIterator[Measure]:
    """Sends a body to a service that tells the cost."""
    async with observed({"acme": make_database()}, tmp_path) as measured:
        yield measured


async def cost_of(measure: Measure, body: bytes, runs: int) -> Cost:
    costs = []
    for _ in range(runs):
        status, cost = await measure(body)
        assert status in (207, 400, 413)
        costs.append(cost)
    return Cost(*map(min, zip(*costs, strict=True)))


def is_within(cost: Cost, limit: Cost) -> bool:
    return all(spent <= allowed for spent, allowed in zip(cost, limit, strict=True))


async def costliest_good(measure: Measure, size: int, runs: int) -> Cost:
    good = [await cost_of(measure, body(size), runs + 1) for body in GOOD.values()]
    return Cost(*map(max, zip(*good, strict=True)))


async def excesses(measure: Measure, kinds: dict[str, Body], size: int, runs: int) -> list[str]:
    """Return, in words, what costs more than it may."""
    good = await costliest_good(measure, size, runs)
    found = []
    for name, make in kinds.items():
        body = make(size)
        for _ in range(ATTEMPTS):
            cost = await cost_of(measure, body, runs)
            limit = Cost(
                AT_MOST * good.cpu + UNNOTICED.cpu,
                HELD_SECONDS,
                # A good body of which the memory is there already takes none.
                AT_MOST * max(good.peak_bytes, len(body)) + UNNOTICED.peak_bytes,
            )
            if is_within(cost, limit):
                break
            # The machine may be slower now than it was for the last good body.
            good = await costliest_good(measure, size, runs)
        else:
            found.append(f"{name}: {cost} beyond {limit}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("size", "runs"), [(1_000_000, 3), (10_000_000, 2), (100_000_000, 1)])
async def test_no_kind_of_body_costs_three_times_a_good_one(
    measure: Measure, size: int, runs: int
) -> None:
    assert await excesses(measure, GOOD | BAD, size, runs) == []


@pytest.mark.parametrize(
    ("body", "plain", "status"),
    [
        (gzip.compress(b"[" + b" " * 30_000_000 + b"]", 1), 30_000_000, 207),
        (gzip.compress(b" " * 140_000_000, 1), 140_000_000, 413),
        (gzip.compress(b"", mtime=0) * 1_000_000, 20_000_000, 400),
        (gzip.compress(real(5_000_000), 1), 5_000_000, 207),
    ],
    ids=["white space", "a bomb", "a million members", "real records"],
)
async def test_compressed_bodies_hold_the_event_loop_as_little(
    measure: Measure, body: bytes, plain: int, status: int
) -> None:
    limit = Cost(
        0.01 * plain / 1_000_000 + 0.1, HELD_SECONDS, AT_MOST * plain + UNNOTICED.peak_bytes
    )

    for _ in range(ATTEMPTS):
        answered, cost = await measure(body, "gzip")
        if is_within(cost, limit):
            break

    assert answered == status
    assert is_within(cost, limit), f"{cost} beyond {limit}"


NOTHING_IS_THERE = ("GET", "/nothing", "")
REQUESTS = 50


def open_to_anyone() -> list[tuple[str, str]]:
    """Return the method and path of each route, except the probes."""
    settings = Settings(Auth({}, Jwt(["HS256"], "x" * 32)), {})
    routes = [
        (route.method, route.resource.canonical.format(key=1))
        for route in build_app(settings, Tuning()).router.routes()
        if route.resource is not None
    ]
    return [(method, path) for method, path in routes if path not in probes.PATHS]


@pytest.mark.slow
async def test_no_document_and_no_unknown_api_key_costs_three_times_a_404(
    measure: Measure,
) -> None:
    async def ask(method: str, path: str, etag: str = "") -> str:
        headers = {"x-api-key": "unknown", "Authorization": "Bearer x", "If-None-Match": etag}
        url = measure.service.url + path
        async with measure.service.session.request(
            method, url, headers=headers, allow_redirects=False, auto_decompress=False
        ) as response:
            await response.read()
            assert response.status in ((304,) if etag else (200, 302, 401, 404))
            return response.headers.get("ETag", "")

    requests = [NOTHING_IS_THERE]
    for method, path in open_to_anyone():
        etag = await ask(method, path)
        requests += [(method, path, ""), *([(method, path, etag)] if etag else [])]
    assert len(requests) > 20
    best = dict.fromkeys(requests, math.inf)
    for _ in range(ATTEMPTS):
        for request in requests:
            await measure.cost()
            for _ in range(REQUESTS):
                await ask(*request)
            best[request] = min(best[request], (await measure.cost()).cpu / REQUESTS)
    limit = AT_MOST * best[NOTHING_IS_THERE]

    assert {request: cpu for request, cpu in best.items() if cpu > limit} == {}
