"""The table of SQLSTATEs, held against the contract and against itself."""

import re

import asyncpg
import pytest

from service.engine import sqlstates
from service.engine.sqlstates import BY_CLASS, BY_CODE, TRANSIENT, Meaning, get_meaning
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
    assert meaning.message.startswith("item failed") == (meaning.status != 503)
    assert not meaning.message.endswith(".")
    if meaning.status == 503:
        assert meaning.is_transient
    if meaning.is_retried or meaning.is_transient:
        assert meaning.status in (500, 503)
    if meaning.is_retried:
        assert meaning.is_transient


@pytest.mark.parametrize("code", sorted({*RAISED, *BY_CODE}))
def test_the_database_leaves_an_item_for_exactly_the_codes_that_do_not_lie_in_it(code: str) -> None:
    is_left = code in TRANSIENT or code[:2] in TRANSIENT

    assert is_left == get_meaning(code).is_transient


def test_a_code_counts_before_its_class_and_what_is_unknown_is_500() -> None:
    assert get_meaning("55000").status == 409
    assert get_meaning("55P04").status == 503
    assert get_meaning("2200H").status == 500
    assert get_meaning("22P02") == Meaning(400)
    assert get_meaning("ZZ999").status == 500
    assert get_meaning("").status == 500


@pytest.mark.parametrize(
    ("message", "column", "told"),
    [
        ("too long", None, "too long"),
        ("is null", "study_drug", "study_Drug: is null"),
        ("is null", "a column of the tenant's own", "is null"),
        ('null value in column "case_key" of', "", 'case_Key: null value in column "case_key" of'),
        ("x" * 501, None, "x" * 499 + "…"),
    ],
)
def test_a_message_names_the_field_and_is_cut(message: str, column: str | None, told: str) -> None:
    assert sqlstates.format_message(message, column) == told


def test_a_lost_worker_of_citus_is_a_lost_connection_and_no_fault_of_ours() -> None:
    error = asyncpg.InternalServerError("failure on connection marked as essential: w1:5432")

    meaning = get_meaning(sqlstates.get_sqlstate(error))

    assert (meaning.status, meaning.is_retried) == (503, True)
    assert sqlstates.get_sqlstate(asyncpg.InternalServerError("cache lookup failed")) == "XX000"
