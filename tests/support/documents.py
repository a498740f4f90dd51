"""The documents, README.md to docs/, as Markdown: their blocks, code, links, headings, tables."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.source import ROOT

DOCUMENTS = ["README.md", "CHANGELOG.md"]
DOCUMENTS += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))]


class Piece(NamedTuple):
    """Something that stands in a document: where, and what it says."""

    document: str
    section: str
    line: int
    language: str
    """Of a fenced block; "" for what is none, and for a drawing."""

    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@cache
def tokens(document: str) -> list[Token]:
    """Return a document's tokens."""
    return MarkdownIt("commonmark").enable("table").parse((ROOT / document).read_text())


def _walk(document: str) -> Iterator[tuple[str, int, Token]]:
    """Yield section, line and token of all that is in a document, inside paragraphs, too."""
    section, line, is_heading = "", 0, False
    for token in tokens(document):
        line = token.map[0] + 1 if token.map else line
        section = token.content if is_heading else section
        is_heading = token.type == "heading_open"
        yield section, line, token
        for child in token.children or ():
            yield section, line, child


def fenced(*languages: str) -> list[Piece]:
    """Return the fenced blocks of the languages, of all documents; of any if none is named."""
    return [
        Piece(document, section, line, token.info, token.content)
        for document in DOCUMENTS
        for section, line, token in _walk(document)
        if token.type == "fence" and (not languages or token.info in languages)
    ]


def inline_code() -> list[Piece]:
    """Return what stands in backquotes within the sentences of all documents."""
    return [
        Piece(document, section, line, "", token.content)
        for document in DOCUMENTS
        for section, line, token in _walk(document)
        if token.type == "code_inline"
    ]


def links() -> list[Piece]:
    """Return where the links and pictures of all documents lead."""
    return [
        Piece(document, section, line, "", str(token.attrGet(attribute)))
        for document in DOCUMENTS
        for section, line, token in _walk(document)
        for kind, attribute in (("link_open", "href"), ("image", "src"))
        if token.type == kind
    ]


def anchors(path: Path) -> set[str]:
    """Return what a link may lead to inside a document, as GitHub names it."""
    found: set[str] = set()
    is_heading = False
    for token in tokens(str(path.relative_to(ROOT))):
        if is_heading:
            slug = re.sub(r"[^\w -]", "", token.content.lower()).replace(" ", "-")
            assert slug not in found, f"{path}: two headings are called {token.content}"
            found.add(slug)
        is_heading = token.type == "heading_open"
    return found | set(re.findall(r'<a id="([^"]+)">', path.read_text()))


def tables(document: str) -> list[list[list[str]]]:
    """Return a document's tables: rows of cells, the head first, in Markdown."""
    found: list[list[list[str]]] = []
    is_cell = False
    for token in tokens(document):
        if token.type == "table_open":
            found.append([])
        if token.type == "tr_open":
            found[-1].append([])
        if is_cell:
            found[-1][-1].append(token.content)
        is_cell = token.type in ("th_open", "td_open")
    return found
