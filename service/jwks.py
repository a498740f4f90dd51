"""Verification keys from a JWKS URL (RFC 7517): cached, rotated without a restart."""

import asyncio
import logging
import time
from typing import Any

import aiohttp
import jwt

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 300
"""Age at which the keys are fetched again."""

UNKNOWN_KEY_SECONDS = 10
"""Least time between two fetches for the sake of tokens that name an unknown key."""

FETCH_SECONDS = 5
DOCUMENT_BYTES = 1_000_000


class KeySetUnavailable(Exception):
    """No keys have been fetched yet, and the key server does not answer."""


class KeySet:
    """The keys behind a JWKS URL.

    An outage of the key server is tolerated as long as the keys fetched last know the
    token's ``kid``.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str | None, Any] = {}
        self._fetched_at: float | None = None
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def key(self, key_id: object) -> Any:
        """Return the key of this id, the only key where the token names none.

        Raises jwt.InvalidKeyError for an unknown one, KeySetUnavailable without any keys.
        """
        if key_id is not None and not isinstance(key_id, str):
            raise jwt.InvalidKeyError("kid is not a string")
        if self._is_due(key_id):
            async with self._lock:
                if self._is_due(key_id):
                    await self._fetch()
        if self._fetched_at is None:
            raise KeySetUnavailable
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if key_id not in self._keys:
            raise jwt.InvalidKeyError("unknown kid")
        return self._keys[key_id]

    def _is_due(self, key_id: str | None) -> bool:
        now = time.monotonic()
        if now - self._tried_at < UNKNOWN_KEY_SECONDS:
            return False
        is_unknown = key_id is not None and key_id not in self._keys
        return self._fetched_at is None or is_unknown or now - self._fetched_at > REFRESH_SECONDS

    async def _fetch(self) -> None:
        self._tried_at = time.monotonic()
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS)
            )
        try:
            async with self._session.get(self._url, raise_for_status=True) as response:
                document = await response.content.read(DOCUMENT_BYTES)
            keys = jwt.PyJWKSet.from_json(document.decode()).keys
        except (aiohttp.ClientError, TimeoutError, ValueError, jwt.PyJWTError) as error:
            logger.warning("signing keys not fetched", extra={"cause": type(error).__name__})
            return
        self._keys = {key.key_id: key for key in keys if key.public_key_use in (None, "sig")}
        self._fetched_at = time.monotonic()

    async def close(self) -> None:
        """Close the connection to the key server."""
        if self._session is not None:
            await self._session.close()
