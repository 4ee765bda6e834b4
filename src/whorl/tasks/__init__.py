"""What the encodings of a comparison are trained and tested on. A new task adds one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whorl.registry import look_up

if TYPE_CHECKING:
    from whorl.tasks.base import Task

TASKS = {
    "language": "whorl.tasks.language:Language",
    "copy": "whorl.tasks.copy:Copy",
    "recall": "whorl.tasks.recall:Recall",
    "mlm": "whorl.tasks.mlm:MaskedLanguage",
}


def get(name: str) -> type[Task]:
    """The task class of a name. Raises ValueError with a suggestion when there is none."""
    return look_up("task", name, TASKS, "try language")


def of_evaluation(name: str) -> type[Task]:
    """The task whose rows stand under this name in a trial's evaluations. Raises ValueError when there is none."""
    known = {task.evaluation: task for task in map(get, TASKS)}
    if name not in known:
        raise ValueError(f"no task makes the evaluation {name!r} (known: {', '.join(known)}); a later whorl's may")
    return known[name]
