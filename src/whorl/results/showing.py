"""How a result looks in Python: a short table of text, the head of its report in a notebook, and a DataFrame."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from html import escape
from typing import Any

from whorl.registry import look_up

HEADS = {
    "Comparison": "whorl.reports.comparison:head",
    "Evaluation": "whorl.reports.evaluation:head",
    "ImageInspection": "whorl.reports.image_inspection:head",
    "Inspection": "whorl.reports.inspection:head",
}
"""By kind of result, what makes the head of its report, as HTML."""
NOTICES = {"Comparison": "whorl.reports.comparison:unlearnt"}
"""By kind of result, what makes the sentences without which its table would mislead."""


class Shown:
    """A result that a person meets as an object. Dataclasses of it are `repr=False`."""

    @abstractmethod
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """A short table: the names of its columns, and its rows."""

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """The rows of `to_frame`, a value for each column that a row has."""

    def __repr__(self) -> str:
        kind = type(self).__name__
        notices = look_up("result", kind, NOTICES, "")(self) if kind in NOTICES else []
        return "\n".join([text_table(*self.table()), *notices])

    def _repr_html_(self) -> str:
        kind = type(self).__name__
        if kind not in HEADS:
            return f"<pre>{escape(repr(self))}</pre>"
        head: str = look_up("result", kind, HEADS, "")(self)
        return head

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
