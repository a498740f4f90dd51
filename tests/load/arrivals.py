"""When batches are due that arrive at a rate, whether or not the service keeps up.

A closed user sends its next batch when it has the answer of the last, so a service that stalls is
asked less and looks better than it is ("coordinated omission"). Here each batch has a moment
at which it is due, and its response time counts from that.
"""

import random


class Arrivals:
    """A Poisson process: so many arrivals a second on average, at random moments."""

    def __init__(self, rate: float, chance: random.Random) -> None:
        self._rate = rate
        self._chance = chance
        self._due: float | None = None

    def next(self, now: float) -> float:
        """Return when the next batch is due, which may be in the past; the first is due now."""
        if self._due is None:
            self._due = now
        else:
            self._due += self._chance.expovariate(self._rate)
        return self._due
