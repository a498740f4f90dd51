"""Verification keys from a JWKS URL (RFC 7517): cached, rotated without a restart."""

import asyncio
import logging
import time
from typing import Any, NamedTuple

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


class _Key(NamedTuple):
    """A key that can verify signatures, and what the key set tells of it."""

    id: str | None
    algorithm: str | None
    type: str | None
    key: Any

    def verifies(self, algorithm: str) -> bool:
        """Tell whether it may be meant for this algorithm; it need not name one."""
        if self.algorithm is not None:
            return self.algorithm == algorithm
        return self.type == _TYPES.get(algorithm[:2])


_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


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
        self._keys: list[_Key] = []
        self._fetched_at: float | None = None
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def key(self, key_id: object, algorithm: object) -> Any:
        """Return the key of this id for this algorithm, the only one where the token names no id.

        Raises jwt.InvalidKeyError for an unknown one, KeySetUnavailable without any keys.
        """
        if not isinstance(key_id, str | None) or not isinstance(algorithm, str):
            raise jwt.InvalidKeyError("kid or alg is not a string")
        # While the keys are fetched again, those who can do without go on with the old ones.
        is_waiting = not self._found(key_id, algorithm) or not self._lock.locked()
        if is_waiting and self._is_due(key_id, algorithm):
            async with self._lock:
                if self._is_due(key_id, algorithm):
                    await self._fetch()
        if self._fetched_at is None:
            raise KeySetUnavailable
        found = self._found(key_id, algorithm)
        if not found:
            raise jwt.InvalidKeyError("unknown kid")
        if key_id is None and len(found) > 1:
            raise jwt.InvalidKeyError("no kid, and several keys")
        return found[-1].key

    async def fetch_first(self) -> None:
        """Fetch the keys before anybody asks for one, again and again until there are some."""
        while self._fetched_at is None:
            async with self._lock:
                if self._fetched_at is None:
                    await self._fetch()
            await asyncio.sleep(self._tuning.key_set_first_seconds)

    def _found(self, key_id: str | None, algorithm: str) -> list[_Key]:
        return [
            key
            for key in self._keys
            if (key_id is None or key.id == key_id) and key.verifies(algorithm)
        ]

    def _is_due(self, key_id: str | None, algorithm: str) -> bool:
        since = time.monotonic() - self._tried_at
        if self._fetched_at is None:
            return since >= self._tuning.key_set_first_seconds
        if since < self._tuning.key_set_retry_seconds:
            return False
        is_unknown = key_id is not None and not self._found(key_id, algorithm)
        age = time.monotonic() - self._fetched_at
        return is_unknown or age > self._tuning.key_set_refresh_seconds

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


def _usable_keys(document: bytes) -> list[_Key]:
    """Return the keys that can verify a signature. Raises ValueError if there is none."""
    keys: list[_Key] = []
    for entry in msgspec.json.decode(document, type=_Document).keys:
        try:
            key = jwt.PyJWK(entry)
        # One key that is of no use to us, or to nobody, does not spoil the others.
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError, RuntimeError):
            continue
        if key.public_key_use in (None, "sig"):
            # PyJWK guesses an algorithm where the key names none; the token's, which has to
            # be a configured one, counts then.
            is_named = "alg" in entry
            algorithm = key.algorithm_name if is_named else None
            keys.append(_Key(key.key_id, algorithm, key.key_type, key if is_named else key.key))
    if not keys:
        raise ValueError("no usable key")
    return keys
