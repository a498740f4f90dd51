"""Invalid credentials and unknown databases get one response each, whatever is wrong."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService, StartProcess
from tests.support.service import (
    API_KEY,
    GUEST_KEY,
    KEY,
    PATH,
    SECOND_API_KEY,
    SECRET,
    ServiceUnderTest,
    token,
)

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


async def raw_answer(service: ServiceUnderTest, replaced: Mapping[str, str | None]) -> bytes:
    """Return all bytes that answer a batch; None leaves a header out, "\n" makes several of it."""
    head = {
        "x-api-key": API_KEY,
        "Authorization": f"Bearer {token()}",
        "vbasoftware-database": "acme",
        **replaced,
    }
    body = f'[{{"{KEY}":1}}]'
    lines = [f"PUT {PATH} HTTP/1.1", "Host: x", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    for name, values in head.items():
        lines += [f"{name}: {value}" for value in (values or "").split("\n") if values is not None]
    # Surrogates stand for bytes that are not UTF-8.
    return await service.raw("\r\n".join([*lines, "", body]).encode(errors="surrogateescape"))


DATABASES = [
    *("nope", "acme'; drop database acme; --", "postgresql://postgres@127.0.0.1/postgres"),
    *("acme?sslmode=disable", "acme?host=127.0.0.1&port=1", "acme host=evil", "../acme", "/acme"),
    *("%61cme", "ACME", "acme,globex", "acme;globex", "acme\tglobex", "*", "dsn", "__class__"),
    *("\udcffacme", "acme\udcff", "\u00e4cme", "acm\udcc3", "\u0430cme", "\uff41cme"),
    *("acme\u00a0", "acme\u200b", "acme'", '"acme"', "postgres", "template1", "pg_catalog"),
    *("${DSN}", "x" * 16_000),
]


async def test_a_forbidden_and_an_unknown_database_differ_in_no_byte(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    service = await make_service(extra_databases={"globex": make_database()})
    names = [*DATABASES, service.databases["acme"]]

    own, forbidden, *unknown = await asyncio.gather(
        *(
            raw_answer(service, {"x-api-key": key, "vbasoftware-database": name})
            for key, name in (
                *((GUEST_KEY, name) for name in ("globex", "acme", "nope")),
                *((API_KEY, name) for name in names),
            )
        )
    )

    assert own.startswith(b"HTTP/1.1 207 ")
    assert forbidden.startswith(b"HTTP/1.1 403 ")
    assert set(map(without_numbers, unknown)) == {without_numbers(forbidden)}
    assert b"acme" not in forbidden
    assert API_KEY.encode() not in forbidden
    assert await service.comments() == {}


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
    for key in (API_KEY, SECOND_API_KEY, GUEST_KEY, "wrong"):
        await service.put([], headers={"x-api-key": key, "Authorization": "Bearer x"})
        lengths.append(compared.copy())
        compared.clear()

    # All digests, which have one length, even if the first one matches.
    assert lengths == [[32, 32, 32]] * 4


def part(content: Any) -> str:
    """Return a part of a token: JSON in base64url without padding."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


CLAIMS = part({"sub": "x", "exp": FUTURE})


def signed(secret: bytes) -> str:
    """Return a token signed with any bytes, also where PyJWT refuses to."""
    unsigned = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{CLAIMS}"
    return f"{unsigned}.{part(hmac.digest(secret, unsigned.encode(), 'sha256'))}"


GOOD = token(exp=FUTURE)
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")

