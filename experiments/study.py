"""Runs a study of `studies.py`, or goes on with it: `python experiments/study.py NAME [--list]`.

    experiments/trials/ID/result.json   every finished trial, of all studies, without its weights: to be committed
    experiments/FOLDER/PART/            results.json and the report of each comparison: to be committed
    experiments/FOLDER/ranking.md       who is ahead over all parts, of a study that ranks (`ranking.py`)
    runs/NAME/PART/                     where trials run, and go on when they were killed

A trial that is finished anywhere, by any study or comparison with equal settings, is taken over and not run again: from
experiments/trials, from a comparison in runs/, or from a results.json in experiments/. All of the first seed comes
first. What is finished is copied when its comparison ends or is interrupted, and with --gather at any time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import mean

import ranking
from studies import PRECISION, STUDIES, Part, Study

import whorl
from whorl import outputs
from whorl.comparison import TrialsFailed
from whorl.comparison.fitting import asked_for
from whorl.comparison.planning import Planned, plan_trials, written
from whorl.files import write_atomically
from whorl.results.comparison import Comparison
from whorl.results.trial import FinishedTrial, Trial
from whorl.tasks.base import Task
from whorl.training.settings import Settings
from whorl.training.trials import read_result

HERE = Path(__file__).parent
UP = ("*/", "*/*/")  # a comparison lies in a folder of its own, or in a study's
REPORT = ("results.json", "report.md", "report.html", "figures")


@dataclass(frozen=True)
class Places:
    """The folders that studies read and write: `experiments` is committed, `runs` is not."""

    experiments: Path
    runs: Path

    @property
    def pool(self) -> Path:
        return self.experiments / "trials"

    @cached_property
    def finished(self) -> dict[str, FinishedTrial]:
        """Every finished trial by id. Of two with one id, that which has the values of its windows, or is committed."""
        found: dict[str, FinishedTrial] = {}
        for pattern, folder in (("*/result.json", self.pool), *((f"{up}trials/*/result.json", self.runs) for up in UP)):
            for path in sorted(folder.glob(pattern)):
                try:
                    trial = read_result(path)
                except ValueError as error:
                    print(f"not taken over: {error}", file=sys.stderr)
                    continue
                if trial.id not in found or whole(trial) > whole(found[trial.id]):
                    found[trial.id] = trial
        return found

    @cached_property
    def reported(self) -> dict[str, tuple[Comparison, Trial]]:
        """The trials of committed comparisons by id: these do not say all that a trial's own file does."""
        found: dict[str, tuple[Comparison, Trial]] = {}
        for path in sorted(path for up in UP for path in self.experiments.glob(f"{up}results.json")):
            try:
                comparison = Comparison.read(path)
            except ValueError:  # results of another kind
                continue
            found |= {trial.id: (comparison, trial) for trial in comparison.trials}
        return found


def whole(trial: Trial) -> bool:
    """Whether it has the values of its windows, by which differences are paired; earlier versions kept none."""
    return any(row.samples for rows in trial.evaluations.values() for row in rows)


