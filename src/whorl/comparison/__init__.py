"""whorl compare: trains encodings side by side, same weights, batches and budget, and reports what differs.

Imported on first use: a training needs transformers, and what it is planned from does not (`planning`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whorl.extras import require

if TYPE_CHECKING:
    from whorl.comparison.comparing import compare
    from whorl.comparison.failing import TrialsFailed
    from whorl.training.trials import load_trial, snapshots_of

__all__ = ["TrialsFailed", "compare", "load_trial", "snapshots_of"]


def __getattr__(name: str) -> Any:
    if name == "compare":
        require("a comparison", "compare")
        from whorl.comparison.comparing import compare

        return compare
    if name == "TrialsFailed":
        from whorl.comparison.failing import TrialsFailed

        return TrialsFailed
    if name in __all__:
        from whorl.training import trials

        return getattr(trials, name)
    raise AttributeError(f"module 'whorl.comparison' has no attribute {name!r}")
