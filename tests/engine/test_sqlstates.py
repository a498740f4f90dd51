"""The table of SQLSTATEs, held against the contract and against itself."""

import re

import pytest

from service.engine import sqlstates
from service.engine.sqlstates import BY_CLASS, BY_CODE, Meaning, meaning_of
from tests.harness.source import ROOT

MEANINGS = {**BY_CODE, **BY_CLASS}


def promised() -> dict[str, int]:
    """Return the statuses that the contract gives to SQLSTATEs, and to classes (of 2 letters)."""
    text = (ROOT / "docs" / "contract.md").read_text()
    section = text.partition("### Response: 207")[2].partition("\n###")[0]
    return {
        code.removesuffix("xxx"): int(status)
        for status, when in re.findall(r"^\| (\d{3}) \|(.*SQLSTATE.*)\|$", section, re.MULTILINE)
        for code in re.findall(r"\b[0-9A-Z]{5}\b|\b[0-9A-Z]{2}xxx\b", when.partition(" but ")[0])
    }


def test_the_statuses_of_items_are_those_of_the_contract() -> None:
    found = {code: meaning.status for code, meaning in MEANINGS.items()}

    assert promised() == {
        code: status for code, status in found.items() if status not in (500, 503)
    }


@pytest.mark.parametrize("code", MEANINGS)
def test_what_is_known_of_an_error_fits_together(code: str) -> None:
    meaning = MEANINGS[code]

    assert meaning.status in (400, 403, 409, 500, 503)
    # What passes is told in words and says nothing of the other items.
    assert bool(meaning.words) == (meaning.status >= 500)
    if meaning.status == 503:
        assert meaning.ends_call
        assert code[:2] in sqlstates.ENDING_CLASSES
    else:
        assert not meaning.is_retried
        assert not meaning.is_contention


def test_a_code_counts_before_its_class_and_what_is_unknown_is_500() -> None:
    assert meaning_of("40001").is_contention
    assert not meaning_of("40000").is_contention
    assert meaning_of("22P02") == Meaning(400)
    assert meaning_of("ZZ999").status == 500
    assert meaning_of("").status == 500


@pytest.mark.parametrize(
    ("message", "column", "told"),
    [
        ("too long", None, "too long"),
        ("is null", "study_drug", "study_Drug: is null"),
        ("is null", "a column of the tenant's own", "is null"),
        ("x" * 501, None, "x" * 499 + "…"),
    ],
)
def test_a_message_names_the_field_and_is_cut(message: str, column: str | None, told: str) -> None:
    assert sqlstates.message_of(message, column) == told
