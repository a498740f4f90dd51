"""The table of SQLSTATEs, held against the contract and against itself."""

import re

import asyncpg
import pytest

from service.engine import sqlstates
from service.engine.sqlstates import BY_CLASS, BY_CODE, PASSING, Meaning, meaning_of
from tests.support.source import ROOT

MEANINGS = {**BY_CODE, **BY_CLASS}

RAISED = sorted(
    {
        error.sqlstate
        for error in vars(asyncpg.exceptions).values()
        if isinstance(getattr(error, "sqlstate", None), str) and len(error.sqlstate) == 5
    }
)
"""The codes that PostgreSQL knows."""


def promised() -> dict[str, int]:
    """Return the statuses that the contract gives to SQLSTATEs, and to classes (of 2 letters)."""
    text = (ROOT / "docs" / "contract.md").read_text()
    section = text.partition("### Response: 207")[2].partition("\n###")[0]
    return {
        code.removesuffix("xxx"): int(status)
        for status, when in re.findall(r"^\| (\d{3}) \|(.*SQLSTATE.*)\|$", section, re.MULTILINE)
        for code in re.findall(r"\b[0-9A-Z]{5}\b|\b[0-9A-Z]{2}xxx\b", re.sub(r" but \w+", "", when))
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
    # What lies in the item is told in the database's words, all else in ours.
    assert meaning.words.startswith("item failed") == (meaning.status != 503)
    assert not meaning.words.endswith(".")
    if meaning.status == 503:
        assert meaning.passes
    if meaning.is_retried or meaning.passes:
        assert meaning.status in (500, 503)
    if meaning.is_retried:
        assert meaning.passes


@pytest.mark.parametrize("code", sorted({*RAISED, *BY_CODE}))
def test_the_database_leaves_an_item_for_exactly_the_codes_that_do_not_lie_in_it(code: str) -> None:
    is_left = code in PASSING or code[:2] in PASSING

    assert is_left == meaning_of(code).passes


def test_a_code_counts_before_its_class_and_what_is_unknown_is_500() -> None:
    assert meaning_of("55000").status == 409
    assert meaning_of("55P04").status == 503
    assert meaning_of("2200H").status == 500
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


def test_a_lost_worker_of_citus_is_a_lost_connection_and_no_fault_of_ours() -> None:
    error = asyncpg.InternalServerError("failure on connection marked as essential: w1:5432")

    meaning = meaning_of(sqlstates.sqlstate_of(error))

    assert (meaning.status, meaning.is_retried) == (503, True)
    assert sqlstates.sqlstate_of(asyncpg.InternalServerError("cache lookup failed")) == "XX000"
