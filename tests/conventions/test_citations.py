"""The sections of the contract that the source and the tests cite are in the contract."""

import re
from collections.abc import Iterator

from tests.support.source import ROOT

CITATION = re.compile(
    r'contract,? sections? (\d(?:(?:,| and) \d)*)((?:,? (?:and )?"[^"]+")*)', re.IGNORECASE
)
COMMENT_MARKS = re.compile(r"\s*\n\s*(?:#|--)?\s*")


def headings() -> set[tuple[str, str]]:
    """Return the headings of the contract as (section, title); ("1", "") is the whole section 1."""
    found: set[tuple[str, str]] = set()
    section = ""
    contract = (ROOT / "docs/contract.md").read_text()
    for marks, title in re.findall(r"^(##|###) (.+)$", contract, re.MULTILINE):
        if marks == "##":
            section, _, title = title.partition(". ")
            found.add((section, ""))
        found.add((section, title))
    return found


def citations(text: str) -> Iterator[tuple[str, str]]:
    """Yield the sections that a text cites, with one of their titles or ""."""
    for sections, titles in CITATION.findall(COMMENT_MARKS.sub(" ", text)):
        for section in re.findall(r"\d", sections):
            yield from ((section, title) for title in re.findall(r'"([^"]+)"', titles) or [""])


def test_every_section_that_is_cited_is_in_the_contract() -> None:
    cited = {
        (str(path.relative_to(ROOT)), *citation)
        for folder in ("service", "tests", "sql")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".sql")
        for citation in citations(path.read_text())
    }
    assert len(cited) > 20

    known = headings()
    assert {each for each in cited if each[1:] not in known} == set()
