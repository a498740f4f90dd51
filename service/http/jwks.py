"""Verification keys from a JWKS URL (RFC 7517): cached, rotated without a restart."""

import asyncio
import logging
import time
from typing import Any

import aiohttp
import jwt
import msgspec

from service.config import Tuning
from service.telemetry import metrics

logger = logging.getLogger(__name__)

FETCH_SECONDS = 5
DOCUMENT_BYTES = 1_000_000


class KeySetUnavailable(Exception):
    """No keys have been fetched yet, and the key server does not answer."""


class _Document(msgspec.Struct):
    keys: list[Any]


class KeySet:
    """The keys behind a JWKS URL.

    An outage of the key server is tolerated as long as the keys fetched last know the
    token's ``kid``.
    """

    def __init__(self, url: str, tuning: Tuning) -> None:
        self._url = url
        self._tuning = tuning
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
        # While the keys are fetched again, those who can do without go on with the old ones.
        is_waiting = key_id not in self._keys or not self._lock.locked()
        if is_waiting and self._is_due(key_id):
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
        if now - self._tried_at < self._tuning.key_set_retry_seconds:
            return False
        is_unknown = key_id is not None and key_id not in self._keys
        if self._fetched_at is None or is_unknown:
            return True
        return now - self._fetched_at > self._tuning.key_set_refresh_seconds

    async def _fetch(self) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS)
            )
        try:
            async with self._session.get(self._url, raise_for_status=True) as response:
                self._keys = _usable_keys(await _read(response.content))
            self._fetched_at = time.monotonic()
            metrics.KEY_SET_FETCHED.set_to_current_time()
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
            logger.warning("signing keys not fetched", extra={"cause": type(error).__name__})
            metrics.KEY_SET_FAILURES.inc()
        finally:
            self._tried_at = time.monotonic()

    async def close(self) -> None:
        """Close the connection to the key server."""
        if self._session is not None:
            await self._session.close()


async def _read(content: aiohttp.StreamReader) -> bytes:
    document = b""
    async for piece in content.iter_any():
        document += piece
        if len(document) > DOCUMENT_BYTES:
            raise ValueError("key set too large")
    return document


def _usable_keys(document: bytes) -> dict[str | None, Any]:
    """Return the keys that can verify a signature, by id. Raises ValueError if there is none."""
    keys: dict[str | None, Any] = {}
    for entry in msgspec.json.decode(document, type=_Document).keys:
        try:
            key = jwt.PyJWK(entry)
        # One key that is of no use to us, or to nobody, does not spoil the others.
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError):
            continue
        if key.public_key_use in (None, "sig"):
            # PyJWK guesses an algorithm where the key names none; the token's, which has to
            # be a configured one, counts then.
            keys[key.key_id] = key if "alg" in entry else key.key
    if not keys:
        raise ValueError("no usable key")
    return keys
