"""Verification keys from a URL: cached, rotated, an outage tolerated; issuer and audience."""

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

from tests.under_test import KEY, SECRET, ServiceUnderTest, token

MakeService = Callable[..., Any]


@dataclass
class KeyServer:
    """Serves public keys, and tells how often it was asked."""

    keys: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict)
    fetches: int = 0
    is_down: bool = False
    delay: float = 0
    url: str = ""

    def add(self, key_id: str) -> None:
        self.keys[key_id] = rsa.generate_private_key(65537, 2048)

    def headers(self, key_id: str, signed_by: str | None = None, **claims: Any) -> dict[str, str]:
        """Return a header with a token that names one key, signed by it or by another."""
        payload = {"sub": "x", "exp": 2**33, **claims}
        key = self.keys[signed_by or key_id]
        signed = jwt.encode(payload, key, algorithm="RS256", headers={"kid": key_id})
        return {"Authorization": f"Bearer {signed}"}

    async def answer(self, _request: web.Request) -> web.Response:
        self.fetches += 1
        await asyncio.sleep(self.delay)
        if self.is_down:
            raise web.HTTPServiceUnavailable
        algorithm = jwt.get_algorithm_by_name("RS256")
        documents = [
            {**json.loads(algorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig"}
            for key_id, key in self.keys.items()
        ]
        return web.json_response({"keys": documents})


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    """A key server with the key "one"."""
    keys = KeyServer()
    keys.add("one")
    app = web.Application()
    app.router.add_get("/jwks", keys.answer)
    async with TestServer(app) as server:
        keys.url = str(server.make_url("/jwks"))
        yield keys


@pytest.fixture
async def service(make_service: MakeService, key_server: KeyServer) -> ServiceUnderTest:
    made: ServiceUnderTest = await make_service(
        jwt={"algorithms": ["RS256"], "jwks_url": key_server.url}
    )
    return made


async def test_keys_are_fetched_once_and_tokens_of_others_refused(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    key_server.add("two")
    statuses = [
        (await service.put([], headers=key_server.headers("one", n=n))).status for n in range(5)
    ]

    assert statuses == [207] * 5
    assert key_server.fetches == 1
    confused = key_server.headers("one", signed_by="two")
    assert (await service.put([], headers=confused)).status == 401
    assert (await service.put([])).status == 401


async def test_a_new_key_is_found_without_a_restart_and_unknown_ones_cause_no_flood(
    service: ServiceUnderTest, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await service.put([], headers=key_server.headers("one"))).status == 207
    key_server.add("two")
    key_server.add("unpublished")
    unpublished = key_server.headers("unpublished")
    del key_server.keys["unpublished"]

    assert (await service.put([], headers=key_server.headers("two"))).status == 401
    for _ in range(20):
        assert (await service.put([], headers=unpublished)).status == 401
    assert key_server.fetches == 1
    monkeypatch.setattr("service.jwks.UNKNOWN_KEY_SECONDS", 0)
    assert (await service.put([], headers=key_server.headers("two"))).status == 207


async def test_an_outage_of_the_key_server_is_tolerated_once_keys_are_known(
    service: ServiceUnderTest, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jwks.UNKNOWN_KEY_SECONDS", 0)
    key_server.is_down = True
    before = await service.put([], headers=key_server.headers("one"))
    key_server.is_down = False
    after = await service.put([], headers=key_server.headers("one", n=1))
    key_server.is_down = True
    monkeypatch.setattr("service.jwks.REFRESH_SECONDS", 0)
    during = await service.put([], headers=key_server.headers("one", n=2))

    assert (before.status, after.status, during.status) == (503, 207, 207)
    assert before.headers["Retry-After"]


async def test_a_slow_key_server_does_not_hold_up_others(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    key_server.delay = 1
    waiting = asyncio.create_task(service.put([{KEY: 1}], headers=key_server.headers("one")))
    await asyncio.sleep(0.1)

    assert await asyncio.wait_for(service.is_alive(), 0.5)
    assert (await waiting).statuses == [201]


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
    rules = {"algorithms": ["HS256"], "secret": SECRET, "issuer": "us", "audience": "this"}
    service = await make_service(jwt=rules)

    answer = await service.put([], headers={"Authorization": f"Bearer {token(**claims)}"})

    assert answer.status == status


async def test_an_audience_in_the_token_is_no_obstacle_where_none_is_configured(
    make_service: MakeService,
) -> None:
    service = await make_service()

    answer = await service.put([], headers={"Authorization": f"Bearer {token(aud='any')}"})

    assert answer.status == 207
