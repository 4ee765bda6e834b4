"""Long work as a person sees it, stage by stage: bars on a terminal, lines in a file."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from rich.console import Console

from whorl.reports.formatting import duration
from whorl.stages import Lines, Worked


class Stages:
    """Bars with the time left on a terminal; elsewhere lines: of the first step, every tenth part, and once a minute.

    A context, in which `stage` gives what is told of the steps that are done: of none first, or else of each one, which
    begins after an interruption with a later one. The time left goes by the steps since, without pauses.
    """

    def __init__(self, terminal: Console) -> None:
        self.terminal = terminal
        self.bars: Any = None

    def __enter__(self) -> Stages:
        if self.terminal.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self.bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}", markup=False),
                console=self.terminal,
            )
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def stage(self, name: str) -> Callable[[int, int], None]:
        """What is told of the steps that are done, and of how many."""
        start = monotonic()
        lines, worked, bar = Lines(), None, None

        def update(done: int, of: int) -> None:
            nonlocal worked, bar
            now = monotonic()
            if worked is None:
                worked = Worked(start, max(0, done - 1))
            worked.at(now, done)
            rate = worked.per_step
            left = f"about {duration(rate * (of - done))} left" if rate is not None and done < of else ""
            if self.bars is not None:
                bar = self.bars.add_task(name, total=of, left=left) if bar is None else bar
                self.bars.update(bar, completed=done, left=left)
                return
            if rate is not None and lines.due(done, of, now):
                words = [f"{name}: {done:,} of {of:,}", duration(now - start), left]
                self.terminal.print(", ".join(word for word in words if word))

        return update
