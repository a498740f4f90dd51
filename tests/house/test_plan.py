"""The plan of the house: small modules, citations that lead somewhere, tests that patch nothing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.source import ROOT, modules

MOST_LINES = 300
CONTRACT = ROOT / "docs" / "contract.md"


@pytest.mark.parametrize("module", modules())
def test_a_module_is_short(module: str) -> None:
    assert len((ROOT / module).read_text().splitlines()) <= MOST_LINES


def headings() -> dict[str, set[str]]:
    """Return the titles of the contract by the number of their section, its own included."""
    titles: dict[str, set[str]] = {}
    number = ""
    for marks, title in re.findall(r"^(##|###) (.+)$", CONTRACT.read_text(), re.MULTILINE):
        if marks == "##":
            number, _, title = title.partition(". ")
            titles[number] = set()
        titles[number].add(title)
    return titles


CITATION = re.compile(
    r'contract,? sections? (\d(?:(?:,| and) \d)*)((?:,? (?:and )?"[^"]+")*)', re.IGNORECASE
)
COMMENT_MARKS = re.compile(r"\s*\n\s*(?:#|--)?\s*")


def citations(text: str) -> Iterator[tuple[str, str]]:
    """Yield the sections of the contract that a text names: number, and title or nothing."""
    for numbers, titles in CITATION.findall(COMMENT_MARKS.sub(" ", text)):
        for number in re.findall(r"\d", numbers):
            named = re.findall(r'"([^"]+)"', titles)
            yield from ((number, title) for title in named or [""])


def cited() -> list[tuple[str, str, str]]:
    """Return the file, number and title of every citation."""
    files = [
        path
        for folder, pattern in (("service", "*.py"), ("tests", "*.py"), ("sql", "*.sql"))
        for path in sorted((ROOT / folder).rglob(pattern))
        if path != Path(__file__)
    ]
    return [
        (str(path.relative_to(ROOT)), number, title)
        for path in files
        for number, title in citations(path.read_text())
    ]


def test_every_section_that_is_cited_is_in_the_contract() -> None:
    known = headings()
    found = cited()
    assert len(found) > 20

    assert [
        (path, number, title)
        for path, number, title in found
        if number not in known or (title and title not in known[number])
    ] == []


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ('(contract section 1, "Request")', [("1", "Request")]),
        ('Contract section 1, "A" and "B".', [("1", "A"), ("1", "B")]),
        ("(contract sections 1 and 4)", [("1", ""), ("4", "")]),
        ('-- of the contract,\n    -- section 1 "Item fields".', [("1", "Item fields")]),
    ],
)
def test_citations_are_found(text: str, sections: list[tuple[str, str]]) -> None:
    assert list(citations(text)) == sections


def test_no_test_patches_the_service_by_a_dotted_string() -> None:
    patches = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("setattr", "patch", "delattr")
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and str(node.args[0].value).startswith("service")
    ]

    assert patches == []
