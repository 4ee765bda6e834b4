"""whorl evaluate: what a checkpoint does in and past the length that it was trained at, by probes that train nothing.

probes.py       the probes by name
base.py         what a probe is, and the text that all of them read
loss.py, segment_copy.py, decoy.py, niah.py   one probe each, defined exactly in its docstring
opening.py      the model, with its own encoding or another
evaluating.py   from a name to a folder: probe by probe, length by length
lm_eval/        the same models in the lm-evaluation-harness
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.evaluation.evaluating import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        from whorl.evaluation.evaluating import evaluate

        return evaluate
    raise AttributeError(f"module 'whorl.evaluation' has no attribute {name!r}")
