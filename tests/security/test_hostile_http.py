"""HTTP as attackers send it: smuggled requests, other spellings of paths, bombs."""

import gzip
import json
import resource

import pytest

from tests.harness.running import MakeService
from tests.harness.service import API_KEY, KEY, PATH, ServiceUnderTest, token

CREDENTIALS = (
    f"Host: x\r\nx-api-key: {API_KEY}\r\nAuthorization: Bearer {token()}\r\n"
    "vbasoftware-database: acme\r\nContent-Type: application/json\r\n"
).encode()
HEAD = b"PUT %b HTTP/1.1\r\n" % PATH.encode() + CREDENTIALS
SMUGGLED = b'[{"careCaseClinicalTrial_Key":666}]'


async def assert_serves_on(service: ServiceUnderTest) -> None:
    """A good batch is stored, and nothing else was."""
    assert (await service.put([{KEY: 1}])).statuses == [201]
    assert list(await service.comments()) == [1]


def assert_refused(answer: bytes) -> None:
    """Whatever came back is one envelope, no page and no traceback; or the connection closed."""
    assert b"Traceback" not in answer
    assert b"<html" not in answer
    assert b" 207 " not in answer
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), head
        assert json.loads(body)["data"] is None


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(
            HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
            id="Content-Length and Transfer-Encoding",
        ),
        pytest.param(
            HEAD + b"Content-Length: 2\r\nContent-Length: 35\r\n\r\n" + SMUGGLED, id="two lengths"
        ),
        pytest.param(HEAD + b"Content-Length: +35\r\n\r\n" + SMUGGLED, id="signed length"),
        pytest.param(HEAD + b"Content-Length: 0x23\r\n\r\n" + SMUGGLED, id="hexadecimal length"),
        pytest.param(
            HEAD + b"Transfer-Encoding: xchunked\r\n\r\n23\r\n" + SMUGGLED + b"\r\n0\r\n\r\n",
            id="unknown transfer coding",
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + SMUGGLED, id="negative chunk"
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n" + SMUGGLED,
            id="huge chunk",
        ),
        pytest.param(HEAD + b"Content-Length : 35\r\n\r\n" + SMUGGLED, id="space before the colon"),
        pytest.param(
            HEAD + b"X: y\r\n folded\r\nContent-Length: 35\r\n\r\n" + SMUGGLED,
            id="folded header",
        ),
        pytest.param(HEAD + b"X: a\0b\r\nContent-Length: 35\r\n\r\n" + SMUGGLED, id="NUL"),
        pytest.param(HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n", id="long header"),
        pytest.param(b"PUT /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", id="long path"),
        pytest.param(HEAD + b"X: y\r\n" * 50_000 + b"\r\n", id="flood of headers"),
        pytest.param(HEAD.replace(b"PUT ", b"PUT /", 1) + b"Connection: close\r\n\r\n", id="//"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10, id="TLS to plain HTTP"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
    ],
)
async def test_hostile_http_is_refused_and_smuggles_nothing(
    make_service: MakeService, request_bytes: bytes
) -> None:
    service = await make_service()

    assert_refused(await service.raw(request_bytes))

    await assert_serves_on(service)


@pytest.mark.parametrize(
    "path",
    [
        f"/{PATH}",
        f"/..{PATH}",
        f"/x/..{PATH}/x",
        f"{PATH}/",
        PATH.replace("-batch", "%2Dbatch/.."),
        f"/%2e%2e/%2e%2e{PATH}",
        f"{PATH}%00",
        f"{PATH};x=y",
        "/etc/passwd",
        "/../../../../etc/passwd",
        "/docs/../../../../../../etc/passwd",
        "/docs/%2e%2e/%2e%2e/config.py",
        "/docs/..%2f..%2fconfig.py",
    ],
)
async def test_other_spellings_of_paths_lead_nowhere(make_service: MakeService, path: str) -> None:
    service = await make_service()

    for method in (b"PUT", b"GET"):
        answer = await service.raw(
            b"%b %b HTTP/1.1\r\n" % (method, path.encode())
            + CREDENTIALS
            + b"Content-Length: 35\r\nConnection: close\r\n\r\n"
            + SMUGGLED
        )
        assert_refused(answer)
        assert answer

    await assert_serves_on(service)


async def test_a_bomb_of_a_gigabyte_is_413_and_takes_no_memory(make_service: MakeService) -> None:
    service = await make_service(max_body_bytes=1_000_000)
    bomb = gzip.compress(gzip.compress(bytes(1_000_000_000), 1), 1)
    inner = gzip.decompress(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    answer = await service.put(inner, headers={"Content-Encoding": "gzip"})
    nested = await service.put(bomb, headers={"Content-Encoding": "gzip"})
    twice = await service.put(bomb, headers={"Content-Encoding": "gzip, gzip"})

    assert (answer.status, nested.status, twice.status) == (413, 413, 415)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    await assert_serves_on(service)
