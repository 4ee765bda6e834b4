"""Every task, and every form of those that take arguments: what the contract runs over."""

from __future__ import annotations

from typing import Any

from whorl.tasks import TASKS, parse
from whorl.tasks.base import Task, TaskSettings

STEPS = ["scratchpad=full", "scratchpad=comp@out"]
FORMS = {
    "copy-items": [f"variant={variant}" for variant in ("cmc2x", "rsc", "rsc2x", "rdc")],
    "mqar": ["pairs=3,grows=load", "alpha=0.01"],
    "decoy": ["decoys=3"],
    "niah-tiny": ["needles=3"],
    "following": ["items=3,shots=2"],
    "segment-copy": ["segment=8,cue=1"],
    "fixed-offset": ["back=1"],
    "flip-flop": ["ignore=0.5"],
    "reverse": ["variant=mc2x", "variant=mcrv"],
    "addition": STEPS,
    "sum": STEPS,
    "parity": STEPS,
    "sort": [*STEPS, "variant=multi", "scratchpad=full,variant=multi"],
    "poly": STEPS,
    "lego": STEPS,
    "scan": ["split=len"],
    "pcfg": ["most=9"],
}
SEQUENCES = [name for name in TASKS if name not in ("points", "images")]  # of tokens; these have tests of their own
NOTATIONS = [*SEQUENCES, *(f"{name}:{form}" for name, forms in FORMS.items() for form in forms)]
GENERATED = [notation for notation in NOTATIONS if "text" not in parse(notation)[0].options]
COMMONEST = {
    "copy-items": 0.01,
    "poly": 0.13,
}  # the share of the commonest answer, where that is above chance: one of 100 items


def build(notation: str, text: str = "", **changes: Any) -> Any:
    """The task at its default lengths (64 and 96 for tokens), with few windows. text: for tasks that read one."""
    task, arguments = parse(notation)
    settings: dict[str, Any] = {"windows": 5, "tail": 8, "vocab_size": 280, "arguments": arguments}
    settings |= dict(zip(("train_length", "lengths"), lengths(task, arguments), strict=True))
    settings |= {"text": text} if "text" in task.options else {}
    return task(TaskSettings(**settings | changes))


def lengths(task: type[Task], arguments: dict[str, Any]) -> tuple[int, tuple[int, int]]:
    """The training length, and that and a longer one to evaluate at."""
    if task.unit == "tokens":
        return 64, (64, 96)
    trained = task.default_length(arguments)
    known = [int(length) for length in task.default_lengths(arguments, trained)]
    return trained, (max(n for n in known if n <= trained), known[-1])
