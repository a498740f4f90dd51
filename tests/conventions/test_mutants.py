"""Each mutant has something to break."""

import pytest

from tests.mutants.mutants import MUTANTS, Mutant
from tests.support.source import ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_replaces_stands_in_its_file(mutant: Mutant) -> None:
    assert mutant.original in (ROOT / mutant.file).read_text()
