"""Batches as the engine is handed them."""

import uuid
from collections.abc import Awaitable, Callable

from service.engine.rows import Batch, Mode, Whole


async def no_named_keys() -> Whole:
    return Whole((), uuid.uuid4())


def make_batch(
    look_whole: Callable[[], Awaitable[Whole]] = no_named_keys,
    *,
    is_gone: Callable[[], bool] = bool,
    mode: Mode = Mode.UPSERT,
) -> Batch:
    """Return a batch of a caller of its own."""
    return Batch(
        database="acme",
        caller="loader",
        user="tester",
        activity_id="an activity",
        key="a key",
        request_id=uuid.uuid4(),
        look_whole=look_whole,
        is_gone=is_gone,
        mode=mode,
    )
