"""HTTP as attackers send it, and shapes on which servers and proxies disagree.

Every response is an envelope, and the service still works afterwards.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.support.running import MakeService
from tests.support.service import API_KEY, KEY, PATH, ServiceUnderTest, token

TARGET = PATH.encode()
CREDENTIALS = (
    f"Host: x\r\nx-api-key: {API_KEY}\r\nAuthorization: Bearer {token(exp=2**33)}\r\n"
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
    made = await make_service()
    yield made
    assert (await made.put([{KEY: 1}])).statuses == [201]


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all answers, after a look for what no answer may hold."""
    assert b"Traceback" not in answer
    assert b"<html" not in answer.lower()
    assert b'File "' not in answer
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


async def answers_to(service: ServiceUnderTest, requests: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return all that answers the requests, each sent on a connection of its own."""
    answers = await asyncio.gather(*map(service.raw, requests.values()))
    return dict(zip(requests, answers, strict=True))


def envelope(answer: bytes) -> dict[str, Any]:
    """Return the envelope of the only answer, of a request that was refused."""
    head, _, body = answer.partition(b"\r\n\r\n")
    content: dict[str, Any] = json.loads(body)
    assert content["data"] is None
    assert content["error"]["status"] == int(head.split()[1])
    return content


AMBIGUOUS = {
    "lines end with LF": KEPT.replace(b"\r\n", b"\n") + SIZED,
    "one line ends with LF": KEPT + b"X: y\n" + SIZED,
    "one line ends with CR": KEPT + b"X: y\r" + SIZED,
    "list of lengths": KEPT + b"Content-Length: 35, 35\r\n\r\n" + BODY,
    "the same length twice": KEPT + b"Content-Length: 35\r\n" + SIZED,
    "space in the length": KEPT + b"Content-Length: 3 5\r\n\r\n" + BODY,
    "underscore in the length": KEPT + b"Content-Length: 3_5\r\n\r\n" + BODY,
    "negative length": KEPT + b"Content-Length: -35\r\n\r\n" + BODY,
    "empty length": KEPT + b"Content-Length:\r\n\r\n" + BODY,
    "Arabic digits": KEPT + b"Content-Length: \xd9\xa3\xd9\xa5\r\n\r\n",
    # One that wraps around would be right.
    "2**64 + 35": KEPT + b"Content-Length: 18446744073709551651\r\n\r\n" + BODY,
    "5,000 digits": KEPT + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n",
    "chunk of 0x23": KEPT + CHUNKED + b"0x" + CHUNK,
    "chunk of +23": KEPT + CHUNKED + b"+" + CHUNK,
    "space before the chunk's size": KEPT + CHUNKED + b" " + CHUNK,
    "no chunk size": KEPT + CHUNKED + b"\r\n" + CHUNK,
    "chunks end with LF": KEPT + CHUNKED + CHUNK.replace(b"\r\n", b"\n"),
    "LF in an extension": KEPT + CHUNKED + CHUNK.replace(b"23", b"23;x\ny"),
    "chunk longer than told": KEPT + CHUNKED + CHUNK.replace(b"23", b"22"),
    "chunked twice": KEPT + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNK,
    "two transfer codings": KEPT
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n"
    + CHUNK,
    "chunked not last": KEPT + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNK,
    "identity": KEPT + b"Transfer-Encoding: identity\r\n" + SIZED,
    "vertical tab in the coding": KEPT + b"Transfer-Encoding:\x0bchunked\r\n" + SIZED,
    "header without colon": KEPT + b"nonsense\r\n" + SIZED,
    "header without name": KEPT + b": y\r\n" + SIZED,
    "header name not ASCII": KEPT + b"\xffX: y\r\n" + SIZED,
    "escape in a header": KEPT + b"X: \x1b[2J\r\n" + SIZED,
    "two content types": KEPT + b"Content-Type: text/plain\r\n" + SIZED,
    "fold": KEPT.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\n X: y\r\n") + SIZED,
    "no host": KEPT.replace(b"Host: x\r\n", b"") + SIZED,
    "two hosts": KEPT.replace(b"Host: x", b"Host: x\r\nHost: y") + SIZED,
    "version 1.1x": KEPT.replace(b"HTTP/1.1", b"HTTP/1.1x") + SIZED,
    "version 3.0": KEPT.replace(b"HTTP/1.1", b"HTTP/3.0") + SIZED,
    "tab after the method": KEPT.replace(b"PUT ", b"PUT\t") + SIZED,
    "space before the method": KEPT.replace(b"PUT ", b" PUT ") + SIZED,
    "method in lower case": KEPT.replace(b"PUT ", b"put ") + SIZED,
    "NUL in the path": KEPT.replace(TARGET, TARGET + b"\0") + SIZED,
    "path not ASCII": KEPT.replace(TARGET, TARGET + b"\xff") + SIZED,
    "path without slash": KEPT.replace(b"/", b"", 1) + SIZED,
    "path's slash encoded": KEPT.replace(b"/", b"%2f", 1) + SIZED,
    "no such port": KEPT.replace(b" /", b" http://x:99999999/", 1) + SIZED,
    "bracket left open": KEPT.replace(b" /", b" http://[::1/", 1) + SIZED,
    "length and chunked": KEPT + b"Content-Length: 2\r\n" + CHUNKED + b"0\r\n\r\n" + BODY,
    "two lengths": KEPT + b"Content-Length: 2\r\n" + SIZED,
    "signed length": KEPT + b"Content-Length: +35\r\n\r\n" + BODY,
    "hexadecimal length": KEPT + b"Content-Length: 0x23\r\n\r\n" + BODY,
    "unknown transfer coding": KEPT + CHUNKED.replace(b"chunked", b"xchunked") + CHUNK,
    "negative chunk": KEPT + CHUNKED + b"-1\r\n" + BODY,
    "huge chunk": KEPT + CHUNKED + b"f" * 20 + b"\r\n" + BODY,
    "space before the colon": KEPT + SIZED.replace(b":", b" :", 1),
    "folded header": KEPT + b"X: y\r\n folded\r\n" + SIZED,
    "NUL in a header": KEPT + b"X: a\0b\r\n" + SIZED,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no request": b"GARBAGE\r\n\r\n",
    "long path": b"PUT /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "40 kB in a header": KEPT + b"X: " + b"a" * 40_000 + b"\r\n" + SIZED,
    "50,000 headers": KEPT + b"X: y\r\n" * 50_000 + SIZED,
    "17 kB": KEPT.replace(b"Bearer ", b"Bearer " + b"x" * 17_000) + SIZED,
    "200 headers": KEPT + b"X: y\r\n" * 200 + SIZED,
}


async def test_what_could_be_read_in_two_ways_is_400_and_ends_the_connection(
    service: ServiceUnderTest,
) -> None:
    answers = await answers_to(service, {n: r + KEPT + SIZED for n, r in AMBIGUOUS.items()})

    assert {n: statuses(a) for n, a in answers.items() if statuses(a) != [400]} == {}
    assert {envelope(answer)["error"]["title"] for answer in answers.values()} == {"Bad Request"}
    assert await service.comments() == {}
    for answer in answers.values():
        head = answer.partition(b"\r\n\r\n")[0]
        activity_id = envelope(answer)["debug"]["activityID"]
        assert f"\r\nX-Activity-ID: {activity_id}\r\n".encode() in head + b"\r\n"
        assert b"\r\nServer:" not in head
        assert b"GARBAGE" not in answer
        assert b"aaaa" not in answer


HEADERS_READ = [
    *("Accept", "Authorization", "x-api-key", "vbasoftware-database", "Content-Type", "Expect"),
    *("Content-Encoding", "Content-Length", "Transfer-Encoding", "Idempotency-Key", "Host"),
    *("Connection", "traceparent", "Upgrade", "Accept-Encoding", "Cookie", "Range", "Prefer"),
]
MALFORMED = [
    *("", ",", ";", '"', "=", "\xff", "a\tb", "%", "\\", "0", "*/*;q=", ";;q=\xb2", "a" * 9_000),
    *("application/json; charset", "application/json;charset=%", "application/json; x*=y''%ff"),
    *("100-continue, x", "chunked;q", "\xc2\xb2", "application/json; x*0*=y''%ff; x*1=z"),
]


@pytest.mark.parametrize("name", HEADERS_READ)
async def test_every_answer_to_a_header_twice_or_malformed_is_an_envelope(
    service: ServiceUnderTest, name: str
) -> None:
    line = re.compile(rb"\r\n%b: [^\r]*" % name.encode(), re.IGNORECASE)
    given = line.search(HEAD)
    requests = {}
    for value in MALFORMED:
        added = f"{name}: {value}\r\n".encode("latin-1")
        requests[f"{value!r} too"] = HEAD + added + SIZED
        if given is not None:
            requests[f"{value!r} instead"] = HEAD.replace(given[0], b"\r\n" + added[:-2]) + SIZED
    if given is not None:
        requests["twice"] = HEAD + given[0][2:] + b"\r\n" + SIZED

    answers = await answers_to(service, requests)

    for request, answer in answers.items():
        final = answer[answer.index(b"HTTP/1.1 ", 1) :] if b"100 Continue" in answer else answer
        head, _, body = final.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert status < 500, (request, answer)
        assert b"\r\nX-Activity-ID: " in head, (request, answer)
        assert b"\r\nServer:" not in head, (request, answer)
        assert status == 207 or json.loads(body)["error"]["status"] == status


OTHER_PATHS = [
    *(f"/{PATH}", f"/..{PATH}", f"/x/..{PATH}/x", f"{PATH}/", f"/%2e%2e/%2e%2e{PATH}"),
    *(f"{PATH}%00", f"{PATH};x=y", PATH.replace("-batch", "%2Dbatch/..")),
    *("/etc/passwd", "/../../../../etc/passwd", "/docs/../../../../../../etc/passwd"),
    *("/docs/%2e%2e/%2e%2e/config.py", "/docs/..%2f..%2fconfig.py"),
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
]


async def test_a_path_that_is_not_the_operations_own_is_404(service: ServiceUnderTest) -> None:
    requests = {
        f"{method} {path}": HEAD.replace(b"PUT " + TARGET, f"{method} {path}".encode()) + SIZED
        for method in ("PUT", "GET")
        for path in OTHER_PATHS
    }

    answers = await answers_to(service, requests)

    assert {path: statuses(a) for path, a in answers.items() if statuses(a) != [404]} == {}
    assert {envelope(answer)["error"]["title"] for answer in answers.values()} == {"Not Found"}
    assert not any(b"\r\nX: y" in answer for answer in answers.values())
    assert await service.comments() == {}


async def test_other_writings_of_the_same_target_are_served(service: ServiceUnderTest) -> None:
    targets = [
        "http://x" + PATH,
        "http://elsewhere.example:80" + PATH,
        PATH + "?vbasoftware-database=globex&x-api-key=y",
        "/%63are-case-clinical-trials-batch",
    ]

    answers = await answers_to(
        service, {target: HEAD.replace(TARGET, target.encode()) + SIZED for target in targets}
    )

    assert {target: statuses(answer) for target, answer in answers.items()} == {
        target: [207] for target in targets
    }
    assert await service.comments() == {666: None}


async def test_other_methods_are_405_and_echo_no_credentials(service: ServiceUnderTest) -> None:
    methods = ["GET", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "HEAD"]

    answers = await answers_to(
        service, {method: HEAD.replace(b"PUT", method.encode()) + SIZED for method in methods}
    )

    for method, answer in answers.items():
        assert (method, statuses(answer)) == (method, [405])
        assert b"\r\nAllow: PUT\r\n" in answer
        assert API_KEY.encode() not in answer
        assert method == "HEAD" or envelope(answer)


async def test_methods_that_nobody_serves_are_refused(service: ServiceUnderTest) -> None:
    methods = ["CONNECT", "BREW", "P\u00dcT", "P" * 5_000]

    answers = await answers_to(
        service, {method: HEAD.replace(b"PUT", method.encode()) + b"\r\n" for method in methods}
    )

    for method, answer in answers.items():
        assert statuses(answer)[0] in (400, 404, 405, 501), method
        envelope(answer)


async def test_no_upgrade_turns_the_connection_over(service: ServiceUnderTest) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings, close\r\nHTTP2-Settings: AAMAAABk\r\n"
    protocols = ["websocket", "h2c", "TLS/1.0"]

    answers = await answers_to(
        service, {p: KEPT + b"Upgrade: %b\r\n" % p.encode() + upgrade + SIZED for p in protocols}
    )

    assert [statuses(answer) for answer in answers.values()] == [[207]] * 3


async def test_pipelined_requests_are_answered_in_their_order(service: ServiceUnderTest) -> None:
    good, bad = KEPT + SIZED, KEPT.replace(TARGET, b"/nowhere") + SIZED

    answer = await service.raw(good + bad + HEAD + SIZED)

    assert statuses(answer) == [207, 404, 207]


async def test_trailers_change_nothing(service: ServiceUnderTest) -> None:
    trailers = b"0\r\nvbasoftware-database: globex\r\nx-api-key: y\r\n\r\n"

    answer = await service.raw(HEAD + CHUNKED + CHUNK.replace(b"0\r\n\r\n", trailers))

    assert statuses(answer) == [207]
    assert await service.comments() == {666: None}


async def test_trailers_without_end_are_refused(service: ServiceUnderTest) -> None:
    body = KEPT + CHUNKED + CHUNK.removesuffix(b"\r\n")

    answers = await answers_to(
        service,
        {"many": body + b"X: y\r\n" * 300 + b"\r\n", "long": body + b"X: " + b"y" * 20_000},
    )

    assert [statuses(answer) for answer in answers.values()] == [[400]] * 2


async def test_a_transfer_coding_that_is_not_undone_is_refused(service: ServiceUnderTest) -> None:
    answer = await service.raw(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK)

    assert statuses(answer) in ([400], [501])
    assert await service.comments() == {}


@pytest.mark.parametrize("header", ["Content-Type", "Content-Encoding"])
async def test_a_header_that_is_not_utf8_is_415_like_any_other_type(
    service: ServiceUnderTest, header: str
) -> None:
    head = re.sub(rb"Content-Type: [^\r]*\r\n", b"", HEAD) if header == "Content-Type" else HEAD

    answer = await service.raw(head + header.encode() + b": text/\xff\r\n" + SIZED)

    assert statuses(answer) == [415]


async def test_a_client_of_http_1_0_gets_its_outcomes(service: ServiceUnderTest) -> None:
    answer = await service.raw(KEPT.replace(b"HTTP/1.1", b"HTTP/1.0") + SIZED)

    assert await service.comments() == {666: None}
    assert statuses(answer) == [207]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["data"][0]["status"] == 201


async def test_a_client_of_http_1_0_gets_the_outcomes_of_many_chunks(
    service: ServiceUnderTest,
) -> None:
    """Such as nginx, unless told otherwise: it ends where the connection does."""
    body = json.dumps([{KEY: key} for key in range(2, 2_002)]).encode()
    head = KEPT.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\n"

    answer = await service.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    assert statuses(answer) == [207]
    assert b"\r\nTransfer-Encoding" not in answer
    outcomes = json.loads(answer.partition(b"\r\n\r\n")[2])["data"]
    assert [outcome["status"] for outcome in outcomes] == [201] * 2_000
