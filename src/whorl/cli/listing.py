"""What the command line and README.md say of encodings, scalings, families, tasks and runtimes, from their registries.

`python -m whorl.cli.listing` writes it anew, to listing.json and README.md. (From there `whorl list` and the help read
it, at once: importing every encoding imports PyTorch.)
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from whorl.encodings import REGISTRY, SCALINGS, get, get_scaling
from whorl.encodings.config import format_value
from whorl.hosts import FAMILIES, IMAGES, MULTIMODAL, PACKED
from whorl.hosts.timm.families import FAMILIES as TIMM
from whorl.runtimes import RUNTIMES
from whorl.runtimes import get as get_runtime
from whorl.runtimes.engines import ENGINES
from whorl.tasks import TASKS
from whorl.tasks import get as get_task
from whorl.tasks.base import Task

KEPT = Path(__file__).with_name("listing.json")
BEGIN, END = "<!-- encodings: begin -->", "<!-- encodings: end -->"
VERBS = {
    "rotate": "rotates q and k",
    "add": "adds to the embedding",
    "bias": "biases the logits",
    "window": "hides keys",
    "scale": "scales the logits",
    "score": "goes by content",
    "softmax": "takes softmax's place",
    "positions": "changes positions",
}


def rows() -> list[tuple[str, str, str, str, str]]:
    """(name, arguments with defaults, effect, what it does, paper) of every registered encoding."""
    found = []
    for name in REGISTRY:
        cls = get(name)
        effect = ", ".join(VERBS[kind] for kind in cls.kinds) or "nothing"
        found.append((name, arguments(cls), effect, cls.title, cited(cls.paper)))
    return found


def cited(paper: str) -> str:
    """`arXiv 2104.09864`, or a paper's title where there is no number."""
    return f"arXiv {paper}" if paper[:1].isdigit() else paper


def scaling_rows() -> list[tuple[str, str, str, str]]:
    """(name, arguments with defaults, what it does, paper) of every scaling."""
    return [(n, arguments(s), s.title, f"arXiv {s.paper}") for n in SCALINGS for s in [get_scaling(n)]]


def arguments(cls: Any) -> str:
    """`size, keep=fastest, base=10000*`: an encoding's or a scaling's arguments, with their defaults.

    A star: the argument is the model's own where it is not given.
    """

    def told(field: dataclasses.Field[Any]) -> str:
        if "of_host" in field.metadata:
            default = field.metadata["default"]
            return f"{field.name}{'' if default is None else f'={format_value(default)}'}*"
        return field.name if field.default in (dataclasses.MISSING, None) else f"{field.name}={field.default}"

    return ", ".join(map(told, dataclasses.fields(cls)))


def task_arguments(task: type[Task]) -> dict[str, str]:
    """What each argument of a task means, by how it is written with its default."""
    fields = dataclasses.fields(task.takes) if task.takes else ()
    return {f"{field.name}={format_value(field.default)}": field.metadata["meaning"] for field in fields}


def listing() -> str:
    """The content of listing.json."""
    tasks = {
        name: {
            "title": task.title,
            "unit": task.unit,
            "options": task.options,
            "arguments": task_arguments(task),
            "encodings": task.encodings,
        }
        for name in TASKS
        for task in [get_task(name)]
    }
    told = {
        "encodings": rows(),
        "scalings": scaling_rows(),
        "families": list(FAMILIES),
        "multimodal": list(MULTIMODAL),
        "images": list(IMAGES),
        "towers": list(PACKED),
        "timm": list(TIMM),
        "tasks": tasks,
    }
    told["runtimes"] = {name: get_runtime(name).title for name in RUNTIMES}
    told["engines"] = list(ENGINES)
    return json.dumps(told, indent=1) + "\n"


def table() -> str:
    """The registry as a Markdown table."""
    lines = ["| name | arguments | effect | what it does | paper |", "| --- | --- | --- | --- | --- |"]
    for name, arguments, effect, title, paper in rows():
        shown = f"`{arguments}`" if arguments else ""
        lines.append(f"| `{name}` | {shown} | {effect} | {title} | {paper} |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """The README with its table renewed. Raises ValueError when the marks are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    KEPT.write_text(listing(), encoding="utf-8")
    readme = Path(sys.argv[1] if len(sys.argv) > 1 else "README.md")
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