@dataclass(frozen=True)
class Job:
    """A part of a study, at the seeds that are asked for now."""

    study: Study
    name: str
    seeds: Sequence[int]
    places: Places

    @property
    def part(self) -> Part:
        return self.study.parts[self.name]

    @property
    def out(self) -> Path:
        """Where it runs. A study is known by its folder, without the number."""
        return self.places.runs / self.study.folder.partition("-")[2] / self.name

    @property
    def kept(self) -> Path:
        """What is committed of it."""
        return self.places.experiments / self.study.folder / self.name

    @cached_property
    def settings(self) -> Settings:
        return Settings(**PRECISION | self.part.settings).resolve()

    def trials(self, data: str, seeds: Sequence[int] | None = None) -> list[Planned]:
        """Its trials on the data of this fingerprint; at other seeds than are asked for now, where they are given."""
        encodings, seeds = self.part.encodings, seeds or self.seeds
        asked, tested, _ = asked_for(encodings, seeds, self.settings)
        return plan_trials(asked, seeds, self.settings, data, [*map(written, encodings)], tested=tested)

    @cached_property
    def data(self) -> str | None:
        """The fingerprint of the data that finished trials of these settings had; None where there are none."""
        same = (t.data for t in self.places.finished.values() if t.settings == self.settings.to_dict())
        return next((data for data, _ in Counter(same).most_common(1)), None)

    def missing(self) -> list[tuple[str, int]]:
        """The encodings and seeds of which no result is known; all where no data are."""
        if self.data is None:
            return [(encoding, seed) for seed in self.seeds for encoding in self.part.encodings]
        known = self.places.finished.keys() | self.places.reported.keys()
        return [(trial.label, trial.seed) for trial in self.trials(self.data) if trial.id not in known]

    def is_reported(self) -> bool:
        """Whether the committed report has all of its trials."""
        return self.data is not None and {trial.id for trial in self.trials(self.data)} <= ids_in(self.kept)

    def run(self, jobs: int, only: str | None = None) -> bool:
        """Takes over what is finished elsewhere, runs the rest and writes the report; whether no trial failed.

        only: "report" runs nothing. Raises ValueError where the finished trials had other data than can be made here.
        """
        task = self.settings.make_task()
        data = task.fingerprint()
        if self.data not in (None, data):
            raise ValueError(
                f"the finished trials of {self.study.folder} ({self.name}) are of other data than can be made here: "
                "their text (the library of the Python that ran them), the fonts that images are drawn in, whorl or "
                f"tokenizers differ. What they came to is in {self.kept}; run what is missing where those were run"
            )
        self.take_over(task, data)
        settings = PRECISION | self.part.settings
        try:
            whorl.compare(self.part.encodings, seeds=self.seeds, out=self.out, jobs=jobs, only=only, **settings)
        except TrialsFailed as failed:
            print(failed, file=sys.stderr)
            return False
        finally:
            self.gather()
        return True

    def take_over(self, task: Task, data: str) -> None:
        """Puts the results of finished trials where the comparison finds them, those of later seeds too."""
        for trial in self.trials(data, sorted({*self.study.seeds, *self.seeds})):
            found = self.places.finished.get(trial.id)
            if found is None and trial.id in self.places.reported:
                found = completed(*self.places.reported[trial.id], trial, task, data)
            place = self.out / "trials" / trial.id / "result.json"
            if found is not None and not place.exists():
                outputs.mark(self.out, by="compare")
                place.parent.mkdir(parents=True, exist_ok=True)
                found.write(place)

    def gather(self) -> None:
        """Copies what has come of it so far to where it is committed."""
        for path in sorted((self.out / "trials").glob("*/result.json")):
            kept = self.places.pool / path.parent.name / "result.json"
            if not kept.exists() or whole(read_result(path)) > whole(read_result(kept)):
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(kept, path.read_text())
        if not (self.out / "results.json").exists():
            return
        if lost := ids_in(self.kept) - ids_in(self.out):
            words = f"{self.kept} stays as it is: it has {len(lost)} trials that {self.out} has not"
            print(f"{words}; delete it to replace it", file=sys.stderr)
            return
        copied = self.kept.with_name(f".{self.name}.tmp")  # whole before what is there goes
        shutil.rmtree(copied, ignore_errors=True)
        copied.mkdir(parents=True)
        for name in REPORT:
            if (self.out / name).is_dir():
                shutil.copytree(self.out / name, copied / name)
            elif (self.out / name).exists():
                shutil.copy2(self.out / name, copied / name)
        shutil.rmtree(self.kept, ignore_errors=True)
        copied.rename(self.kept)


def ids_in(folder: Path) -> set[str]:
    """The trials that the results.json of a folder has; none where there is no such file."""
    path = folder / "results.json"
    return {trial.id for trial in Comparison.read(path).trials} if path.exists() else set()


