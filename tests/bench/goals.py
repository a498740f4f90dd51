"""The goals: ratios of two contestants in one run, each round by itself, and their bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .figures import Run
from .scenarios import BESIDE, ONE

Place = tuple[str, str, str]
"""A scenario, a contestant, a field of its figures."""

RATE = "items_per_second"
CPU = "service_cpu_us"


@dataclass(frozen=True)
class Goal:
    """A ratio (or, with nothing beneath, a figure) and the bound that it should keep."""

    title: str
    above: Place
    beneath: Place | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def wanted(self) -> str:
        """The bound, in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    def reached(self, runs: Sequence[Run]) -> "Reached | None":
        """Return what was reached; None where the runs do not tell."""
        above = _by_round(runs, self.above)
        if self.beneath is None:
            values = list(above.values())
        else:
            beneath = _by_round(runs, self.beneath)
            values = [above[n] / beneath[n] for n in above if beneath.get(n)]
        if not values:
            return None
        middle = median(values)
        is_met = (self.at_least is None or middle >= self.at_least) and (
            self.at_most is None or middle <= self.at_most
        )
        return Reached(middle, min(values), max(values), is_met if self.wanted else None)


@dataclass(frozen=True)
class Reached:
    """The median over the rounds, its spread, and whether the goal is met (None: no goal)."""

    median: float
    lowest: float
    highest: float
    is_met: bool | None


def _by_round(runs: Sequence[Run], place: Place) -> dict[int, float]:
    scenario, contestant, field = place
    found = {
        run.round: getattr(run.figures, field)
        for run in runs
        if (run.scenario, run.contestant) == (scenario, contestant)
    }
    return {number: value for number, value in found.items() if value is not None}


def _rate(
    title: str, above: tuple[str, str], beneath: tuple[str, str], at_least: float | None
) -> Goal:
    return Goal(title, (*above, RATE), (*beneath, RATE), at_least=at_least)


def _against_limit(scenario: str, title: str, at_least: float | None) -> list[Goal]:
    return [
        _rate(
            f"{title}, {processes} process{'es' * (processes > 1)} / limit of one session",
            (scenario, f"service-{processes}"),
            (scenario, "limit-1"),
            at_least,
        )
        for processes in (1, 2)
    ]


GOALS = (
    *_against_limit("existing", "existing keys, 4 connections", 0.8),
    *_against_limit("existing-real", "existing keys, real records", None),
    *_against_limit("new", "new keys, 4 connections", 0.5),
    Goal(
        "PostgreSQL's CPU for an updated row, µs",
        ("existing", ONE, "postgres_cpu_us"), at_most=5.5,
    ),
    Goal("the service's CPU for an item, batches of 1,000, µs", ("existing", ONE, CPU), at_most=5),
    Goal("the same, batches of 100, µs", ("batches-of-100", ONE, CPU), at_most=7),
    Goal("the same, batches of 10, µs", ("batches-of-10", ONE, CPU), at_most=20),
    Goal("the same, one item, 64 connections, µs", ("one-item", ONE, CPU), at_most=120),
    _rate("key 0, records created / named new keys", ("key-0", ONE), ("new", ONE), 0.95),
    _rate(
        "textbook handler, 1 connection",
        ("one-connection", ONE), ("one-connection", "textbook"), 40,
    ),
    _rate("textbook handler, 4 connections", ("existing", ONE), ("existing", "textbook"), 22),
    _rate("FastAPI + SQLAlchemy, 4 connections", ("existing", ONE), ("existing", "fastapi"), 4),
    _rate("FastAPI + SQLAlchemy, new keys", ("new", ONE), ("new", "fastapi"), None),
    _rate("Fastify + postgres.js, 4 connections", ("existing", ONE), ("existing", "fastify"), 2.5),
    _rate("Fastify + postgres.js, new keys", ("new", ONE), ("new", "fastify"), None),
    _rate("1% refused items / clean", ("bad-1-percent", ONE), ("existing", ONE), 0.5),
    _rate("1% invalid items / clean", ("invalid-1-percent", ONE), ("existing", ONE), 0.5),
    _rate("all items refused / textbook handler", ("bad-all", ONE), ("bad-all", "textbook"), 5),
    _rate(
        "one-item batches, 64 connections / textbook",
        ("one-item", ONE), ("one-item", "textbook"), 3,
    ),
    Goal(
        "one-item batches, 64 connections: p99 / median",
        ("one-item", ONE, "p99_ms"), ("one-item", ONE, "median_ms"), at_most=4,
    ),
    Goal(
        "one-item batches, 1 connection: median / bare asyncpg",
        ("one-item-alone", ONE, "median_ms"), ("one-item-alone", "bare-asyncpg", "median_ms"),
        at_most=2,
    ),
    Goal(
        "100,000-item batch: first byte / whole time",
        ("large-100000", ONE, "first_byte_share"), at_most=0.15,
    ),
    Goal(
        "100,000-item batch: peak memory above the body, MB",
        ("large-100000", ONE, "peak_over_body_mb"), at_most=100,
    ),
    Goal(
        "time an item, batches of 100,000 / of 1,000",
        ("large-1000", ONE, RATE), ("large-100000", ONE, RATE), at_most=1.2,
    ),
    *(
        Goal(
            f"p99 of one-item batches, beside {beside.title} / without",
            (f"fair-{label}", ONE, "p99_ms"), ("fair-alone", ONE, "p99_ms"),
            at_most=5 if label == "large" else None,
        )
        for label, beside in BESIDE.items() if beside
    ),
    Goal("idle process, MB resident", ("idle", ONE, "resident_mb"), at_most=60),
)  # fmt: skip
