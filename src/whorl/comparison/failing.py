"""What a comparison raises, at its end, when trials have failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whorl.results.comparison import Comparison
from whorl.results.failure import Failure


class TrialsFailed(RuntimeError):
    """Trials of a comparison failed; the others were run, and everything is written.

    failures  those that failed, of the ones that were asked for
    results   the comparison, without them
    """

    def __init__(self, failures: Sequence[Failure], asked: int, results: Comparison, folder: Path) -> None:
        told = "".join(f"\n  {f.id}: {f.error}{_where(folder, f)}" for f in failures)
        again = "the same command runs them again, and nothing that is finished"
        super().__init__(f"{len(failures)} of {asked} trials failed; {again}{told}")
        self.failures = tuple(failures)
        self.results = results


def _where(folder: Path, failure: Failure) -> str:
    return "" if failure.traceback is None else f" ({folder / failure.traceback})"
