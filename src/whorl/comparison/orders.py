"""A trial as it is handed to another process, and what that process says when it is over.

While the trial runs, its process notes how far it is in DIR/trials/ID/progress.json, which goes at the end.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from whorl.comparison.display import Reached, Silent
from whorl.comparison.planning import Planned
from whorl.comparison.running import PACKAGES, Runner, fingerprint, in_one_line
from whorl.encodings import from_dict
from whorl.files import disk_full, read_json, write_json
from whorl.hosts.transformers.messages import without_progress_bars
from whorl.locking import Busy
from whorl.provenance import versions
from whorl.results.trial import ModelFiles
from whorl.tasks.base import Task
from whorl.training.models import model_files
from whorl.training.settings import Settings

PROGRESS = "progress.json"
EVERY = 1.0  # seconds between two notes


@dataclass(frozen=True)
class Ended:
    """How a trial ended in another process.

    how    finished; failed (it has written down why); busy: yet another process is at it; full: the disk is; broken:
           something else than the trial itself failed, which nobody has written down
    words  the error in one line, with its traceback; empty for finished and failed
    """

    how: str
    words: str = ""
    trace: str | None = None


@dataclass(frozen=True)
class Order:
    """All that a process needs to run a trial, in JSON's own types."""

    folder: str
    settings: dict[str, Any]
    data: str  # the fingerprint
    snapshots: int
    encoding: dict[str, Any]
    seed: int
    id: str
    label: str
    versions: dict[str, str]
    tested: dict[str, Any] | None = None
    alike: str | None = None

    @classmethod
    def of(cls, runner: Runner, trial: Planned) -> Order:
        return cls(
            str(runner.folder.absolute()),
            trial.settings.to_dict(),
            runner.data,
            runner.snapshots,
            trial.encoding.to_dict(),
            trial.seed,
            trial.id,
            trial.label,
            _versions(),
            None if trial.tested is None else trial.tested.to_dict(),
            trial.alike,
        )

    @property
    def progress(self) -> Path:
        return Path(self.folder, "trials", self.id, PROGRESS)

    def reached(self) -> Reached | None:
        """How far the trial is; None where nothing is known of it, or not any more."""
        try:
            return Reached(**read_json(self.progress))
        except (OSError, ValueError, TypeError):
            return None

    def carry_out(self) -> Ended:
        """Runs the trial in this process. No exception leaves it."""
        try:
            with without_progress_bars():
                return self._run()
        except Busy as error:
            return Ended("busy", str(error))
        except Exception as error:
            how = "full" if disk_full(error) else "broken"
            return Ended(how, in_one_line(error), "".join(traceback.format_exception(error)))
        finally:
            self.progress.unlink(missing_ok=True)

    def _run(self) -> Ended:
        if not Path(self.folder, "config.json").exists():
            raise ValueError(
                f"there is no {self.folder}/config.json where this trial was to be run; the results folder must be on "
                "a file system that all machines share"
            )
        if (here := _versions()) != self.versions:
            differ = (f"{k} {v}, not {self.versions.get(k)}" for k, v in here.items() if v != self.versions.get(k))
            raise ValueError(f"this trial was to be run with other versions: {', '.join(differ)}; install the same")
        settings = Settings.from_dict(self.settings)
        task, files, found = _task(replace(settings, learning_rate=None))  # of which data know nothing
        if found != self.data:
            raise ValueError(
                "the data made here are not those of the comparison: its text, its model, or the version of whorl, "
                "tokenizers or Python (of whose library --text stdlib is), is another where this trial was to be run"
            )
        runner = Runner(Path(self.folder), task, self.data, self.snapshots, files)
        tested = None if self.tested is None else from_dict(self.tested)
        trial = Planned(from_dict(self.encoding), self.seed, self.id, self.label, settings, tested, self.alike)
        runner.run(trial, _Noting(self.progress))
        return Ended("finished" if runner.result(trial) is not None else "failed")


def _versions() -> dict[str, str]:
    """Those that the trials of one comparison share. (A checkout's commit may change while it runs.)"""
    return {name: version for name, version in versions(*PACKAGES).items() if name != "commit"}


@lru_cache(maxsize=1)  # of a process that runs one trial after another
def _task(settings: Settings) -> tuple[Task, ModelFiles | None, str]:
    task, files = settings.make_task(), model_files(settings)
    return task, files, fingerprint(task, files)


class _Noting(Silent):
    """Notes in a file how far a trial is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.noted = float("-inf")

    def _note(self, reached: Reached) -> None:
        now = time.monotonic()
        if reached.done in (0, reached.of) or now - self.noted >= EVERY:
            self.noted = now
            write_json(self.path, asdict(reached))

    @contextmanager
    def training(self, trial: str, steps: int) -> Iterator[Callable[[int, float | None], None]]:
        yield lambda step, loss: self._note(Reached("training", step, steps, loss))

    @contextmanager
    def evaluating(self, trial: str, lengths: int) -> Iterator[Callable[[int, int], None]]:
        self._note(Reached("evaluating", 0, lengths))
        yield lambda done, length: self._note(Reached("evaluating", done, lengths))
