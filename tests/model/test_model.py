"""Whatever the table and the batches: the service does what the reference does."""

import os
from time import monotonic

import asyncpg
from hypothesis import HealthCheck, Phase, given, settings

from tests.model.checkout import Twins
from tests.model.examples import Example, differences, examples, report, shrink
from tests.model.search import search
from tests.support import citus

EXAMPLES = 50
SECONDS = 20
"""For the short run; for shrinking, when an example was found, as many again."""


def test_a_batch_means_its_items_one_after_another(twins: Twins) -> None:
    """For MODEL_SECONDS where that is set: until the time is over, with fresh seeds."""
    if seconds := os.environ.get("MODEL_SECONDS"):
        findings = search(twins, float(seconds))
        assert not findings, f"{len(findings)} findings"
        return

    until = monotonic() + SECONDS
    failures: list[str] = []

    # Hypothesis would make small what it drew, thousands of steps for a large batch.
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(examples(most=1100))
    def try_one(example: Example) -> None:
        if failures or monotonic() > until:
            return
        try:
            found = twins.run(differences(twins, example))
        except asyncpg.PostgresError as error:
            if not citus.is_refusal(error):
                raise
            return
        if found:
            failures.append(report(*shrink(twins, example, found, SECONDS)))

    try_one()

    assert not failures, f"{twins.settings}\n{failures[0]}"
