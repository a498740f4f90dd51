"""HTTP as attackers send it, and texts and names that would be SQL if they were ever spliced."""

import asyncio
import gzip
import json
import resource
from collections.abc import Callable
from typing import Any

import pytest

from tests.under_test import API_KEY, KEY, PATH, ServiceUnderTest, token

MakeService = Callable[..., Any]

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


METACHARACTERS = "'; drop table care_case_clinical_trial; -- \" \\ $1 $$ %s {0} \\x00 ${HOME} /* ?"
TEXTS = {
    **dict.fromkeys(
        ["comment", "disease", "inclusionExclusion", "location", "protocol_Number"], METACHARACTERS
    ),
    **dict.fromkeys(["study_Drug", "study_Length", "study_Title", "website"], METACHARACTERS),
    **dict.fromkeys(
        [f"careCaseClinicalTrial{name}_ID" for name in ("Arm", "Reason", "StudyPhase")],
        METACHARACTERS[:64],
    ),
    **dict.fromkeys(["entry_User", "update_User"], METACHARACTERS[:20]),
}


async def test_sql_in_every_text_field_is_stored_as_text(make_service: MakeService) -> None:
    service = await make_service()

    answer = await service.put([{KEY: 1, **TEXTS}, {KEY: 1, **TEXTS}, {KEY: 0, **TEXTS}])

    assert answer.statuses == [201, 200, 201]
    for row in await service.fetch("select * from care_case_clinical_trial"):
        texts = [value for value in row.values() if isinstance(value, str)]
        assert sorted(texts) == sorted(TEXTS.values())


async def test_sql_in_the_callers_name_is_stored_as_text(make_service: MakeService) -> None:
    service = await make_service()
    name = "x'); drop table--"

    await service.put([{KEY: 1}], headers={"Authorization": f"Bearer {token(sub=name)}"})

    (row,) = await service.fetch("select entry_user from care_case_clinical_trial")
    assert row["entry_user"] == name


@pytest.mark.parametrize(
    "name",
    [
        "acme'; drop database acme; --",
        "postgresql://postgres@127.0.0.1/postgres",
        "acme?sslmode=disable",
        "acme host=evil",
        "../acme",
        "/acme",
        "%61cme",
        "ACME",
        "acme,globex",
        "*",
        "dsn",
        "__class__",
        "x" * 10_000,
        "\u00e4cme",
    ],
)
async def test_a_database_name_that_is_not_configured_is_403(
    make_service: MakeService, name: str
) -> None:
    service = await make_service()

    answer = await service.put([{KEY: 1}], database=name)

    assert answer.status == 403
    assert name not in answer.detail
    await assert_serves_on(service)


@pytest.mark.parametrize("size", [100, 20_000])
async def test_two_tenants_with_the_same_keys_never_cross(
    make_service: MakeService, make_database: Callable[[], str], size: int
) -> None:
    service = await make_service(extra_databases={"globex": make_database()})

    async def send(tenant: str) -> None:
        for first in range(1, size, size // 5):
            batch = [{KEY: key, "comment": tenant} for key in range(first, first + size // 5)]
            assert set((await service.put(batch, database=tenant)).statuses) == {201}

    await asyncio.gather(send("acme"), send("globex"))

    for tenant in ("acme", "globex"):
        rows = await service.fetch(
            "select comment, count(*) from care_case_clinical_trial group by 1", database=tenant
        )
        assert [tuple(row) for row in rows] == [(tenant, size)]
