"""The explicit keys of a batch, which are never assigned to its key-0 items."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from service.wire import INT32

WINDOW_KEYS = 512
"""Number of keys on each side of the last assigned one that are sent with a statement: all of
100,000 would cost it 0.2 s."""


class Window(NamedTuple):
    """The reserved keys between two bounds, inclusive; None: no bound on this side."""

    keys: list[int] | None
    first: int | None
    last: int | None


NO_WINDOW = Window(None, None, None)


class ReservedKeys:
    """The distinct explicit keys of a batch, sorted; 4 bytes each."""

    def __init__(self, keys: Iterable[int]) -> None:
        self._keys = array("i", sorted({key for key in keys if key in INT32}))

    def around(self, assigned: int) -> Window:
        """Return those that the next assigned keys can equal, if ``assigned`` was the last."""
        if len(self._keys) <= 2 * WINDOW_KEYS:
            return Window(self._keys.tolist() or None, None, None)
        middle = bisect_left(self._keys, assigned)
        first = max(0, middle - WINDOW_KEYS)
        last = min(len(self._keys), middle + WINDOW_KEYS)
        return Window(
            self._keys[first:last].tolist(),
            self._keys[first] if first > 0 else INT32[0],
            self._keys[last - 1] if last < len(self._keys) else INT32[-1],
        )
