"""What one run measured, as it goes from the measuring process to the report."""

from collections.abc import Sequence
from statistics import median
from typing import TypedDict

from msgspec import Struct


class Figures(Struct, kw_only=True):
    """The figures of one run; None where there is nothing to measure."""

    items: int
    items_per_second: float
    median_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    first_byte_share: float | None = None
    statuses: dict[str, int] = {}
    service_cpu_us: float | None = None
    postgres_cpu_us: float | None = None
    load_cpu_seconds: float | None = None
    load_cpu_share: float | None = None
    resident_mb: float | None = None
    peak_mb: float | None = None
    body_mb: float | None = None

    @property
    def peak_over_body_mb(self) -> float | None:
        """How far the memory's peak lies above the size of the body."""
        if self.peak_mb is None or self.body_mb is None:
            return None
        return self.peak_mb - self.body_mb


class Run(Struct):
    """One contestant's figures in one round of one scenario."""

    scenario: str
    contestant: str
    round: int
    figures: Figures


class Latencies(TypedDict):
    """The fields of the figures that tell latency."""

    median_ms: float
    p99_ms: float
    max_ms: float


def latencies(seconds: Sequence[float]) -> Latencies:
    """Return what many measured times amount to."""
    ordered = sorted(seconds)
    return Latencies(
        median_ms=median(ordered) * 1000,
        p99_ms=ordered[int(len(ordered) * 0.99)] * 1000,
        max_ms=ordered[-1] * 1000,
    )