CLOSE = [
    *(API_KEY[:-1] + "q", API_KEY[:-1], API_KEY + "r", API_KEY + " x", "T" + API_KEY[1:]),
    *(API_KEY.upper(), f"{API_KEY},{API_KEY}", f'"{API_KEY}"', API_KEY[:-1] + "\u00e9"),
    *("\u2603" * 20, "0" * 64, "", "*"),
]
FORMS = [
    *(GOOD, f"Bearer{GOOD}", f"Bearer {GOOD}, Bearer {GOOD}"),
    *(f"Bearer Bearer {GOOD}", f"Token {GOOD}", f"Basic {GOOD}"),
    *(f'Bearer token="{GOOD}"', "Bearer", "Bearer nonsense"),
]
TAMPERED = {
    "expired": token(exp=1),
    "without exp": token(exp=None),
    "exp a text": token(exp="soon"),
    "not yet valid": token(nbf=FUTURE, exp=FUTURE),
    "other secret": token("x" * 64, exp=FUTURE),
    "other alg": token(algorithm="HS512", exp=FUTURE),
    "too long": token(sub="x" * 9_000, exp=FUTURE),
    "alg none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{CLAIMS}.",
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
    "issued in the future": token(iat=FUTURE, exp=FUTURE),
    "nbf a text": token(nbf="soon", exp=FUTURE),
    "not ASCII": "\u00e9." * 3,
    "dots": "." * 8_000,
    "empty": "",
}


CREDENTIALS: dict[str, dict[str, str | None]] = {
    "no key": {"x-api-key": None},
    "key under another name": {"x-api-key": None, "x_api_key": API_KEY},
    "key twice": {"x-api-key": f"{API_KEY}\n{API_KEY}"},
    "key wrong, as is the database": {"x-api-key": "wrong", "vbasoftware-database": "nope"},
    "both wrong": {"x-api-key": "wrong", "Authorization": "Bearer wrong"},
    **{f"key {key[-9:]!r} of {len(key)}": {"x-api-key": key} for key in CLOSE},
    "no token": {"Authorization": None},
    "token twice": {"Authorization": f"Bearer {GOOD}\nBearer {GOOD}"},
    **{f"form {form[:20]!r}": {"Authorization": form} for form in FORMS},
    **{name: {"Authorization": f"Bearer {bearer}"} for name, bearer in TAMPERED.items()},
}


async def test_whatever_is_wrong_with_the_credentials_the_answer_is_the_same_401(
    service: ServiceUnderTest,
) -> None:
    first = without_numbers(await raw_answer(service, {"x-api-key": "wrong"}))
    answers = await asyncio.gather(*(raw_answer(service, each) for each in CREDENTIALS.values()))
    others = dict(zip(CREDENTIALS, map(without_numbers, answers), strict=True))

    assert first.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nWWW-Authenticate: Bearer\r\n" in first
    assert b"API key" in first
    assert {name: answer for name, answer in others.items() if answer != first} == {}


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


@pytest.mark.parametrize("claims", [{"sub": None}, {"sub": ""}, {"sub": "\0"}], ids=str)
async def test_the_name_of_the_api_key_is_the_user_of_a_token_without_one(
    start_process: StartProcess, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any]
) -> None:
    names = ["n" * 20, "n" * 21, "\U0001f9ea" * 21, "e\u0301" * 11, "-" * 500]
    for name in names:
        variable = f"SERVICE_AUTH__API_KEYS__{name}"
        monkeypatch.setenv(f"{variable}__SHA256", hashlib.sha256(name.encode()).hexdigest())
        monkeypatch.setenv(f"{variable}__DATABASES", '["*"]')
    service, _ = await start_process()

    bearer = {"Authorization": f"Bearer {token(**claims)}"}
    answers = [await service.put([{KEY: 0}], headers={"x-api-key": n, **bearer}) for n in names]

    assert [answer.outcomes[0][1:] for answer in answers] == [(201, "Created")] * len(names)
    rows = await service.fetch(
        "select update_user from care_case_clinical_trial order by care_case_clinical_trial_key"
    )
    assert [row["update_user"] for row in rows] == [name[:20] for name in names]


async def test_a_token_that_is_too_long_is_told_in_the_log(
    service: ServiceUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        answer = await service.put(
            [], headers={"Authorization": f"Bearer {token(roles='x' * 9_000)}"}
        )

    assert answer.status == 401
    (refused,) = [record for record in caplog.records if record.message == "token rejected"]
    assert vars(refused)["cause"] == "longer than 8192 characters"
