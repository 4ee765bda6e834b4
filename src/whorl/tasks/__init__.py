"""What the encodings of a comparison are trained and tested on. A new task adds one file and one line here."""

from __future__ import annotations

import difflib
import importlib

from whorl.tasks.base import Task, TaskSettings

TASKS = {
    "language": "whorl.tasks.language:Language",
    "copy": "whorl.tasks.copy:Copy",
    "recall": "whorl.tasks.recall:Recall",
}

__all__ = ["TASKS", "Task", "TaskSettings", "get"]


def get(name: str) -> type[Task]:
    """The task class of a name. Raises ValueError with a suggestion when there is none."""
    if not isinstance(name, str) or name not in TASKS:
        close = difflib.get_close_matches(str(name).lower(), TASKS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else "try language"
        raise ValueError(f"unknown task {name!r}; {hint} (known: {', '.join(TASKS)})")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
