"""Keys that come close and tokens that were tampered with are refused alike."""

import asyncio
import base64
import hmac
import json
import re
import secrets
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.harness.postgres import MakeDatabase
from tests.harness.running import MakeService
from tests.harness.service import API_KEY, GUEST_KEY, KEY, SECRET, ServiceUnderTest, token

FUTURE = 2**33
"""A time that does not come while the tests run."""


@pytest.fixture
async def service(make_service: MakeService) -> ServiceUnderTest:
    """A service whose database need not answer: what is refused never gets there."""
    return await make_service({"acme": "postgresql://127.0.0.1:1/acme"})


def without_numbers(answer: bytes) -> bytes:
    """Return a raw answer without what differs between any two: its activity id and its date."""
    answer = re.sub(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", b"<id>", answer)
    return re.sub(rb"\r\nDate: [^\r]*", b"", answer)


async def raw_answer(service: ServiceUnderTest, **replaced: str) -> bytes:
    """Return all bytes that answer a batch; some words of its head were replaced by others."""
    lines = service.head(content_length=2).decode().split("\r\n")
    for header, value in replaced.items():
        name = header.replace("_", "-")
        (place,) = [i for i, line in enumerate(lines) if line.startswith(f"{name}: ")]
        lines[place] = f"{name}: {value}"
    head = "\r\n".join(lines)
    request = head.encode().replace(b"Host: x", b"Host: x\r\nConnection: close") + b"[]"
    return await service.raw(request)


async def test_a_forbidden_and_an_unknown_database_differ_in_no_byte(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    service = await make_service(extra_databases={"globex": make_database()})

    own, forbidden, unknown = [
        await raw_answer(service, x_api_key=GUEST_KEY, vbasoftware_database=name)
        for name in ("globex", "acme", "nope")
    ]

    assert own.startswith(b"HTTP/1.1 207 ")
    assert forbidden.startswith(b"HTTP/1.1 403 ")
    assert without_numbers(forbidden) == without_numbers(unknown)
    assert b"acme" not in forbidden


async def test_keys_that_come_close_get_the_answer_of_those_that_do_not(
    service: ServiceUnderTest,
) -> None:
    close = [
        API_KEY[:-1] + "q",
        API_KEY[:-1],
        API_KEY + "r",
        "T" + API_KEY[1:],
        API_KEY.upper(),
        f"{API_KEY},{API_KEY}",
        f'"{API_KEY}"',
        API_KEY[:-1] + "\u00e9",
        "\u2603" * 20,
        "0" * 64,
        "",
        "*",
    ]

    far = without_numbers(await raw_answer(service, x_api_key="nothing like it"))
    answers = [without_numbers(await raw_answer(service, x_api_key=key)) for key in close]

    assert far.startswith(b"HTTP/1.1 401 ")
    assert [key for key, answer in zip(close, answers, strict=True) if answer != far] == []


async def test_every_configured_key_is_compared_in_constant_time(
    service: ServiceUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = hmac.compare_digest
    compared: list[int] = []

    def counting(left: Any, right: Any) -> bool:
        compared.append(len(left))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    lengths = []
    for key in (API_KEY, GUEST_KEY, "wrong"):
        await service.put([], headers={"x-api-key": key, "Authorization": "Bearer x"})
        lengths.append(compared.copy())
        compared.clear()

    # Digests of one length, both of them, also where the first one fits.
    assert lengths == [[32, 32]] * 3


async def test_whichever_credential_is_wrong_the_answer_is_the_same(
    service: ServiceUnderTest,
) -> None:

    answers = [
        await raw_answer(service, x_api_key="wrong"),
        await raw_answer(service, Authorization="Bearer wrong"),
        await raw_answer(service, Authorization=f"Bearer {token(exp=1)}"),
        await raw_answer(service, x_api_key="wrong", Authorization="Bearer wrong"),
        await raw_answer(service, x_api_key="wrong", vbasoftware_database="nope"),
    ]

    assert answers[0].startswith(b"HTTP/1.1 401 ")
    assert len(set(map(without_numbers, answers))) == 1


def part(content: Any) -> str:
    """Return a part of a token: JSON in base64url without padding."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


CLAIMS = part({"sub": "x", "exp": FUTURE})


def signed(secret: bytes) -> str:
    """Return a token signed with any bytes, also where PyJWT refuses to."""
    unsigned = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{CLAIMS}"
    return f"{unsigned}.{part(hmac.digest(secret, unsigned.encode(), 'sha256'))}"


HEADER, PAYLOAD, SIGNATURE = token(exp=FUTURE).split(".")


TAMPERED = {
    "alg NONE": f"{part({'alg': 'NONE', 'typ': 'JWT'})}.{CLAIMS}.",
    "no alg": f"{part({'typ': 'JWT'})}.{CLAIMS}.{SIGNATURE}",
    "alg a list": f"{part({'alg': ['HS256']})}.{CLAIMS}.{SIGNATURE}",
    "alg null": f"{part({'alg': None})}.{CLAIMS}.{SIGNATURE}",
    "header a list": f"{part([])}.{CLAIMS}.{SIGNATURE}",
    "header nested deep": f"{part(b'[' * 5_000)}.{CLAIMS}.{SIGNATURE}",
    "crit unknown": f"{part({'alg': 'HS256', 'crit': ['x']})}.{CLAIMS}.",
    "signature removed": f"{HEADER}.{PAYLOAD}.",
    "two parts": f"{HEADER}.{PAYLOAD}",
    "four parts": f"{HEADER}.{PAYLOAD}.{SIGNATURE}.{SIGNATURE}",
    "claims": f"{HEADER}.{part({'sub': 'admin', 'exp': FUTURE})}.{SIGNATURE}",
    "signature turned round": f"{HEADER}.{PAYLOAD}.{SIGNATURE[::-1]}",
    "signature cut short": f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-4]}",
    "signed with the empty secret": signed(b""),
    "signed with the API key": signed(API_KEY.encode()),
    "exp before the epoch": token(exp=-1),
    "exp a list": token(exp=[FUTURE]),
    "exp infinite": token(exp=1e999),
    "exp not a number": token(exp=float("nan")),
    "issued in the future": token(iat=FUTURE),
    "nbf a text": token(nbf="soon"),
    "not ASCII": "\u00e9." * 3,
    "dots": "." * 8_000,
    "empty": "",
}


async def test_a_tampered_token_is_401(service: ServiceUnderTest) -> None:
    answers = {
        name: (await service.put([], headers={"Authorization": f"Bearer {bearer}"})).status
        for name, bearer in TAMPERED.items()
    }

    assert answers == dict.fromkeys(TAMPERED, 401)


async def test_a_token_in_another_form_is_401(service: ServiceUnderTest) -> None:
    forms = [
        f"{token()}",
        f"Bearer{token()}",
        f"Bearer {token()}, Bearer {token()}",
        f"Bearer Bearer {token()}",
        f"Token {token()}",
        f'Bearer token="{token()}"',
        "Bearer",
    ]

    answers = [(await service.put([], headers={"Authorization": form})).status for form in forms]

    assert answers == [401] * len(forms)


async def test_a_token_of_100_kb_is_refused_and_the_next_request_served(
    service: ServiceUnderTest,
) -> None:
    answer = await raw_answer(service, Authorization=f"Bearer {'x' * 100_000}")

    status = int(answer.split(b" ", 2)[1])
    assert 400 <= status < 500
    assert b'"data":null' in answer
    assert (await service.put([])).status == 207


def key_pair(algorithm: str, folder: Path) -> tuple[str, Path]:
    """Return a new private key as PEM, and its public one in a file."""
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
        ec.generate_private_key(ec.SECP256R1())
        if algorithm.startswith("ES")
        else rsa.generate_private_key(65537, 2048)
    )
    public = folder / f"{secrets.token_hex(4)}.pem"
    public.write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem.decode(), public


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_the_public_key_is_no_secret_to_sign_with(
    make_service: MakeService, tmp_path: Path, algorithm: str
) -> None:
    private, public = key_pair(algorithm, tmp_path)
    service = await make_service(
        {"acme": "postgresql://127.0.0.1:1/acme"},
        jwt={"algorithms": [algorithm], "public_key_file": str(public)},
    )
    pem = public.read_bytes()
    forged = [signed(key) for key in (pem, pem.rstrip(), pem.replace(b"\n", b"\r\n"), b"")]
    none = f"{part({'alg': 'none'})}.{CLAIMS}."
    embedded = jwt.encode(
        {"sub": "x", "exp": FUTURE},
        key_pair(algorithm, tmp_path)[0],
        algorithm=algorithm,
        headers={"jwk": {"kty": "RSA"}, "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"},
    )

    good = jwt.encode({"sub": "x", "exp": FUTURE}, private, algorithm=algorithm)
    accepted = await service.put([], headers={"Authorization": f"Bearer {good}"})
    refused = [
        (await service.put([], headers={"Authorization": f"Bearer {bearer}"})).status
        for bearer in (*forged, none, embedded, token())
    ]

    assert accepted.status == 207
    assert refused == [401] * 7


async def test_a_token_that_was_accepted_is_refused_once_it_has_expired(
    make_service: MakeService,
) -> None:
    service = await make_service(
        {"acme": "postgresql://127.0.0.1:1/acme"},
        jwt={"algorithms": ["HS256"], "secret": SECRET, "leeway_seconds": 0},
    )
    expiry = int(time.time()) + 3
    bearer = {"Authorization": f"Bearer {token(exp=expiry)}"}

    before = [(await service.put([], headers=bearer)).status for _ in range(2)]
    await asyncio.sleep(expiry - time.time() + 0.1)
    after = await service.put([], headers=bearer)

    # The second is not verified anew: see VERIFIED_SECONDS.
    assert before == [207, 207]
    assert after.status == 401


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"iss": "us", "aud": "this"}, 207),
        ({"iss": "us", "aud": ["that", "this"]}, 207),
        ({"iss": "them", "aud": "this"}, 401),
        ({"iss": "us", "aud": "that"}, 401),
        ({"aud": "this"}, 401),
        ({"iss": "us"}, 401),
    ],
)
async def test_issuer_and_audience_must_be_those_configured(
    make_service: MakeService, claims: dict[str, Any], status: int
) -> None:
    service = await make_service(
        {"acme": "postgresql://127.0.0.1:1/acme"},
        jwt={"algorithms": ["HS256"], "secret": SECRET, "issuer": "us", "audience": "this"},
    )

    answer = await service.put([], headers={"Authorization": f"Bearer {token(**claims)}"})

    assert answer.status == status


async def test_an_audience_in_the_token_is_no_obstacle_where_none_is_configured(
    service: ServiceUnderTest,
) -> None:
    answer = await service.put([], headers={"Authorization": f"Bearer {token(aud='any')}"})

    assert answer.status == 207


async def test_no_token_widens_what_its_api_key_may_use(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    service = await make_service(extra_databases={"globex": make_database()})
    bearer = token(databases=["*"], tenant="acme", scope="acme admin", sub="loader")

    answer = await service.put(
        [{KEY: 1}], headers={"x-api-key": GUEST_KEY, "Authorization": f"Bearer {bearer}"}
    )

    assert answer.status == 403
    assert await service.comments() == {}


@pytest.mark.parametrize("claims", [{"sub": 17}, {"sub": ["x"]}, {"jti": 17}, {"sub": {}}], ids=str)
async def test_a_subject_or_id_that_is_no_text_is_no_reason_to_refuse(
    make_service: MakeService, claims: dict[str, Any]
) -> None:
    service = await make_service()

    answer = await service.put([{KEY: 1}], headers={"Authorization": f"Bearer {token(**claims)}"})

    assert answer.statuses == [201]
    (row,) = await service.fetch("select update_user from care_case_clinical_trial")
    assert row["update_user"] == ("loader" if "sub" in claims else "tester")


async def test_a_token_that_is_too_long_is_told_in_the_log(
    service: ServiceUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        answer = await service.put(
            [], headers={"Authorization": f"Bearer {token(roles='x' * 9_000)}"}
        )

    assert answer.status == 401
    (refused,) = [record for record in caplog.records if record.message == "token refused"]
    assert vars(refused)["cause"] == "longer than 8192 characters"
