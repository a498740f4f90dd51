"""Key servers that are slow, come in pieces, or answer nonsense."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.under_test import ServiceUnderTest

MakeService = Callable[..., Any]
ALGORITHM = jwt.get_algorithm_by_name("RS256")
SIGNER = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)


def bearer(
    key: rsa.RSAPrivateKey = SIGNER, headers: dict[str, Any] | None = None, **claims: Any
) -> dict[str, str]:
    """Return a header with a token signed by a key; it names the key "one" unless told."""
    payload = {"sub": "x", "exp": 2**33, **claims}
    kid = {"kid": "one"} if headers is None else headers
    return {"Authorization": f"Bearer {jwt.encode(payload, key, 'RS256', headers=kid)}"}


def published(key: rsa.RSAPrivateKey = SIGNER, **members: Any) -> dict[str, Any]:
    """Return a key of a key set; members override, or as None remove, the usual ones."""
    usual = {**json.loads(ALGORITHM.to_jwk(key.public_key())), "kid": "one", "use": "sig"}
    return {name: value for name, value in {**usual, **members}.items() if value is not None}


@dataclass
class KeyServer:
    """Serves bytes, in one piece or several, and tells how often it was asked."""

    pieces: list[bytes] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    fetches: int = 0
    url: str = ""

    def publish(self, *keys: dict[str, Any]) -> None:
        self.pieces = [json.dumps({"keys": keys}).encode()]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.fetches += 1
        self.asked.set()
        await self.gate.wait()
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
            await asyncio.sleep(0.05)
        return response


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    """A key server with the key "one" that answers at once."""
    keys = KeyServer()
    keys.gate.set()
    keys.publish(published())
    app = web.Application()
    app.router.add_get("/jwks", keys.answer)
    async with TestServer(app) as server:
        keys.url = str(server.make_url("/jwks"))
        yield keys
        keys.gate.set()


@pytest.fixture
async def service(make_service: MakeService, key_server: KeyServer) -> ServiceUnderTest:
    made: ServiceUnderTest = await make_service(
        {"acme": "postgresql://127.0.0.1:1/acme"},
        jwt={"algorithms": ["RS256", "RS512"], "jwks_url": key_server.url},
    )
    return made


async def test_a_key_set_that_comes_in_pieces_is_read_to_its_end(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    (whole,) = key_server.pieces
    key_server.pieces = [whole[:100], whole[100:]]

    assert (await service.put([], headers=bearer())).status == 207


async def test_requests_that_come_during_the_first_fetch_wait_for_it(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    key_server.gate.clear()

    waiting = [asyncio.create_task(service.put([], headers=bearer(n=n))) for n in range(5)]
    await key_server.asked.wait()
    await asyncio.sleep(0.2)
    key_server.gate.set()

    assert [(await task).status for task in waiting] == [207] * 5
    assert key_server.fetches == 1


async def test_requests_that_come_while_a_new_key_is_fetched_wait_for_it(
    service: ServiceUnderTest, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.put([], headers=bearer())
    monkeypatch.setattr("service.jwks.KeySet._tried_at", float("-inf"), raising=False)
    monkeypatch.setattr("service.jwks.UNKNOWN_KEY_SECONDS", 0.3)
    await asyncio.sleep(0.3)
    key_server.publish(published(), published(OTHER, kid="two"))
    key_server.gate.clear()
    key_server.asked.clear()

    new = bearer(OTHER, {"kid": "two"})
    waiting = [asyncio.create_task(service.put([], headers=new)) for _ in range(3)]
    await key_server.asked.wait()
    await asyncio.sleep(0.1)
    old = await asyncio.wait_for(service.put([], headers=bearer(n=1)), 2)
    key_server.gate.set()

    assert old.status == 207
    assert [(await task).status for task in waiting] == [207] * 3


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"<html>sign in to the hotel's network</html>",
        b"[]",
        b"null",
        b'"keys"',
        b'{"keys":null}',
        b'{"keys":[]}',
        b'{"keys":{"one":{}}}',
        b'{"keys":[1]}',
        b'{"keys":[null]}',
        b'{"keys":[{"kty":"RSA","kid":"one","n":1,"e":2}]}',
        b'{"keys":[{"kty":["RSA"]}]}',
        b'{"keys":[{"kty":"RSA","alg":["RS256"],"kid":"one"}]}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"keys":[' + b" " * 2_000_000 + b"]}",
    ],
    ids=lambda text: repr(text[:30]),
)
async def test_an_answer_that_is_no_key_set_is_an_outage_that_passes(
    service: ServiceUnderTest,
    key_server: KeyServer,
    nonsense: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.jwks.UNKNOWN_KEY_SECONDS", 0)
    key_server.pieces = [nonsense]

    during = await service.put([], headers=bearer())
    key_server.publish(published())
    after = await service.put([], headers=bearer())

    assert during.status == 503
    assert during.headers["Retry-After"]
    assert after.status == 207


async def test_one_key_that_cannot_be_used_does_not_spoil_the_others(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    key_server.publish(
        {"kty": "RSA", "kid": "broken"},
        {"kty": "post-quantum", "kid": "new"},
        published(),
    )

    assert (await service.put([], headers=bearer())).status == 207


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(published(use="enc"), id="for encryption"),
        pytest.param(published(kid="other"), id="of another id"),
        pytest.param(published(OTHER), id="of another pair"),
        pytest.param({"kty": "oct", "kid": "one", "k": "c2VjcmV0"}, id="symmetric"),
        pytest.param(published(kid=None), id="without an id"),
    ],
)
async def test_a_key_that_is_not_the_tokens_own_verifies_nothing(
    service: ServiceUnderTest, key_server: KeyServer, key: dict[str, Any]
) -> None:
    key_server.publish(key, published(OTHER, kid="third"))

    assert (await service.put([], headers=bearer())).status == 401


async def test_a_secret_in_a_key_set_signs_no_token(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    key_server.publish({"kty": "oct", "kid": "one", "k": "c2VjcmV0" * 8}, published(kid="two"))
    payload = {"sub": "x", "exp": 2**33}
    forged = jwt.encode(payload, b"secret" * 8, "HS256", headers={"kid": "one"})

    answer = await service.put([], headers={"Authorization": f"Bearer {forged}"})

    assert answer.status == 401


async def test_a_token_without_key_id_is_verified_only_where_there_is_one_key(
    service: ServiceUnderTest, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = await service.put([], headers=bearer(headers={}))
    monkeypatch.setattr("service.jwks.UNKNOWN_KEY_SECONDS", 0)
    monkeypatch.setattr("service.jwks.REFRESH_SECONDS", 0)
    key_server.publish(published(), published(OTHER, kid="two"))
    ambiguous = await service.put([], headers=bearer(headers={}, n=1))

    assert (only.status, ambiguous.status) == (207, 401)


@pytest.mark.parametrize("kid", ["", "../one", "one\n", "x" * 4_000, "' or 1=1 --", "\ud800"])
async def test_a_hostile_key_id_is_401(service: ServiceUnderTest, kid: str) -> None:
    assert (await service.put([], headers=bearer(headers={"kid": kid}))).status == 401


async def test_a_caller_without_api_key_causes_no_fetch(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    answer = await service.put([], headers={**bearer(), "x-api-key": "wrong"})

    assert answer.status == 401
    assert key_server.fetches == 0


async def test_an_algorithm_that_the_key_does_not_name_may_be_one_that_is_configured(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    key_server.publish(published(alg=None))
    signed = jwt.encode({"sub": "x", "exp": 2**33}, SIGNER, "RS512", headers={"kid": "one"})

    answer = await service.put([], headers={"Authorization": f"Bearer {signed}"})

    assert answer.status == 207
