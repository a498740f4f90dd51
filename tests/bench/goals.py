"""The goals: ratios of two contestants in one run, each round by itself, and their bounds."""

from dataclasses import dataclass
from statistics import median

from .figures import RATE, Results
from .scenarios import (
    BARE,
    EXISTING,
    FAIR,
    KEY_0,
    KEY_0_WITH_HEADER,
    LARGE,
    NEW,
    ONE,
    ONE_ITEM,
    REAL,
    SESSION,
    THOUSAND,
    WITH_HEADER,
    Scenario,
)

Place = tuple[str, str, str]
"""A scenario, a contestant, a field of its figures."""

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

    def reached(self, results: Results) -> "Reached | None":
        """Return what was reached; None where the runs do not tell."""
        above = results.by_round(*self.above)
        if self.beneath is None:
            values = list(above.values())
        else:
            beneath = results.by_round(*self.beneath)
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


def _rate(
    title: str, above: tuple[str, str], beneath: tuple[str, str], at_least: float | None
) -> Goal:
    return Goal(title, (*above, RATE), (*beneath, RATE), at_least=at_least)


def _against_limit(scenario: Scenario, title: str, at_least: float | None) -> list[Goal]:
    return [
        _rate(
            f"{title}, {processes} process{'es' * (processes > 1)} / PostgreSQL alone, 1 session",
            (scenario.name, f"service-{processes}"),
            (scenario.name, SESSION),
            at_least,
        )
        for processes in (1, 2)
    ]


def _against(
    title: str, contestant: str, scenario: Scenario, at_least: float | None = None
) -> Goal:
    return _rate(title, (scenario.name, ONE), (scenario.name, contestant), at_least)


_EXISTING = (EXISTING.name, ONE)

GOALS = (
    *_against_limit(EXISTING, "existing keys, 4 connections", 0.8),
    *_against_limit(REAL, "existing keys, real records", None),
    *_against_limit(NEW, "new keys, 4 connections", 0.5),
    Goal("PostgreSQL's CPU for an updated row, µs", (*_EXISTING, "postgres_cpu_us"), at_most=5.5),
    Goal("the service's CPU for an item, batches of 1,000, µs", (*_EXISTING, CPU), at_most=5),
    Goal("the same, batches of 100, µs", ("100x4", ONE, CPU), at_most=7),
    Goal("the same, batches of 10, µs", ("10x4", ONE, CPU), at_most=20),
    Goal("the same, one item, 64 connections, µs", ("1x64", ONE, CPU), at_most=120),
    _rate("key 0, records created / named new keys", ("key-0", ONE), (NEW.name, ONE), 0.95),
    _against("textbook handler, 1 connection", "textbook", THOUSAND[0], 40),
    _against("textbook handler, 4 connections", "textbook", EXISTING, 22),
    _against("FastAPI + SQLAlchemy, 4 connections", "fastapi", EXISTING, 4),
    _against("FastAPI + SQLAlchemy, new keys", "fastapi", NEW),
    _against("Fastify + postgres.js, 4 connections", "fastify", EXISTING, 2.5),
    _against("Fastify + postgres.js, new keys", "fastify", NEW),
    _rate("1% refused items / clean", ("refused", ONE), _EXISTING, 0.5),
    _rate("1% invalid items / clean", ("invalid", ONE), _EXISTING, 0.5),
    _rate(
        "all items refused / textbook handler",
        ("all-refused", ONE), ("all-refused", "textbook"), 5,
    ),
    _against("one-item batches, 64 connections / textbook", "textbook", ONE_ITEM[3], 3),
    Goal(
        "one-item batches, 64 connections: p99 / median",
        ("1x64", ONE, "p99_ms"), ("1x64", ONE, "median_ms"), at_most=4,
    ),
    Goal(
        "one-item batches, 1 connection: median / bare asyncpg",
        ("1x1", ONE, "median_ms"), ("1x1", BARE, "median_ms"), at_most=2,
    ),
    _rate("batches of 1,000, 64 connections / 4", ("1000x64", ONE), _EXISTING, None),
    Goal(
        "the same: peak memory above the bodies in flight, MB",
        ("1000x64", ONE, "peak_over_bodies_mb"),
    ),
    Goal(
        "100,000-item batch: first byte / whole time",
        (LARGE.name, ONE, "first_byte_share"), at_most=0.15,
    ),
    Goal(
        "100,000-item batch: peak memory above the body, MB",
        (LARGE.name, ONE, "peak_over_bodies_mb"), at_most=100,
    ),
    Goal(
        "time an item, batches of 100,000 / of 1,000",
        (THOUSAND[0].name, ONE, RATE), (LARGE.name, ONE, RATE), at_most=1.2,
    ),
    *(
        Goal(
            f"p99 of one-item batches, beside {fair.beside.title} / without",
            (fair.name, ONE, "p99_ms"), ("alone", ONE, "p99_ms"),
            at_most=5 if fair.beside is LARGE else None,
        )
        for fair in FAIR if fair.beside
    ),
    Goal(
        "batches of 1, 64 connections, with an Idempotency-Key / without",
        (WITH_HEADER.name, ONE, RATE), (ONE_ITEM[3].name, ONE, RATE), at_least=0.9,
    ),
    Goal(
        "the same with key 0",
        (KEY_0_WITH_HEADER.name, ONE, RATE), (KEY_0.name, ONE, RATE), at_least=0.6,
    ),
    Goal("idle process, MB resident", (*_EXISTING, "idle_mb"), at_most=60),
)  # fmt: skip
