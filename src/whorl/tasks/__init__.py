"""What the encodings of a comparison are trained and tested on. A new task adds one file and one line here."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whorl.tasks.base import Task

TASKS = {
    "language": "whorl.tasks.language:Language",
    "copy": "whorl.tasks.copy:Copy",
    "recall": "whorl.tasks.recall:Recall",
}


def get(name: str) -> type[Task]:
    """The task class of a name. Raises ValueError with a suggestion when there is none."""
    if not isinstance(name, str) or name not in TASKS:
        close = difflib.get_close_matches(str(name).lower(), TASKS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else "try language"
        raise ValueError(f"unknown task {name!r}; {hint} (known: {', '.join(TASKS)})")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def of_evaluation(name: str) -> type[Task]:
    """The task whose rows stand under this name in a trial's evaluations. Raises ValueError when there is none."""
    known = {task.evaluation: task for task in map(get, TASKS)}
    if name not in known:
        raise ValueError(f"no task makes the evaluation {name!r} (known: {', '.join(known)}); a later whorl's may")
    return known[name]
