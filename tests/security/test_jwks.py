"""Signing keys from a URL: cached, rotated and withdrawn; outages and nonsense of their server."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service.config import Tuning
from service.http.jwks import KeySet
from tests.support.key_server import FUTURE, KeyServer, bearer, published, serving_keys
from tests.support.running import MakeService
from tests.support.service import ServiceUnderTest

SIGNER = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
OFTEN = Tuning(key_set_first_seconds=0.05, key_set_retry_seconds=0.05, key_set_refresh_seconds=0.05)
"""The keys are refreshed all the time."""


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    """A key server with the key "one" that answers at once."""
    async with serving_keys(KeyServer()) as keys:
        keys.publish(published(SIGNER))
        yield keys


async def trusting(
    make_service: MakeService,
    key_server: KeyServer,
    tuning: Tuning | None = None,
    stale_seconds: int = 3600,
) -> ServiceUnderTest:
    """Return a service that verifies tokens with these keys; it needs no database."""
    return await make_service(
        {"acme": "postgresql://127.0.0.1:1/acme"},
        jwt={
            "algorithms": ["RS256", "RS512"],
            "jwks_url": key_server.url,
            "jwks_stale_seconds": stale_seconds,
        },
        tuning=tuning,
    )


@pytest.fixture
async def service(make_service: MakeService, key_server: KeyServer) -> ServiceUnderTest:
    """Such a service, with the times of one that serves."""
    return await trusting(make_service, key_server)


async def test_keys_are_fetched_once_and_tokens_of_others_refused(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    statuses = [(await service.put([], headers=bearer(SIGNER, n=n))).status for n in range(5)]
    confused = await service.put([], headers=bearer(OTHER))
    symmetric = await service.put([])

    assert statuses == [207] * 5
    assert (confused.status, symmetric.status) == (401, 401)
    assert key_server.fetches == 1


async def test_a_new_key_is_found_without_a_restart_and_unknown_ones_cause_no_flood(
    make_service: MakeService, key_server: KeyServer
) -> None:
    service = await trusting(make_service, key_server, Tuning(key_set_retry_seconds=2))
    assert (await service.put([], headers=bearer(SIGNER))).status == 207
    key_server.publish(published(SIGNER), published(OTHER, kid="two"))

    early = await service.put([], headers=bearer(OTHER, {"kid": "two"}))
    for n in range(20):
        unknown = await service.put([], headers=bearer(OTHER, {"kid": f"unpublished {n}"}))
        assert unknown.status == 401
    fetches = key_server.fetches
    await asyncio.sleep(2)
    later = await service.put([], headers=bearer(OTHER, {"kid": "two"}))

    assert (early.status, later.status) == (401, 207)
    assert fetches == 1


async def test_keys_that_are_too_old_verify_nothing_until_the_key_server_responds_again(
    make_service: MakeService, key_server: KeyServer
) -> None:
    service = await trusting(make_service, key_server, OFTEN, stale_seconds=1)
    seen, unseen = bearer(SIGNER), bearer(SIGNER, n=1)

    async def statuses(*tokens: dict[str, str]) -> list[int]:
        return [(await service.put([], headers=token)).status for token in tokens]

    before = await statuses(seen)
    key_server.is_down = True
    during = await statuses(seen, bearer(SIGNER, n=2))
    await asyncio.sleep(1.2)
    after = await statuses(seen, unseen, bearer(SIGNER, {"kid": "two"}))
    key_server.is_down = False
    await key_server.is_read()
    again = await statuses(seen, unseen)

    assert (before, during, after, again) == ([207], [207] * 2, [503] * 3, [207] * 2)


@pytest.mark.parametrize(
    ("tuning", "stale_seconds"),
    [
        pytest.param(OFTEN, 3600, id="refreshed often"),
        pytest.param(Tuning(key_set_retry_seconds=0.05), 2, id="refreshed before they are stale"),
    ],
)
async def test_a_request_whose_key_is_known_waits_for_no_fetch(
    make_service: MakeService, key_server: KeyServer, tuning: Tuning, stale_seconds: int
) -> None:
    service = await trusting(make_service, key_server, tuning, stale_seconds)
    before = await service.put([], headers=bearer(SIGNER))
    key_server.gate.clear()
    key_server.asked.clear()

    async with asyncio.timeout(5):
        await key_server.asked.wait()
    async with asyncio.timeout(0.8):
        during = await service.put([], headers=bearer(SIGNER, n=1))

    assert (before.status, during.status) == (207, 207)


async def test_a_key_server_that_is_slow_holds_up_nobody_else(
    make_service: MakeService, key_server: KeyServer
) -> None:
    key_server.gate.clear()
    service = await trusting(make_service, key_server)
    waiting = asyncio.create_task(service.put([], headers=bearer(SIGNER)))
    await key_server.asked.wait()

    assert await asyncio.wait_for(service.is_alive(), 5)
    assert not waiting.done()
    key_server.gate.set()
    assert (await waiting).status == 207


async def test_a_key_set_that_comes_in_pieces_is_read_to_its_end(
    make_service: MakeService, key_server: KeyServer
) -> None:
    (whole,) = key_server.pieces
    key_server.pieces = [whole[:100], whole[100:]]
    service = await trusting(make_service, key_server)

    assert (await service.put([], headers=bearer(SIGNER))).status == 207


async def test_requests_that_come_during_the_first_fetch_wait_for_it(
    make_service: MakeService, key_server: KeyServer
) -> None:
    key_server.gate.clear()
    service = await trusting(make_service, key_server)

    waiting = [asyncio.create_task(service.put([], headers=bearer(SIGNER, n=n))) for n in range(5)]
    await key_server.asked.wait()
    await asyncio.sleep(0.2)
    key_server.gate.set()

    assert [(await task).status for task in waiting] == [207] * 5
    assert key_server.fetches == 1


async def test_requests_that_come_while_a_new_key_is_fetched_wait_for_it(
    make_service: MakeService, key_server: KeyServer
) -> None:
    service = await trusting(make_service, key_server, Tuning(key_set_retry_seconds=0.3))
    await service.put([], headers=bearer(SIGNER))
    await asyncio.sleep(0.3)
    key_server.publish(published(SIGNER), published(OTHER, kid="two"))
    key_server.gate.clear()
    key_server.asked.clear()

    new = bearer(OTHER, {"kid": "two"})
    waiting = [asyncio.create_task(service.put([], headers=new)) for _ in range(3)]
    await key_server.asked.wait()
    await asyncio.sleep(0.1)
    old = await asyncio.wait_for(service.put([], headers=bearer(SIGNER, n=1)), 5)
    key_server.gate.set()

    assert old.status == 207
    assert [(await task).status for task in waiting] == [207] * 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, None) for status in (201, 203, 206, 301, 302, 303, 307, 308, 404, 500)),
        (204, b""),
        (200, b""),
        (200, b"<html>sign in to the hotel's network</html>"),
        (200, b"[]"),
        (200, b"null"),
        (200, b'"keys"'),
        (200, b"{}"),
        (200, b'{"keys":null}'),
        (200, b'{"keys":{"one":{}}}'),
        (200, b'{"keys":[]'),
        (200, b"[" * 100_000),
        (200, b"\xff\xfe"),
        (200, b'{"keys":[' + b" " * 2_000_000 + b"]}"),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_an_answer_that_is_no_key_set_neither_brings_keys_nor_takes_any(
    make_service: MakeService, key_server: KeyServer, status: int, body: bytes | None
) -> None:
    async with serving_keys(KeyServer(pieces=key_server.pieces)) as elsewhere:

        def spoil() -> None:
            key_server.status, key_server.headers = status, {"Location": elsewhere.url}
            key_server.pieces = elsewhere.pieces if body is None else [body]

        spoil()
        service = await trusting(make_service, key_server, OFTEN)
        before = await service.put([], headers=bearer(SIGNER))
        key_server.status = 200
        key_server.publish(published(SIGNER))
        await key_server.is_read()
        between = await service.put([], headers=bearer(SIGNER))
        spoil()
        await key_server.is_read()
        after = await service.put([], headers=bearer(SIGNER, n=1))

    assert (before.status, between.status, after.status) == (503, 207, 207)
    assert before.headers["Retry-After"]
    assert elsewhere.fetches == 0


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([], id="empty"),
        pytest.param([1, None, {}], id="no keys"),
        pytest.param([{"kty": ["RSA"]}], id="type is no string"),
        pytest.param([published(SIGNER, n=1)], id="number is no string"),
        pytest.param([published(SIGNER, alg=["RS256"])], id="algorithm is no string"),
        pytest.param([published(SIGNER, alg="none")], id="unsigned"),
        pytest.param([published(SIGNER, use="enc")], id="for encryption"),
        pytest.param([published(OTHER, kid="two")], id="another key"),
        pytest.param([published(OTHER)], id="another key with its id"),
    ],
)
async def test_a_key_set_without_the_key_withdraws_it(
    make_service: MakeService, key_server: KeyServer, entries: list[Any]
) -> None:
    service = await trusting(make_service, key_server, OFTEN)
    tokens = [bearer(SIGNER), bearer(SIGNER, n=1), bearer(SIGNER, headers={})]

    before = await service.put([], headers=tokens[0])
    key_server.publish(*entries)
    await key_server.is_read()
    withdrawn = [(await service.put([], headers=token)).status for token in tokens]
    key_server.publish(published(SIGNER))
    await key_server.is_read()
    again = [(await service.put([], headers=token)).status for token in tokens]

    assert (before.status, withdrawn, again) == (207, [401] * 3, [207] * 3)


@pytest.mark.parametrize("headers", [{"kid": "one"}, {}], ids=["by its id", "as the only one"])
async def test_a_key_that_follows_an_empty_key_set_is_found(
    make_service: MakeService, key_server: KeyServer, headers: dict[str, str]
) -> None:
    key_server.publish()
    service = await trusting(make_service, key_server, Tuning(key_set_retry_seconds=0.1))

    before = await service.put([], headers=bearer(SIGNER, headers))
    key_server.publish(published(SIGNER))
    await asyncio.sleep(0.2)
    after = await service.put([], headers=bearer(SIGNER, headers))

    assert (before.status, after.status) == (401, 207)


async def test_a_key_set_that_is_closed_is_no_longer_fetched(key_server: KeyServer) -> None:
    keys = KeySet(key_server.url, 3600, OFTEN)
    keys.start()
    await key_server.is_read()

    await keys.close()
    fetches = key_server.fetches
    await asyncio.sleep(0.3)

    assert key_server.fetches == fetches > 0


async def test_one_key_that_cannot_be_used_does_not_spoil_the_others(
    make_service: MakeService, key_server: KeyServer
) -> None:
    key_server.publish(
        {"kty": "RSA", "kid": "broken"},
        {"kty": "post-quantum", "kid": "new"},
        published(OTHER, kid="unsigned", alg="none"),
        published(SIGNER),
    )
    service = await trusting(make_service, key_server)

    assert (await service.put([], headers=bearer(SIGNER))).status == 207


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(published(SIGNER, use="enc"), id="for encryption"),
        pytest.param(published(SIGNER, kid="other"), id="of another id"),
        pytest.param(published(OTHER), id="of another pair"),
        pytest.param({"kty": "oct", "kid": "one", "k": "c2VjcmV0"}, id="symmetric"),
        pytest.param(published(SIGNER, kid=None), id="without an id"),
    ],
)
async def test_a_key_that_is_not_the_tokens_own_verifies_nothing(
    make_service: MakeService, key_server: KeyServer, key: dict[str, Any]
) -> None:
    key_server.publish(key, published(OTHER, kid="third"))
    service = await trusting(make_service, key_server)

    assert (await service.put([], headers=bearer(SIGNER))).status == 401


async def test_a_secret_in_a_key_set_signs_no_token(
    make_service: MakeService, key_server: KeyServer
) -> None:
    secret = {"kty": "oct", "kid": "one", "k": "c2VjcmV0" * 8}
    key_server.publish(secret, published(SIGNER, kid="two"))
    service = await trusting(make_service, key_server)
    payload = {"sub": "x", "exp": FUTURE}
    forged = jwt.encode(payload, b"secret" * 8, "HS256", headers={"kid": "one"})

    answer = await service.put([], headers={"Authorization": f"Bearer {forged}"})

    assert answer.status == 401


async def test_a_token_without_key_id_is_verified_only_where_there_is_one_key(
    make_service: MakeService, key_server: KeyServer
) -> None:
    service = await trusting(make_service, key_server, OFTEN)
    only = await service.put([], headers=bearer(SIGNER, headers={}))
    key_server.publish(published(SIGNER), published(OTHER, kid="two"))
    await key_server.is_read()
    ambiguous = await service.put([], headers=bearer(SIGNER, headers={}, n=1))

    assert (only.status, ambiguous.status) == (207, 401)


@pytest.mark.parametrize("kid", ["", "../one", "one\n", "x" * 4_000, "' or 1=1 --", "\ud800"])
async def test_a_hostile_key_id_is_401(service: ServiceUnderTest, kid: str) -> None:
    assert (await service.put([], headers=bearer(SIGNER, headers={"kid": kid}))).status == 401


async def test_a_caller_without_api_key_causes_no_fetch(
    make_service: MakeService, key_server: KeyServer
) -> None:
    service = await trusting(make_service, key_server, Tuning(key_set_retry_seconds=0))
    await service.put([], headers=bearer(SIGNER))
    key_server.publish(published(SIGNER), published(OTHER, kid="two"))
    await asyncio.sleep(0.1)

    unknown = {**bearer(OTHER, {"kid": "two"}), "x-api-key": "wrong"}
    answer = await service.put([], headers=unknown)

    assert answer.status == 401
    assert key_server.fetches == 1


async def test_an_algorithm_that_the_key_does_not_name_may_be_one_that_is_configured(
    make_service: MakeService, key_server: KeyServer
) -> None:
    key_server.publish(published(SIGNER, alg=None))
    service = await trusting(make_service, key_server)
    signed = jwt.encode({"sub": "x", "exp": FUTURE}, SIGNER, "RS512", headers={"kid": "one"})

    answer = await service.put([], headers={"Authorization": f"Bearer {signed}"})

    assert answer.status == 207


async def test_the_keys_are_there_before_anybody_asks(
    service: ServiceUnderTest, key_server: KeyServer
) -> None:
    async with asyncio.timeout(5):
        await key_server.asked.wait()
    await asyncio.sleep(0.2)
    key_server.is_down = True

    assert (await service.put([], headers=bearer(SIGNER))).status == 207
    assert key_server.fetches == 1


async def test_a_key_server_that_comes_up_late_is_found_soon(
    make_service: MakeService, key_server: KeyServer
) -> None:
    key_server.is_down = True
    service = await trusting(make_service, key_server)
    assert (await service.put([], headers=bearer(SIGNER))).status == 503
    key_server.is_down = False

    await asyncio.sleep(1.5)

    assert (await service.put([], headers=bearer(SIGNER))).status == 207


async def test_one_id_may_be_that_of_keys_for_several_algorithms(
    make_service: MakeService, key_server: KeyServer
) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    point = {**json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(curve.public_key()))}
    key_server.publish(
        published(SIGNER, alg="RS256"), published(OTHER, alg="RS512"), {**point, "kid": "one"}
    )
    service = await make_service(
        {"acme": "postgresql://127.0.0.1:1/acme"},
        jwt={"algorithms": ["RS256", "RS512", "ES256"], "jwks_url": key_server.url},
    )

    def signed(key: Any, algorithm: str) -> dict[str, str]:
        payload = {"sub": "x", "exp": FUTURE}
        token = jwt.encode(payload, key, algorithm, headers={"kid": "one"})
        return {"Authorization": f"Bearer {token}"}

    right = [(SIGNER, "RS256"), (OTHER, "RS512"), (curve, "ES256")]
    wrong = [(OTHER, "RS256"), (SIGNER, "RS512")]
    answers = [await service.put([], headers=signed(*pair)) for pair in right + wrong]

    assert [answer.status for answer in answers] == [207, 207, 207, 401, 401]
