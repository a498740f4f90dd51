"""Looks for examples in which the service differs: ``python -m tests.model.search --seconds 1200``.

It goes on after one was found, looking for others, and lists at the end what it found.
``MODEL_CHECKOUT`` names the checkout whose service is tried.
"""

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from secrets import randbits
from time import monotonic

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.model.checkout import CHECKOUT, Twins, make_twins
from tests.model.examples import Example, differences, examples, report, shrink, symptom_of
from tests.support.embedded import EmbeddedPostgres

EXAMPLES_OF_A_SEED = 100
SHRINK_SECONDS = 30

FINDINGS_OF_A_KIND = 2
"""After so many the search goes on without the kind."""

ORDINARY = "ordinary table"


@dataclass
class Finding:
    """A smallest example, in what the service differs, and when it was found."""

    example: Example
    differences: list[str]
    seconds: float

    @property
    def name(self) -> str:
        """What the example has beside an ordinary table."""
        return " + ".join(self.example.kinds) or ORDINARY

    def __str__(self) -> str:
        head = f"== {self.name}, after {self.seconds:.0f} s"
        return f"{head}\n{report(self.example, self.differences)}"


class _Found(BaseException):
    """Ends hypothesis' run; no Exception, so that it does not try the example again."""

    def __init__(self, example: Example, differences: list[str]) -> None:
        super().__init__()
        self.example = example
        self.differences = differences


def search(twins: Twins, seconds: float) -> list[Finding]:
    """Try examples until the time is over; return the findings, print a list of them."""
    began = monotonic()
    findings: list[Finding] = []
    known: set[tuple[str, str]] = set()
    tried = 0

    def is_new(example: Example, found: list[str]) -> bool:
        """Tell whether some symptom was seen with nothing that the example has."""
        kinds = (ORDINARY, *example.kinds)
        return any(
            known.isdisjoint((kind, symptom) for kind in kinds)
            for symptom in map(symptom_of, found)
        )

    while monotonic() - began < seconds:
        times = Counter(kind for finding in findings for kind in finding.example.kinds)
        exhausted = frozenset(
            kind for kind, number in times.items() if number >= FINDINGS_OF_A_KIND
        )

        @seed(randbits(64))
        @settings(
            max_examples=EXAMPLES_OF_A_SEED,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(examples(exhausted, slow=True))
        def holds(example: Example) -> None:
            nonlocal tried
            tried += 1
            if monotonic() - began > seconds:
                return
            found = twins.run(differences(twins, example))
            if is_new(example, found):
                raise _Found(example, found)
            if found and example.restored_before is not None:
                twins.run(twins.restart())

        try:
            holds()
        except _Found as stop:
            example, found = shrink(twins, stop.example, stop.differences, SHRINK_SECONDS, is_new)
            # What went wrong may have harmed the process for good.
            twins.run(twins.restart())
            finding = Finding(example, found, monotonic() - began)
            findings.append(finding)
            kinds = example.kinds or (ORDINARY,)
            known |= {(kind, symptom) for kind in kinds for symptom in map(symptom_of, found)}
            print(finding, flush=True)
    print(f"== {tried} examples in {monotonic() - began:.0f} s, {len(findings)} findings")
    for finding in findings:
        print(f"{finding.seconds:6.0f} s  {finding.name}: {symptom_of(finding.differences[0])}")
    return findings


def main() -> None:
    """Parse the arguments, search, exit with 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200)
    seconds = parser.parse_args().seconds
    print(f"the service of {CHECKOUT}")
    with tempfile.TemporaryDirectory(prefix="model-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            EmbeddedPostgres(folder / "postgres", durable=False) as postgres,
            make_twins(postgres.dsn(), folder) as twins,
        ):
            sys.exit(bool(search(twins, seconds)))


if __name__ == "__main__":
    main()
