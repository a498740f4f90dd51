"""``Idempotency-Key``: requests that are safe to retry (contract section 1, "Retries").

Source of the header: draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from aiohttp import hdrs, web
from blake3 import blake3

from service.engine.requests import AnotherBody, RequestRegistry, StillRunning
from service.engine.rows import Batch, BatchKeys, Mode
from service.engine.statement import OTHER_BODY
from service.http.access import Caller
from service.http.envelope import REQUEST_RECORD, Problem
from service.wire import IDEMPOTENCY_HEADER

_KEY = re.compile(r"[!-~]{1,255}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')

RETRY_AFTER = {str(hdrs.RETRY_AFTER): "2"}

MAX_INLINE_DIGEST_BYTES = 1_000_000
"""Maximum bytes that are hashed on the event loop; longer bodies go to a thread."""


def read_idempotency_key(request: web.Request) -> str | None:
    """Return the Idempotency-Key without quotes, None if the header is missing.

    Raises Problem 400 if it is repeated or malformed.
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


def make_batch(
    request: web.Request,
    caller: Caller,
    key: str | None,
    body: bytearray,
    mode: Mode,
    read_explicit_keys: Callable[[], Awaitable[Sequence[int]]] | None = None,
    *,
    has_more: bool = False,
    wait_seconds: float = 0,
) -> Batch:
    """Return a new batch. Without a ``key``, its Idempotency-Key is the activityID."""

    async def read_keys_and_digest() -> BatchKeys:
        digest = batch.digest or await _compute_digest(body)
        return BatchKeys(await read_explicit_keys() if read_explicit_keys else (), digest)

    record = request[REQUEST_RECORD]
    batch = Batch(
        database=record.database or "",
        caller=caller.name,
        user=caller.user,
        activity_id=record.activity_id,
        key=key or record.activity_id,
        read_keys_and_digest=read_keys_and_digest,
        mode=mode,
        is_gone=lambda: request.transport is None,
        has_more=has_more,
        wait_seconds=wait_seconds,
    )
    return batch


async def check_body(requests: RequestRegistry, batch: Batch, body: bytearray) -> None:
    """Check the body of a batch with an Idempotency-Key, and set the batch's digest.

    Raises Problem 409 if the same request stays in progress for too long and 422 if it created
    records with another body. Errors of run_system_statement() are passed on.
    """
    batch.digest = await _compute_digest(body)
    try:
        await requests.wait_for_others(batch)
        await requests.check_body(batch.request_id, batch.digest)
    except StillRunning:
        raise make_still_running_problem() from None
    except AnotherBody:
        raise Problem(422, OTHER_BODY, reason="body_mismatch") from None


def make_still_running_problem() -> Problem:
    """Return the problem of a request whose first attempt is still in progress."""
    detail = f"A request with the same {IDEMPOTENCY_HEADER} is still in progress."
    return Problem(409, detail, RETRY_AFTER, reason="in_progress")


async def _compute_digest(body: bytearray) -> UUID:
    """Return the digest that identifies a body.

    BLAKE3, because SHA-256 was the largest part of the service's work for a key-0 item.
    """
    if len(body) <= MAX_INLINE_DIGEST_BYTES:
        return _hash(body)
    return await asyncio.to_thread(_hash, body)


def _hash(body: bytearray) -> UUID:
    return UUID(bytes=blake3(body).digest(16))
