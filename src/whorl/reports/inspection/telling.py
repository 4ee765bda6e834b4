"""What a section says: its findings, the parts of their sentences, and a heading with charts or with the reason why
there are none."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from whorl.reports.chart import Chart
from whorl.reports.document import Block, Figure, Heading, Paragraph
from whorl.reports.formatting import DASH, capital, listing
from whorl.reports.inspection.drawing import Models
from whorl.results.inspection import Inspection, Protocol, UShape

PROTOCOLS: dict[Protocol, str] = {"text": "on the text", "random": "on random tokens"}
"""The two things that are read: the inspected text, and HoPE's protocol (a first token, then random ones)."""
LABELS: dict[Protocol, str] = {"text": "on the text", "random": "random tokens"}
"""The same on the buttons of a chart."""
Charts = Mapping[str, Chart]
"""Those of a report, by name."""
FEW_RUNS, FEW_PAIRS = 3, 8


@dataclass(frozen=True)
class Finding:
    """A sentence or two, and the name of the chart that shows it (empty: none)."""

    text: str
    figure: str = ""

    def __str__(self) -> str:
        return self.text


def section(title: str, said: str, models: Models, shown: Sequence[Chart | None], keys: Sequence[str]) -> list[Block]:
    """A heading, what is measured, its charts; without any chart the reason instead, under one of `keys`."""
    figures = [Figure(chart) for chart in shown if chart is not None]
    return [Heading(title), Paragraph(said), *(figures or absent(models, keys))]


def absent(models: Models, keys: Sequence[str], missing: Callable[[Inspection], bool] = lambda m: True) -> list[Block]:
    """One remark for each reason, with the names of the models where there are two."""
    reasons: dict[str, list[str]] = {}
    for m in models:
        if missing(m):
            told = next((m.summary.absent[key] for key in keys if key in m.summary.absent), "Not measured")
            why = told if told.endswith((".", "!", "?")) else f"{capital(told)}."
            reasons.setdefault(why, []).append(m.name)
    several = len(models) > 1
    return [Paragraph(f"{listing(names)}: {why}" if several else why, "note") for why, names in reasons.items()]


def of_model(m: Inspection, models: Models) -> str:
    """` of NAME` in a table's caption, where there are several."""
    return f" of {m.name}" if len(models) > 1 else ""


def pairs_in_words(pairs: Sequence[int]) -> str:
    """`pair 3`, `pairs 0 to 5`, `pairs 0 to 2 and 7`, `23 pairs between 0 and 60`."""
    if len(pairs) == 1:
        return f"pair {pairs[0]}"
    if len(_runs(pairs)) > FEW_RUNS and len(pairs) > FEW_PAIRS:
        return f"{len(pairs)} pairs between {min(pairs)} and {max(pairs)}"
    return f"pairs {runs_in_words(pairs)}"


def runs_in_words(values: Sequence[int]) -> str:
    """`0`, `0 and 1`, `0 to 5`, `0 to 2 and 7`."""
    parts = []
    for run in _runs(values):
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(v) for v in run]
    return listing(parts)


def runs(values: Sequence[int]) -> str:
    """`0–5, 7`, `36 of 3–124`, for a cell of a table."""
    found = _runs(values)
    if len(found) > 2 * FEW_RUNS:
        return f"{len(values)} of {min(values)}–{max(values)}"
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in found)


def _runs(values: Sequence[int]) -> list[list[int]]:
    """The values in order, those that follow one another together."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return runs


def of_layers(m: Inspection, layers: Collection[int]) -> str:
    """`3 of 18 layers: 5, 11 and 17`, `15 of 30 layers`; empty where they are all."""
    if len(layers) == m.summary.model.layers:
        return ""
    which = f": {runs_in_words(list(layers))}" if len(_runs(list(layers))) <= 2 * FEW_RUNS else ""
    return f"{len(layers)} of {m.summary.model.layers} layers{which}"


def of_measured(m: Inspection) -> str:
    """` of 15 of 30 layers`, where there was time for no more; the report's head says which."""
    chosen = m.summary.plan.layers if m.summary.plan is not None else None
    return "" if chosen is None else f" of {len(chosen)} of {m.summary.model.layers} layers"


def aside(m: Inspection) -> str:
    """The same as ` (of 15 of 30 layers)`."""
    return f" ({told.strip()})" if (told := of_measured(m)) else ""


def mean_over(m: Inspection, u: UShape) -> str:
    """` (mean over 3 of 18 layers: 5, 11 and 17)`, in a sentence; empty where it is over all."""
    some = of_layers(m, [layer.layer for layer in u.layers])
    return f" (mean over {some})" if some else ""


def share(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:z.0f} %"


def shares(values: Iterable[float]) -> str:
    """`64 %`, `58 to 69 %`: the least and the most."""
    known = list(values)
    ends = dict.fromkeys(f"{100 * value:z.0f}" for value in (min(known), max(known)))
    return f"{' to '.join(ends)} %"
