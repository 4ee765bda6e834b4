"""A report as a sequence of blocks, which markdown.py and html.py each render."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whorl.reports.chart import Chart


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    """`notice` is a warning to be read first, `note` a remark in small print."""

    text: str
    style: Literal["text", "lead", "notice", "note"] = "text"


@dataclass(frozen=True)
class Bullet:
    """`label` is set in bold before the text; `series` gives it the colour of that encoding in the charts;
    `see` is the chart that shows it, as (name, title)."""

    text: str
    label: str = ""
    series: int | None = None
    see: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Bullets:
    items: Sequence[Bullet]


@dataclass(frozen=True)
class Row:
    """Cells of (text, small text beside it); the first one names the row."""

    cells: Sequence[tuple[str, str]]
    series: int | None = None


@dataclass(frozen=True)
class Table:
    """`header` cells are (text, small text below it)."""

    caption: str
    header: Sequence[tuple[str, str]]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Figure:
    chart: Chart


@dataclass(frozen=True)
class Details:
    """Settings to look up, folded away: titles with their keys and values."""

    title: str
    groups: Mapping[str, Mapping[str, Any]]


Block = Heading | Paragraph | Bullets | Table | Figure | Details


@dataclass(frozen=True)
class Document:
    """`facts` are the few settings to see at once, as (name, value)."""

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    blocks: Sequence[Block]
    footer: str

    @property
    def charts(self) -> list[Chart]:
        return [block.chart for block in self.blocks if isinstance(block, Figure)]
