"""What a load test must keep: ``--fail-if "p95>200ms"``, ``"failures>0.1%"``, ``"refused>5%"``.

Knows nothing of Locust.
"""

import argparse
import re
from collections.abc import Callable
from typing import NamedTuple

_FORMS = re.compile(
    r"(?:p(?P<percentile>\d{1,2}(?:\.\d+)?)|(?P<max>max))>(?P<time>\d+(?:\.\d+)?)(?P<unit>ms|s)"
    r"|(?P<share>failures|refused)>(?P<percent>\d+(?:\.\d+)?)%"
)


class Threshold(NamedTuple):
    """A bound: of a response time in milliseconds, or of a share of the batches."""

    text: str
    measure: str
    """``failures``, ``refused``, or the share of batches that must be as fast, such as 0.95."""
    bound: float


class Measured(NamedTuple):
    """What a load test found of its batches; the times in milliseconds."""

    answered: int
    failed: int
    refused: int
    percentile: Callable[[float], float]
    """The response time that so large a share of the answered batches kept."""


def threshold(text: str) -> Threshold:
    """Return what a text asks for. Raises ArgumentTypeError."""
    match = _FORMS.fullmatch(text.replace(" ", ""))
    if match is None:
        raise argparse.ArgumentTypeError(
            f"expected as in p95>200ms, max>2s, failures>0.1% or refused>5%; got {text!r}"
        )
    if match["share"]:
        return Threshold(text, match["share"], float(match["percent"]) / 100)
    share = 1.0 if match["max"] else float(match["percentile"]) / 100
    return Threshold(text, str(share), float(match["time"]) * (1000 if match["unit"] == "s" else 1))


def broken(thresholds: list[Threshold], measured: Measured) -> list[str]:
    """Return in words which thresholds were not kept.

    Without a threshold for failures, any failure breaks the test.
    """
    if not any(each.measure == "failures" for each in thresholds):
        thresholds = [*thresholds, threshold("failures>0%")]
    found = []
    for text, measure, bound in thresholds:
        if measure in ("failures", "refused"):
            count = measured.failed if measure == "failures" else measured.refused
            value = count / max(measured.answered + measured.failed + measured.refused, 1)
            told = f"{value:.2%}"
        else:
            value = measured.percentile(float(measure))
            told = f"{value:,.0f} ms"
        if value > bound:
            found.append(f"{text}: it was {told}")
    return found
