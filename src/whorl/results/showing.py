"""How a result looks in Python: a short table of text, the head of its report in a notebook, and a DataFrame."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

HEADS: dict[type, Callable[[Any], str]] = {}
"""By kind of result, the head of its report as HTML. The reports, which know the kinds, put theirs in."""


class Shown:
    """A result that a person meets as an object. Dataclasses of it are `repr=False`."""

    @abstractmethod
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """A short table: the names of its columns, and its rows."""

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """The rows of `to_frame`, a value for each column that a row has."""

    def __repr__(self) -> str:
        return text_table(*self.table())

    def _repr_html_(self) -> str:
        head = HEADS.get(type(self))
        return head(self) if head is not None else f"<pre>{escape(repr(self))}</pre>"

    def to_frame(self) -> Any:
        """The numbers as a pandas DataFrame. Raises ValueError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise ValueError(
                "to_frame makes a pandas DataFrame, and pandas is not there: pip install pandas"
            ) from error
        return pandas.DataFrame(self.records())


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first to the left and the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        .rstrip()
        for line in lines
    )  # fmt: skip
