"""Batches as the engine is handed them."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from service.engine.rows import Batch, Mode, Whole


async def whole(named_keys: Sequence[int] = (), digest: UUID | None = None) -> Whole:
    """Return what is known of a batch as a whole."""
    return Whole(named_keys, digest or uuid.uuid4())


def make_batch(
    look_whole: Callable[[], Awaitable[Whole]] = whole,
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
        look_whole=look_whole,
        is_gone=is_gone,
        mode=mode,
    )
