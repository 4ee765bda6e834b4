"""All that is known of an encoding as one page: data that `whorl list NAME` shows, and Markdown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from whorl.encodings import REGISTRY, get
from whorl.pages import facts, measured, reading, table
from whorl.reports.formatting import listing
from whorl.results.comparison import Comparison
from whorl.tasks import get as get_task

GROUPS = {
    "rotate": "Turn q and k",
    "add": "Add to the embedding",
    "bias": "Bias the logits by distance",
    "window": "Hide keys",
    "score": "Go by content",
    "softmax": "Take the place of the softmax",
    "scale": "Scale the logits",
    "positions": "Change positions",
    "": "Do nothing",
}


@dataclass(frozen=True)
class Page:
    """One encoding. Texts are Markdown, with links as from docs/encodings.

    arguments  (name, default, meaning)
    facts      (label, sentences)
    measured   what committed comparisons say of it, a line each
    command    and python: examples; there may be no command
    """

    name: str
    title: str
    does: str
    cited: str
    paper: str
    formula: str
    arguments: tuple[tuple[str, str, str], ...]
    notes: str
    facts: tuple[tuple[str, str], ...]
    measured: tuple[str, ...]
    more: str
    command: str
    python: str


@dataclass(frozen=True)
class Known:
    """What the pages are made of besides the encodings: docs/families.md, and the committed comparisons."""

    docs: Path
    families: str
    taken: dict[str, str]
    experiments: Path
    comparisons: list[tuple[Path, Comparison]]

    @classmethod
    def of(cls, repository: Path) -> Known:
        docs, experiments = repository / "docs", repository / "experiments"
        families = (docs / "families.md").read_text(encoding="utf-8")
        taken = table.taken_by(families)
        return cls(docs, families, taken, experiments, measured.comparisons(experiments))


def page(name: str, known: Known) -> Page:
    """The page of an encoding. Raises ValueError for one whose file does not tell what an argument means."""
    cls = get(name)
    module = facts.scored(name)
    trains = facts.of_text(name) and (module is None or not module.as_trained)
    used = facts.in_use(name)
    spelled = re.split("[,.:]", reading.cited(cls))[0]
    rows, others = measured.mentioned(name, spelled, known.docs, known.experiments)
    far = measured.told(name, known.comparisons, known.experiments)
    if rows:
        far.append(f"a table of {rows[0]} has it" if len(rows) == 1 else f"tables of {listing(rows)} have it")
    told = [
        ("goes with", facts.goes_with(name)),
        ("families", known.taken.get(name, "none of [the table](../families.md).")),
        ("commands", _commands(name, trains, known)),
        ("training", facts.training(name)),
        ("cache, padding", f"{facts.caching(name)} {_begun(facts.shifting(name))}"),
    ]
    return Page(
        name=name,
        title=cls.title,
        does=reading.does(cls),
        cited=reading.cited(cls),
        paper=cls.paper,
        formula=reading.formula(cls),
        arguments=tuple(reading.arguments(cls)),
        notes=reading.notes(cls),
        facts=tuple((label, _begun(text)) for label, text in told),
        measured=tuple(map(_begun, far)),
        more=", ".join(link for link in others if not any(_folder(link) in line for line in far)),
        command=_compared(name, used, trains, known),
        python=f'whorl.attach(model, "{used}")',
    )


def pages(known: Known) -> dict[str, Page]:
    return {name: page(name, known) for name in REGISTRY}


def _compared(name: str, used: str, trains: bool, known: Known) -> str:
    """The command that compares it with another; empty where none does."""
    if trains:
        return f"whorl compare {'hope' if name == 'rope' else 'rope'} {used} --out runs/{name}"
    if facts.of_text(name):
        return ""
    if "of image models" in known.taken.get(name, ""):
        other = "hope-2d" if name == "axial-rope" else "axial-rope"
        return f"whorl compare {other} {used} --task images --out runs/{name}"
    own = get_task("points").encodings
    among = [*own, *[used] * (not any(one.partition(":")[0] == name for one in own))]
    return f"whorl compare {' '.join(among)} --task points --out runs/{name}"


def _commands(name: str, trains: bool, known: Known) -> str:
    images = "of image models" in known.taken.get(name, "")
    if not facts.of_text(name):
        verbs = ["compare --task images", "inspect", "doctor"] if images else ["compare --task points"]
        models = " of image models" if images else ""
        return f"{listing([f'`{verb}`' for verb in verbs])}{models}; none of those that read text."
    verbs = [*["compare", "convert --to"] * trains, "inspect", "doctor"]
    verbs += ["spectrum"] * facts.turns_by_a_spectrum(name)
    said = (
        "`export` where it is saved in stock terms ([which engines read it](../runtimes.md))"
        if table.in_stock_terms(known.families, name)
        else "`export` refuses what stock code cannot say ([more](../export.md))"
    )
    verbs += ["compare --task images"] * images
    return f"{', '.join(f'`{verb}`' for verb in verbs)}; {said}."


def _folder(link: str) -> str:
    """The folder or page that a link leads to, without what is in it."""
    return link.partition("](")[2].rstrip(")").removesuffix("README.md")


def _begun(text: str) -> str:
    """With a capital letter, where it begins with one."""
    return text[:1].upper() + text[1:]


def markdown(page: Page) -> str:
    """The page, with its figure."""
    lines = [f"# {page.name}", "", page.does, "", f"![{page.title}](figures/{page.name}.png)", "", linked(page.cited)]
    if page.formula:
        lines += ["", "```text", page.formula, "```"]
    if page.arguments:
        lines += ["", "| argument | default | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in page.arguments]
    if page.notes:
        lines += ["", page.notes]
    lines += ["", *(f"- **{label}**: {text}" for label, text in page.facts)]
    told = "" if page.measured else " not measured by itself in a committed comparison."
    lines.append(f"- **past the training length**:{told}")
    lines += [f"  - {line}" for line in page.measured]
    if page.more:
        lines.append(f"- **more**: {page.more}")
    if page.command:
        lines += ["", "```sh", page.command, "```"]
    return "\n".join([*lines, "", "```python", page.python, "```", ""])


def linked(text: str) -> str:
    """arXiv numbers as links."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def index(found: Iterable[Page]) -> str:
    """The page of all pages, by what encodings do."""
    lines = [
        "# The encodings",
        "",
        "One page each, made by `make docs` of the encoding's own file, a tiny model that it is attached to, the",
        "[table of families](../families.md) and the committed [comparisons](../../experiments/README.md). In a",
        "terminal: `whorl list NAME`.",
    ]
    by_group: dict[str, list[Page]] = {group: [] for group in GROUPS}
    for one in found:
        kinds = get(one.name).kinds
        by_group[next((kind for kind in kinds if kind in GROUPS), "")].append(one)
    for group, heading in GROUPS.items():
        lines += ["", f"## {heading}", "", "| | |", "| --- | --- |"]
        lines += [f"| [`{one.name}`]({one.name}.md) | {one.title} |" for one in by_group[group]]
    return "\n".join([*lines, ""])


def as_data(found: Iterable[Page]) -> dict[str, dict[str, object]]:
    """For pages.json."""
    return {one.name: {k: v for k, v in dataclasses.asdict(one).items() if k != "name"} for one in found}
