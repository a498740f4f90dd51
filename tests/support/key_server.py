"""A server of public keys for tokens (JWKS), as slow, broken or silent as a test wants it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import rsa

ALGORITHM = jwt.get_algorithm_by_name("RS256")
FUTURE = 2**33
"""A time that does not come while the tests run."""


@dataclass
class KeyServer:
    """Serves bytes, in one piece or several, and tells how often it was asked."""

    pieces: list[bytes] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Answers wait until it is set."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    is_down: bool = False
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    fetches: int = 0
    url: str = ""

    def publish(self, *keys: dict[str, Any]) -> None:
        """Answer with these keys from now on."""
        self.pieces = [json.dumps({"keys": keys}).encode()]

    async def is_read(self) -> None:
        """Wait until a response of now has been read: fetches do not overlap."""
        seen = self.fetches
        async with asyncio.timeout(5):
            while self.fetches < seen + 2:
                await asyncio.sleep(0.01)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a fetch."""
        self.fetches += 1
        self.asked.set()
        await self.gate.wait()
        if self.is_down:
            raise web.HTTPServiceUnavailable
        response = web.StreamResponse(status=self.status, headers=self.headers)
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
            await asyncio.sleep(0.05 * (len(self.pieces) > 1))
        return response


@asynccontextmanager
async def serving_keys(keys: KeyServer) -> AsyncIterator[KeyServer]:
    """Let it answer at its URL meanwhile."""
    keys.gate.set()
    app = web.Application()
    app.router.add_get("/jwks", keys.answer)
    async with TestServer(app) as server:
        keys.url = str(server.make_url("/jwks"))
        yield keys
        keys.gate.set()


def published(key: rsa.RSAPrivateKey, **members: Any) -> dict[str, Any]:
    """Return a key of a key set; members override, or as None remove, the usual ones."""
    usual = {**json.loads(ALGORITHM.to_jwk(key.public_key())), "kid": "one", "use": "sig"}
    return {name: value for name, value in {**usual, **members}.items() if value is not None}


def bearer(
    key: rsa.RSAPrivateKey, headers: dict[str, Any] | None = None, **claims: Any
) -> dict[str, str]:
    """Return a header with a token signed by a key; it names the key "one" unless told."""
    payload = {"sub": "x", "exp": FUTURE, **claims}
    kid = {"kid": "one"} if headers is None else headers
    return {"Authorization": f"Bearer {jwt.encode(payload, key, 'RS256', headers=kid)}"}
