"""``Idempotency-Key``: a request that may be sent again (contract section 1, "Sending again").

The header is that of draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
import hashlib
import re
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from blake3 import blake3

from service.engine.requests import AnotherBody, Requests, StillRunning
from service.engine.retrying import TimedOut, Unavailable, Unserved
from service.http.envelope import Problem
from service.wire import IDEMPOTENCY_HEADER

_KEY = re.compile(r"[!-~]{1,255}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')

RETRY_AFTER = {str(hdrs.RETRY_AFTER): "2"}

DIGEST_AT_ONCE = 1_000_000
"""Bytes that are hashed without leaving the event loop."""


def idempotency_key(request: web.Request) -> str | None:
    """Return the key that the client chose, without its quotes; None where it chose none.

    Raises Problem 400.
    """
    values = request.headers.getall(IDEMPOTENCY_HEADER, [])
    if not values:
        return None
    key = values[0].strip()
    if quoted := _QUOTED.fullmatch(key):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    if len(values) > 1 or not _KEY.fullmatch(key):
        reason = f"Expected one {IDEMPOTENCY_HEADER} of 1 to 255 visible ASCII characters."
        raise Problem(400, reason, reason="idempotency_key")
    return key


def request_id(caller: str, database: str, key: str) -> UUID:
    """Return the name of a request: of the API key's name, the database and the key."""
    name = msgspec.json.encode([caller, database, key])
    return UUID(bytes=hashlib.sha256(name).digest()[:16])


async def claim(
    requests: Requests, name: UUID, activity_id: str, digest: UUID | None, patience: float
) -> None:
    """Begin to work on a request when nobody else does; with a digest it came under a key.

    Raises Problem 409 while it is still at work elsewhere, 422 for another body, and 503.
    """
    try:
        await requests.begin(name, activity_id, digest=digest, patience=patience)
    except StillRunning:
        raise Problem(
            409, "A request with the same key is still at work.", RETRY_AFTER, reason="at_work"
        ) from None
    except AnotherBody:
        reason = f"The same {IDEMPOTENCY_HEADER} came before with another body."
        raise Problem(422, reason, reason="another_body") from None
    except (Unserved, Unavailable, TimedOut) as error:
        raise unserved(error, activity_id, "batch") from None


def unserved(error: Unserved | Unavailable | TimedOut, activity_id: str, what: str) -> Problem:
    """Return what it means for a caller that the database did not serve ``what`` they sent."""
    if isinstance(error, Unserved):
        return Problem(500, f"Internal error, activityID {activity_id}.", reason="internal")
    words = str(error) or "The database did not answer in time"
    return Problem(503, f"{words}; send the {what} again.", RETRY_AFTER, reason="database_away")


async def digest_of(body: bytearray) -> UUID:
    """Return what tells one body from another.

    By BLAKE3, since SHA-256 was the largest part of what a record of key 0 costs the service.
    """
    if len(body) <= DIGEST_AT_ONCE:
        return _digest(body)
    return await asyncio.to_thread(_digest, body)


def _digest(body: bytearray) -> UUID:
    return UUID(bytes=blake3(body).digest(16))
