"""What one run measured, as it goes from the measuring process to the report."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct

RATE = "items_per_second"
"""The field of the figures that most comparisons are of."""


class Figures(Struct, kw_only=True):
    """The figures of one run; None where there is nothing to measure."""

    items: int
    items_per_second: float
    median_ms: float | None = None
    p99_ms: float | None = None
    first_byte_share: float | None = None
    statuses: dict[str, int] = {}
    service_cpu_us: float | None = None
    postgres_cpu_us: float | None = None
    load_cpu_us: float | None = None
    load_cpu_share: float | None = None
    idle_mb: float | None = None
    peak_mb: float | None = None
    bodies_mb: float | None = None

    def tell_latencies(self, seconds: Sequence[float]) -> None:
        """Note what many measured times amount to."""
        ordered = sorted(seconds)
        self.median_ms = median(ordered) * 1000
        self.p99_ms = ordered[int(len(ordered) * 0.99)] * 1000

    @property
    def peak_over_bodies_mb(self) -> float | None:
        """How far the memory's peak lies above the size of the bodies in flight."""
        if self.peak_mb is None or self.bodies_mb is None:
            return None
        return self.peak_mb - self.bodies_mb


class Run(Struct):
    """One contestant's figures in one round of one scenario."""

    scenario: str
    contestant: str
    round: int
    figures: Figures


class Results(Struct):
    """All runs of one call of the benchmark, and what they depend on."""

    command: str
    machine: dict[str, str]
    cores: int
    runs: list[Run]

    def by_round(self, scenario: str, contestant: str, field: str) -> dict[int, float]:
        """Return one figure of a contestant in each round that has it."""
        found = {
            run.round: getattr(run.figures, field)
            for run in self.runs
            if (run.scenario, run.contestant) == (scenario, contestant)
        }
        return {number: value for number, value in found.items() if value is not None}

    def middle(self, scenario: str, contestant: str, field: str = RATE) -> float | None:
        """Return the median over the rounds; None where nothing was measured."""
        values = self.by_round(scenario, contestant, field).values()
        return median(values) if values else None

    def turns(self) -> list[tuple[str, str]]:
        """Return each scenario with each of its contestants."""
        return list(dict.fromkeys((run.scenario, run.contestant) for run in self.runs))
