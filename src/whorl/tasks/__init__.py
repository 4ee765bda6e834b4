"""What the encodings of a comparison are trained and tested on. A new task adds one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whorl.checking import shown
from whorl.notation import name_and_arguments
from whorl.registry import entry, look_up

if TYPE_CHECKING:
    from whorl.tasks.base import Task

HINT = "try language"
TASKS = {
    "language": "whorl.tasks.language:Language",
    "copy": "whorl.tasks.copy:Copy",
    "recall": "whorl.tasks.recall:Recall",
    "mqar": "whorl.tasks.mqar:Mqar",
    "decoy": "whorl.tasks.decoy:Decoy",
    "niah-tiny": "whorl.tasks.niah_tiny:NiahTiny",
    "following": "whorl.tasks.following:Following",
    "segment-copy": "whorl.tasks.segment_copy:SegmentCopy",
    "fixed-offset": "whorl.tasks.fixed_offset:FixedOffset",
    "flip-flop": "whorl.tasks.flip_flop:FlipFlop",
    "mlm": "whorl.tasks.mlm:MaskedLanguage",
    "copy-items": "whorl.tasks.copy_items:CopyItems",
    "reverse": "whorl.tasks.reverse:Reverse",
    "addition": "whorl.tasks.addition:Addition",
    "sum": "whorl.tasks.sum:Sum",
    "parity": "whorl.tasks.parity:Parity",
    "sort": "whorl.tasks.sort:Sort",
    "poly": "whorl.tasks.poly:Poly",
    "lego": "whorl.tasks.lego:Lego",
    "scan": "whorl.tasks.scan:Scan",
    "pcfg": "whorl.tasks.pcfg:PCFG",
    "points": "whorl.tasks.points:Points",
    "images": "whorl.tasks.images:Images",
}


def get(name: str) -> type[Task]:
    """The task class of a name. Raises ValueError with a suggestion when there is none."""
    return look_up("task", name, TASKS, HINT)


def check_name(notation: str) -> None:
    """Raises ValueError for a task that there is none of. Nothing is imported; what else is wrong, `parse` says."""
    entry("task", "".join(notation.split()).partition(":")[0], TASKS, HINT)


def parse(notation: str) -> tuple[type[Task], dict[str, Any]]:
    """The class of a task that is written as encodings are (`parity:scratchpad=full`), and its arguments, checked.

    Raises ValueError for a task or an argument that there is none of.
    """
    if not isinstance(notation, str) or not notation:
        raise ValueError(f"a task is written as its name, or name:key=value, got {shown(notation)}; try language")
    name, arguments = name_and_arguments("".join(notation.split()))
    task = get(name)
    task.asked(arguments)
    return task, arguments


def written(notation: str) -> str:
    """The same task as it is written shortest: arguments at their defaults left out, the others in one order."""
    task, arguments = parse(notation)
    return str(task.asked(arguments) or task.name)


def of_evaluation(name: str) -> type[Task]:
    """The task whose rows stand under this name in a trial's evaluations. Raises ValueError when there is none."""
    known = {task.evaluation: task for task in map(get, TASKS)}
    if name not in known:
        raise ValueError(f"no task makes the evaluation {name!r} (known: {', '.join(known)}); a later whorl's may")
    return known[name]
