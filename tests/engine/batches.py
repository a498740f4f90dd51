"""Batches as the engine is handed them."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from service.engine.rows import Batch, BatchKeys, Mode


async def whole(named_keys: Sequence[int] = (), digest: UUID | None = None) -> BatchKeys:
    """Return what is known of a batch as a whole."""
    return BatchKeys(named_keys, digest or uuid.uuid4())


def make_batch(
    read_keys_and_digest: Callable[[], Awaitable[BatchKeys]] = whole,
    *,
    is_gone: Callable[[], bool] = bool,
    mode: Mode = Mode.UPSERT,
    key: str = "",
) -> Batch:
    """Return a batch of a caller of its own."""
    return Batch(
        database="acme",
        caller="loader",
        user="tester",
        activity_id="an activity",
        key=key or str(uuid.uuid4()),
        read_keys_and_digest=read_keys_and_digest,
        is_gone=is_gone,
        mode=mode,
    )
