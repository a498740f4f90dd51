"""Shapes of HTTP on which servers and proxies disagree; those of test_attacks.py are not repeated.

Whatever comes back is an envelope, and the service serves on.
"""

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.under_test import API_KEY, KEY, PATH, ServiceUnderTest, token

MakeService = Callable[..., Any]

TARGET = PATH.encode()
CREDENTIALS = (
    f"Host: x\r\nx-api-key: {API_KEY}\r\nAuthorization: Bearer {token()}\r\n"
    "vbasoftware-database: acme\r\n"
).encode()
KEPT = b"PUT %b HTTP/1.1\r\n%bContent-Type: application/json\r\n" % (TARGET, CREDENTIALS)
HEAD = KEPT + b"Connection: close\r\n"
BODY = b'[{"careCaseClinicalTrial_Key":666}]'
SIZED = b"Content-Length: 35\r\n\r\n" + BODY
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"23\r\n" + BODY + b"\r\n0\r\n\r\n"


@pytest.fixture
async def service(make_service: MakeService) -> AsyncIterator[ServiceUnderTest]:
    """A service that must serve a good batch after whatever a test has sent."""
    made: ServiceUnderTest = await make_service()
    yield made
    assert (await made.put([{KEY: 1}])).statuses == [201]


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all answers, after a look for what no answer may hold."""
    assert b"Traceback" not in answer
    assert b"<html" not in answer.lower()
    assert b'File "' not in answer
    return [int(status) for status in re.findall(rb"(?m)^HTTP/1\.[01] (\d{3}) ", answer)]


def envelope(answer: bytes) -> dict[str, Any]:
    """Return the envelope of the only answer, of a request that was refused."""
    head, _, body = answer.partition(b"\r\n\r\n")
    content: dict[str, Any] = json.loads(body)
    assert content["data"] is None
    assert content["error"]["status"] == int(head.split()[1])
    return content


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(HEAD.replace(b"\r\n", b"\n") + SIZED, id="lines end with LF"),
        pytest.param(HEAD + b"X: y\n" + SIZED, id="one line ends with LF"),
        pytest.param(HEAD + b"X: y\r" + SIZED, id="one line ends with CR"),
        pytest.param(HEAD + b"Content-Length: 35, 35\r\n\r\n" + BODY, id="list of lengths"),
        pytest.param(HEAD + b"Content-Length: 35\r\n" + SIZED, id="the same length twice"),
        pytest.param(HEAD + b"Content-Length: 3 5\r\n\r\n" + BODY, id="space in the length"),
        pytest.param(HEAD + b"Content-Length: 3_5\r\n\r\n" + BODY, id="underscore in the length"),
        pytest.param(HEAD + b"Content-Length: -35\r\n\r\n" + BODY, id="negative length"),
        pytest.param(HEAD + b"Content-Length:\r\n\r\n" + BODY, id="empty length"),
        pytest.param(HEAD + b"Content-Length: \xd9\xa3\xd9\xa5\r\n\r\n", id="Arabic digits"),
        # 2**64 + 35: one that wraps around would be right.
        pytest.param(HEAD + b"Content-Length: 18446744073709551651\r\n\r\n" + BODY, id="2**64"),
        pytest.param(HEAD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n", id="5,000 digits"),
        pytest.param(HEAD + CHUNKED + b"0x" + CHUNK, id="chunk of 0x23"),
        pytest.param(HEAD + CHUNKED + b"+" + CHUNK, id="chunk of +23"),
        pytest.param(HEAD + CHUNKED + b" " + CHUNK, id="space before the chunk's size"),
        pytest.param(HEAD + CHUNKED + b"\r\n" + CHUNK, id="no chunk size"),
        pytest.param(HEAD + CHUNKED + CHUNK.replace(b"\r\n", b"\n"), id="chunks end with LF"),
        pytest.param(HEAD + CHUNKED + CHUNK.replace(b"23", b"23;x\ny"), id="LF in an extension"),
        pytest.param(HEAD + CHUNKED + CHUNK.replace(b"23", b"22"), id="chunk longer than told"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNK, id="chunked twice"
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n" + CHUNK,
            id="two transfer codings",
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNK, id="chunked not last"
        ),
        pytest.param(HEAD + b"Transfer-Encoding: identity\r\n" + SIZED, id="identity"),
        pytest.param(
            HEAD + b"Transfer-Encoding:\x0bchunked\r\n" + SIZED, id="vertical tab in the coding"
        ),
        pytest.param(HEAD + b"nonsense\r\n" + SIZED, id="header without colon"),
        pytest.param(HEAD + b": y\r\n" + SIZED, id="header without name"),
        pytest.param(HEAD + b"\xffX: y\r\n" + SIZED, id="header name not ASCII"),
        pytest.param(HEAD + b"X: \x1b[2J\r\n" + SIZED, id="escape in a header"),
        pytest.param(HEAD + b"Content-Type: text/plain\r\n" + SIZED, id="two content types"),
        pytest.param(HEAD.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\n X: y\r\n") + SIZED, id="fold"),
        pytest.param(HEAD.replace(b"Host: x\r\n", b"") + SIZED, id="no host"),
        pytest.param(HEAD.replace(b"Host: x", b"Host: x\r\nHost: y") + SIZED, id="two hosts"),
        pytest.param(HEAD.replace(b"HTTP/1.1", b"HTTP/1.1x") + SIZED, id="version 1.1x"),
        pytest.param(HEAD.replace(b"HTTP/1.1", b"HTTP/3.0") + SIZED, id="version 3.0"),
        pytest.param(HEAD.replace(b"PUT ", b"PUT\t") + SIZED, id="tab after the method"),
        pytest.param(HEAD.replace(b"PUT ", b" PUT ") + SIZED, id="space before the method"),
        pytest.param(HEAD.replace(b"PUT ", b"put ") + SIZED, id="method in lower case"),
        pytest.param(HEAD.replace(TARGET, TARGET + b"\0") + SIZED, id="NUL in the path"),
        pytest.param(HEAD.replace(TARGET, TARGET + b"\xff") + SIZED, id="path not ASCII"),
        pytest.param(HEAD.replace(b"/", b"", 1) + SIZED, id="path without slash"),
        pytest.param(HEAD.replace(b"/", b"%2f", 1) + SIZED, id="path's slash encoded"),
        pytest.param(HEAD.replace(b" /", b" http://x:99999999/", 1) + SIZED, id="no such port"),
        pytest.param(HEAD.replace(b" /", b" http://[::1/", 1) + SIZED, id="bracket left open"),
        pytest.param(HEAD.replace(b"Bearer ", b"Bearer " + b"x" * 17_000) + SIZED, id="17 kB"),
        pytest.param(HEAD + b"X: y\r\n" * 200 + SIZED, id="200 headers"),
    ],
)
async def test_what_could_be_read_in_two_ways_is_400_and_ends_the_connection(
    service: ServiceUnderTest, request_bytes: bytes
) -> None:
    answer = await service.raw(request_bytes + KEPT + SIZED)

    assert statuses(answer) == [400]
    assert envelope(answer)["error"]["title"] == "Bad Request"
    assert await service.comments() == {}


@pytest.mark.parametrize(
    "path",
    [
        "/%2fcare-case-clinical-trials-batch",
        "/x%2f..%2fcare-case-clinical-trials-batch",
        f"/%252e%252e{PATH}",
        f"/%25%32%65%25%32%65{PATH}",
        "/%2563are-case-clinical-trials-batch",
        "/..\\care-case-clinical-trials-batch",
        f"/.{PATH}",
        f"{PATH}/.",
        f"{PATH}%2f",
        f"{PATH}%20",
        f"{PATH}%0d%0aX:%20y",
        f"{PATH}%3fx",
        PATH.upper(),
        "/%ff",
        "/%ed%a0%80",
        "/%",
        "/%zz",
    ],
)
async def test_a_path_that_is_not_the_operations_own_is_404(
    service: ServiceUnderTest, path: str
) -> None:
    answer = await service.raw(HEAD.replace(TARGET, path.encode()) + SIZED)

    assert statuses(answer) == [404]
    assert b"\r\nX: y" not in answer
    envelope(answer)
    assert await service.comments() == {}


@pytest.mark.parametrize(
    "target",
    [
        b"http://x" + TARGET,
        b"http://elsewhere.example:80" + TARGET,
        TARGET + b"?vbasoftware-database=globex&x-api-key=y",
        b"/%63are-case-clinical-trials-batch",
    ],
)
async def test_other_writings_of_the_same_target_are_served(
    service: ServiceUnderTest, target: bytes
) -> None:
    answer = await service.raw(HEAD.replace(TARGET, target) + SIZED)

    assert statuses(answer) == [207]
    assert await service.comments() == {666: None}


@pytest.mark.parametrize("method", ["GET", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "HEAD", "POST"])
async def test_other_methods_are_405_and_echo_no_credentials(
    service: ServiceUnderTest, method: str
) -> None:
    answer = await service.raw(HEAD.replace(b"PUT", method.encode()) + SIZED)

    assert statuses(answer) == [405]
    assert b"\r\nAllow: PUT\r\n" in answer
    assert API_KEY.encode() not in answer
    assert method == "HEAD" or envelope(answer)


@pytest.mark.parametrize("method", ["CONNECT", "BREW", "P\u00dcT", "P" * 5_000])
async def test_methods_that_nobody_serves_are_refused(
    service: ServiceUnderTest, method: str
) -> None:
    answer = await service.raw(HEAD.replace(b"PUT", method.encode()) + b"\r\n")

    assert set(statuses(answer)) <= {400, 404, 405, 501}
    envelope(answer)
    assert await service.comments() == {}


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.0"])
async def test_no_upgrade_turns_the_connection_over(
    service: ServiceUnderTest, protocol: bytes
) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n"

    answer = await service.raw(HEAD + b"Upgrade: " + protocol + b"\r\n" + upgrade + SIZED)

    assert statuses(answer) == [207]
    assert await service.comments() == {666: None}


async def test_pipelined_requests_are_answered_in_their_order(service: ServiceUnderTest) -> None:
    good, bad = KEPT + SIZED, KEPT.replace(TARGET, b"/nowhere") + SIZED

    answer = await service.raw(good + bad + good)

    assert statuses(answer) == [207, 404, 207]


async def test_trailers_change_nothing(service: ServiceUnderTest) -> None:
    trailers = b"0\r\nvbasoftware-database: globex\r\nx-api-key: y\r\n\r\n"

    answer = await service.raw(HEAD + CHUNKED + CHUNK.replace(b"0\r\n\r\n", trailers))

    assert statuses(answer) == [207]
    assert await service.comments() == {666: None}


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(HEAD.replace(b"x-api-key", b"x_api_key") + SIZED, id="underscores"),
        pytest.param(HEAD + b"x-api-key: %b\r\n" % API_KEY.encode() + SIZED, id="key twice"),
        pytest.param(HEAD + b"Authorization: Bearer x\r\n" + SIZED, id="authorization twice"),
    ],
)
async def test_a_credential_under_another_name_or_twice_is_none(
    service: ServiceUnderTest, request_bytes: bytes
) -> None:
    answer = await service.raw(request_bytes)

    assert statuses(answer) == [401]


@pytest.mark.parametrize("database", [b"globex", b"acme", b""])
async def test_the_database_named_twice_is_400(service: ServiceUnderTest, database: bytes) -> None:
    answer = await service.raw(HEAD + b"vbasoftware-database: %b\r\n" % database + SIZED)

    assert statuses(answer) == [400]
    assert await service.comments() == {}
