"""A report before it is HTML or Markdown: its parts, one after the other. Pure.

Texts are plain: whoever writes them out escapes them, so no name from a result file is ever markup.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Heading:
    """The start of a section."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a head. Figures stand at the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: frozenset[int] = field(default_factory=frozenset)  # numbers of such columns
    verdict: int | None = None  # the column that says ok or MISSED


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot: an SVG element, and what it shows for whoever does not see it."""

    name: str  # of its file, without ending
    svg: str
    caption: str


Block = Heading | Paragraph | Items | Table | Picture


@dataclass(frozen=True, slots=True)
class Document:
    """All of it."""

    title: str
    blocks: Sequence[Block]