def completed(comparison: Comparison, trial: Trial, planned: Planned, task: Task, data: str) -> FinishedTrial:
    """A trial's own file from the comparison that has it. Equal ids say that encoding, seed, settings and data are."""
    return FinishedTrial(
        **{own.name: getattr(trial, own.name) for own in fields(Trial)},
        config=planned.encoding.to_dict(),
        tested=None if planned.tested is None else planned.tested.to_dict(),
        settings=planned.settings.to_dict(),
        data=data,
        text=task.text(),
        vocab_size=task.vocab_size,
        eos_token_id=task.eos_token_id,
        machine=comparison.machine,
        versions=comparison.versions,
    )


def jobs_of(study: Study, seeds: Sequence[int], places: Places, part: str | None = None) -> list[Job]:
    """All parts at the first seed, then at the first two, and so on; each goes on with what those before it have."""
    names = [name for name in study.parts if part in (None, name)]
    return [Job(study, name, seeds[: last + 1], places) for last in range(len(seeds)) for name in names]


def run(
    study: Study, seeds: Sequence[int], places: Places, part: str | None = None, jobs: int = 1, only: str | None = None
) -> bool:
    """Runs what is missing of a study, or of one part; whether no trial failed."""
    well = True
    for planned in jobs_of(study, seeds, places, part):
        job = replace(planned, places=replace(places))  # which looks anew at what is finished
        missing = job.missing()
        if only == "report" and len(missing) == len(job.seeds) * len(job.part.encodings):
            continue  # there is nothing to report
        if missing or not job.is_reported():
            well = job.run(jobs, only) and well
    rank(study, places)
    return well


def rank(study: Study, places: Places) -> None:
    """Writes the ranking over all parts, of a study that has one and results to rank."""
    folder = places.experiments / study.folder
    kept = {name: folder / name / "results.json" for name in study.parts}
    comparisons = {name: Comparison.read(path) for name, path in kept.items() if path.exists()}
    if study.beside is not None and comparisons:
        write_atomically(folder / "ranking.md", ranking.report(comparisons, tuple(study.parts), study.beside))


def listing(study: Study, seeds: Sequence[int], places: Places, part: str | None = None) -> str:
    """What is finished of each part, what is missing, and how long that may take."""
    lines = [study.question]
    for name in (name for name in study.parts if part in (None, name)):
        job = Job(study, name, seeds, places)
        missing, count = job.missing(), len(seeds) * len(job.part.encodings)
        took = [t.train.seconds for t in places.finished.values() if t.settings == job.settings.to_dict()]
        hours = f", some {len(missing) * mean(took) / 3600:.1f} h of training, one by one" if took and missing else ""
        lines.append(f"{name}: {count - len(missing)} of {count} trials are finished{hours}")
        for seed in seeds:
            lost = [encoding for encoding, of in missing if of == seed]
            lines += [f"  missing with seed {seed}: {' '.join(lost)}"] if lost else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument("--list", action="store_true", help="say what is finished and what is missing; run nothing")
    parser.add_argument("--gather", action="store_true", help="copy and report what is finished anywhere; run nothing")
    parser.add_argument("--seeds", help="0,1: these alone, and not all of the study's")
    parser.add_argument("--part", help="this comparison of the study alone")
    parser.add_argument("--jobs", type=int, default=1, help="trials side by side")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs", help="where trials run")
    options = parser.parse_args()
    study = STUDIES[options.name]
    if options.part not in (None, *study.parts):
        parser.error(f"{options.name} has no part {options.part!r}; it has {', '.join(study.parts)}")
    seeds = study.seeds if options.seeds is None else tuple(int(seed) for seed in options.seeds.split(","))
    places, well = Places(HERE, options.runs), True
    if not options.list:
        only = "report" if options.gather else None
        try:
            well = run(study, seeds, places, options.part, options.jobs, only)
        except ValueError as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command goes on where this one stopped")
    print(listing(study, seeds, places, options.part))
    sys.exit(not well)


if __name__ == "__main__":
    main()
