"""The parts of a Markdown page that tests hold to their word: blocks, code, links, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ROW = re.compile(r"^\| (.*) \|$", re.MULTILINE)
_RULE = re.compile(r"^\|(?:-+\|)+$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    def blocks(self, language: str) -> list[Block]:
        """Return the fenced blocks of a language, in order."""
        found = [Block(*match) for match in _FENCE.findall(self.text)]
        return [block for block in found if block.language == language]

    @property
    def prose(self) -> str:
        """The page without its fenced blocks."""
        return _FENCE.sub("", self.text)

    def code(self) -> list[str]:
        """Return what stands between single backticks."""
        return _CODE.findall(self.prose)

    def links(self) -> list[str]:
        """Return the targets of all links."""
        return _LINK.findall(self.prose)

    def anchors(self) -> set[str]:
        """Return the headings as the fragments that GitHub makes of them."""
        texts = (re.sub(r"[^\w\- ]", "", head.lower()) for head in _HEADING.findall(self.prose))
        return {text.replace(" ", "-") for text in texts}

    def table(self, first: str) -> list[list[str]]:
        """Return the cells of every table whose first column is headed `first`."""
        rows: list[list[str]] = []
        for table in _tables(self.prose):
            if table[0][0] == first:
                rows += table[1:]
        assert rows, f"{self} has no table whose first column is {first!r}"
        return rows


def page(name: str) -> Page:
    """Read one page, named from the repository's root."""
    path = ROOT / name
    return Page(path, path.read_text())


def pages() -> list[Page]:
    """Read every page of the documentation."""
    names = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    return [Page(path, path.read_text()) for path in names]


def coded(cell: str) -> list[str]:
    """Return what stands between backticks in a table's cell."""
    return _CODE.findall(cell)


def _tables(text: str) -> Iterator[list[list[str]]]:
    for part in re.split(r"\n\s*\n", text):
        if _RULE.search(part):
            yield [row.split(" | ") for row in _ROW.findall(_RULE.sub("", part))]
