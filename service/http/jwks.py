"""Signing keys from a JWKS URL (RFC 7517), cached and refreshed in the background."""

import asyncio
import logging
import time
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp
import jwt
import msgspec

from service.config import Tuning
from service.telemetry import metrics

logger = logging.getLogger(__name__)

FETCH_SECONDS = 5
MAX_DOCUMENT_BYTES = 1_000_000


class KeySetUnavailable(Exception):
    """The key server returns no key set, and no keys are young enough to be used."""


class KeyNotFound(jwt.InvalidKeyError):
    """No key can verify the token; the message contains nothing from the token."""


class _Key(NamedTuple):
    """A key that can verify signatures, with its members of the key set."""

    id: str | None
    algorithm: str | None
    type: str | None
    key: Any

    def verifies(self, algorithm: str) -> bool:
        """Return whether the key is for this algorithm; a key without ``alg`` matches by type."""
        if self.algorithm is not None:
            return self.algorithm == algorithm
        return self.type == _TYPES.get(algorithm[:2])


_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


class _Document(msgspec.Struct):
    keys: list[Any]


class KeySet:
    """Keys behind a JWKS URL.

    Each fetched key set replaces the previous one, even if it has no usable key. While fetches
    fail, the last keys stay in use until they are ``stale_seconds`` old.
    """

    def __init__(self, url: str, stale_seconds: float, tuning: Tuning) -> None:
        self.stale_seconds = stale_seconds
        self._url = url
        self._tuning = tuning
        self._keys: list[_Key] = []
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the background refresh, unless it is running."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())

    async def close(self) -> None:
        """Stop the background refresh."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    async def find(self, key_id: object, algorithm: object) -> Any:
        """Return the key with this ID for this algorithm; without an ID, the only matching key.

        Waits for a fetch only if no key matches. Raises KeyNotFound and KeySetUnavailable.
        """
        if not isinstance(key_id, str | None) or not isinstance(algorithm, str):
            raise KeyNotFound("kid or alg is not a string")
        if not self._get_matching(key_id, algorithm):
            async with self._lock:
                since = time.monotonic() - self._tried_at
                # Another request or the refresh can have fetched the key in the meantime.
                if since >= self._get_retry_seconds() and not self._get_matching(key_id, algorithm):
                    await self._fetch()
        keys = self._get_matching(key_id, algorithm)
        if not keys and self._is_stale():
            raise KeySetUnavailable
        if not keys:
            raise KeyNotFound("unknown key ID" if key_id is not None else "no matching key")
        if key_id is None and len(keys) > 1:
            raise KeyNotFound("no key ID, and several keys match")
        return keys[-1].key

    def has(self, key: Any) -> bool:
        """Return whether a key that find() returned is still in use."""
        return not self._is_stale() and any(key is current.key for current in self._keys)

    def _get_matching(self, key_id: str | None, algorithm: str) -> list[_Key]:
        if self._is_stale():
            return []
        return [
            key
            for key in self._keys
            if (key_id is None or key.id == key_id) and key.verifies(algorithm)
        ]

    def _get_age(self) -> float:
        return time.monotonic() - self._fetched_at

    def _is_stale(self) -> bool:
        return self._get_age() > self.stale_seconds

    def _get_retry_seconds(self) -> float:
        tuning = self._tuning
        return tuning.key_set_first_seconds if self._is_stale() else tuning.key_set_retry_seconds

    async def _refresh(self) -> None:
        while True:
            # At the latest at half the maximum age, so that requests do not find stale keys.
            if self._get_age() >= min(self._tuning.key_set_refresh_seconds, self.stale_seconds / 2):
                async with self._lock:
                    await self._fetch()
            await asyncio.sleep(self._get_retry_seconds())

    async def _fetch(self) -> None:
        try:
            self._keys = await fetch(self._url)
            self._fetched_at = time.monotonic()
            metrics.KEY_SET_FETCHED.set_to_current_time()
        except KeySetUnavailable as error:
            logger.warning("JWKS fetch failed", extra={"cause": str(error)})
            metrics.KEY_SET_FAILURES.inc()
        finally:
            self._tried_at = time.monotonic()


async def fetch(url: str) -> list[_Key]:
    """Return the usable keys of the key set at this URL. Redirects are not followed.

    Raises KeySetUnavailable, which names the cause, if the response is not a key set.
    """
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != HTTPStatus.OK:
                raise KeySetUnavailable(f"status {response.status}")
            return _parse_keys(await _read(response.content))
    except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
        raise KeySetUnavailable(type(error).__name__) from None


async def _read(content: aiohttp.StreamReader) -> bytes:
    document = b""
    async for chunk in content.iter_any():
        document += chunk
        if len(document) > MAX_DOCUMENT_BYTES:
            raise ValueError("key set too large")
    return document


def _parse_keys(document: bytes) -> list[_Key]:
    """Return the keys that can verify a signature. Raises ValueError if it is not a key set."""
    keys: list[_Key] = []
    for entry in msgspec.json.decode(document, type=_Document).keys:
        try:
            key = jwt.PyJWK(entry)
        # An invalid or unsupported key does not affect the others.
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError, RuntimeError):
            continue
        if key.public_key_use in (None, "sig") and key.key_type in _TYPES.values():
            # PyJWK guesses the algorithm of a key without "alg"; the token's, which must be
            # configured, is used instead.
            is_named = "alg" in entry
            algorithm = key.algorithm_name if is_named else None
            keys.append(_Key(key.key_id, algorithm, key.key_type, key if is_named else key.key))
    return keys
