"""From names to a folder: what the command line does with an inspection."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import whorl
from whorl import finite, outputs
from whorl.attaching import attached
from whorl.checking import check_numbers
from whorl.data.corpus import digest, read_documents
from whorl.data.windows import text_windows
from whorl.hosts import open_host
from whorl.hosts.transformers.messages import without_progress_bars
from whorl.inspection import analysis, planning, stages
from whorl.inspection.keeping import Kept
from whorl.inspection.passes import Pass
from whorl.inspection.stages import Stage, asked_for, beside, check_inputs, random_tokens, silent
from whorl.locking import alone
from whorl.results.inspection import Inspection, Snapshot, UShapes
from whorl.results.plan import Plan
from whorl.sources import Source, identity, several
from whorl.watching import layers_of

log = logging.getLogger(__name__)


def run(
    models: list[str],
    *,
    text: str | None = None,
    tokenizer: str | None = None,
    length: int | None = None,
    windows: int = 8,
    train_length: int | None = None,
    random_windows: int = 16,
    ablate: bool = False,
    snapshots: bool = True,
    stream_layers: bool = False,
    layers: Sequence[int] | None = None,
    minutes: float | None = None,
    plan: str | Path | None = None,
    force: bool = False,
    seed: int = 0,
    device: str | None = None,
    out: str | Path = "runs/inspect",
    stage: Stage = silent,
    planned: Callable[[Plan, bool], None] = lambda plan, goes_on: None,
    begun: float | None = None,
) -> list[Inspection]:
    """Inspects one model, or two side by side, and writes the report; the arguments are those of the command line.

    Numbers and page are written after every stage, all of the report at the end and on Ctrl-C (or SIGTERM), so that an
    interrupted run leaves what it has, and the same command goes on after the stages that are done; with `force`, it
    begins anew. A second model's numbers go to `out/other`. plan: the folder of an earlier inspection, whose windows
    are read again. planned is told the plan, and whether it is that of a run which goes on. begun: from when on the
    minutes count, by `time.perf_counter`; None is now.

    Raises ValueError for names, texts and lengths that do not fit, before anything is measured, and for an `out` that
    holds something else than an earlier inspection, before a model is loaded.
    """
    begun = planning.clock() if begun is None else begun
    check_numbers(length=length, windows=windows, train_length=train_length, random_windows=random_windows, seed=seed,
                  minutes=minutes)  # fmt: skip
    out = Path(out)
    outputs.check_goes_on(out, by="inspect")
    again = None if plan is None else _read_plan(plan)
    sources = several(models, tokenizer=tokenizer, device=device)
    tokenizers = _tokenizers(sources)
    options = _Options(
        text, length, windows, train_length, random_windows, ablate, snapshots, stream_layers, layers,
        None if again else (minutes or 0) / len(models), again, force, seed, stage, planned,
    )  # fmt: skip
    results: list[Inspection] = []
    texts: dict[str, list[str]] = {}

    def keep(inspection: Inspection, folder: Path) -> None:
        if not results:
            remove_report(out)  # an earlier one's, which would stand beside these numbers
        inspection.save(folder)
        if any(stage.read is None for stage in _plan_of(inspection).stages):  # else the last report is next
            _report([*results, inspection], out, pictures=False)

    with ended_by_sigterm(), ExitStack() as while_measuring:
        for at, (found, tokenizer) in enumerate(zip(sources, tokenizers, strict=True)):
            folder, since = (out, begun) if at == 0 else (out / "other", planning.clock())
            one = _One(found, tokenizer, folder, options, texts, since)
            if at == 0:
                while_measuring.enter_context(alone(out, "inspect"))
                outputs.check_goes_on(out, by="inspect")  # again: another run may have come and gone
            outputs.mark(one.folder, by="inspect")
            try:
                one.measure(keep)
            except KeyboardInterrupt:
                if one.result is not None:
                    _report([*results, one.result], out)
                raise
            assert one.result is not None
            results.append(replace(one.result, summary=replace(one.result.summary, training=one.training())))
            results[-1].save(one.folder)
        if len(results) == 2:
            results[0] = beside(*results)
            results[0].save(out)
        _report(results, out)
    return results


@dataclass(frozen=True)
class _Options:
    """What all models are read with; minutes: of each, 0 or None without a limit; again: a plan that was given."""

    text: str | None
    length: int | None
    windows: int
    train_length: int | None
    random_windows: int
    ablate: bool
    snapshots: bool
    stream_layers: bool
    layers: Sequence[int] | None
    minutes: float | None
    again: Plan | None
    force: bool
    seed: int
    stage: Stage
    planned: Callable[[Plan, bool], None]


class _One:
    """One of the models: opened, its windows planned and cut; then measured, into `folder`."""

    def __init__(
        self,
        found: Source,
        tokenizer: Any,
        folder: Path,
        options: _Options,
        texts: dict[str, list[str]],
        begun: float,
    ) -> None:
        """texts: those that were read, by name; begun: from when on its minutes count.

        Raises ValueError for a text and a length that do not fit.
        """
        self.found, self.tokenizer, self.folder, self.options = found, tokenizer, folder, options
        self.result: Inspection | None = None
        with without_progress_bars():
            self.model = found.model(options.stream_layers)
        self.host = open_host(self.model)
        self.facts = layers_of(self.host)
        finite.check_weights(self.model)
        self.limit = found.length(self.model, options.train_length)
        self.text = options.text if options.text is not None else found.text or "stdlib"
        if self.text not in texts:
            texts[self.text] = read_documents(self.text)
        self.documents = texts[self.text]
        self.heldout = found.holds_out(self.text, self.documents)
        ids = None if options.length is None else self._cut(options.length, options.windows)  # or an error, before work
        self.plan = self._planned(begun)
        tokens, count = planning.windows_of(self.plan)
        self.ids = self._cut(tokens, count) if ids is None or ids.shape[1] != tokens else ids[:count]
        self.ends = begun + 60 * options.minutes if options.minutes else None

    def _cut(self, tokens: int, windows: int) -> torch.Tensor:
        """Windows of the text."""
        ids = text_windows(
            self.text, self.documents, self.tokenizer, tokens, windows, self.heldout, self.options.seed
        )  # fmt: skip
        check_inputs(ids, self.model)
        return ids

    def _planned(self, begun: float) -> Plan:
        """The plan that was given, that of a run which goes on, or one that is made now."""
        options, host, facts = self.options, self.host, self.facts
        room = host.table_rows if attached(host.model) is None else None
        asked = asked_for(
            facts, self.limit, options.windows, options.random_windows, options.length, options.ablate, options.layers,
            room,
        )  # fmt: skip
        self.kept = Kept(
            self.folder / "stages", model=identity(self.found.reads or (self.found.name,)), asked=asked,
            text=digest(self.documents), minutes=options.minutes, again=options.again, seed=options.seed,
            whorl=whorl.__version__,
        )  # fmt: skip
        before = options.again or (None if options.force else self.kept.plan())
        if before is not None:
            plan = before
        elif options.minutes:
            plan = stages.planned(host, facts, asked, True, options.minutes, begun)
        else:
            plan = planning.everything(asked)
        options.planned(plan, before is not None and options.again is None)
        return plan

    def measure(self, keep: Callable[[Inspection, Path], None]) -> None:
        """keep: told of the result after every stage, and of its folder."""
        options = self.options
        self.kept.begin(self.plan, options.force)

        def finished(inspection: Inspection) -> None:
            summary = inspection.summary
            model = replace(summary.model, name=self.found.name)
            settings = replace(summary.settings, text=self.text + (" (held out)" if self.heldout else ""))
            self.result = replace(inspection, summary=replace(summary, model=model, settings=settings))
            keep(self.result, self.folder)

        stages.read(
            self.host, self.facts, self.ids, self.limit, self.plan, kept=self.kept, seed=options.seed,
            seconds=None if self.ends is None else self.ends - planning.clock(), stage=options.stage, finished=finished,
        )  # fmt: skip

    def training(self) -> tuple[Snapshot, ...]:
        """The U-shape and the positional heads of the snapshots of a trial, in range, as many as there is time for."""
        steps = self.found.steps if self.options.snapshots else ()
        rows: list[Snapshot] = []
        if not steps:
            return ()
        with self.options.stage("training, by snapshot", len(steps)) as advance:
            for step in steps:
                if self.ends is not None and planning.clock() > self.ends:
                    log.warning("there was no time for the snapshots from step %d on (--minutes)", step)
                    break
                rows.append(self._snapshot(step))
                advance(1)
        return tuple(rows)

    def _snapshot(self, step: int) -> Snapshot:
        model, limit, seed = self.found.model(step=step), self.limit, self.options.seed
        inside = min(limit, self.ids.shape[1])
        how: dict[str, Any] = {"attention": True, "regions_over": inside, "seed": seed}
        text = Pass(model, self.ids[:, :inside], "raw", **how).run()
        random, planned = None, self.plan.stage("random")
        if planned is not None:
            random = Pass(model, random_tokens(model, planned.windows, inside, seed), "standardised", **how).run()
        shapes = [None if seen is None else analysis.u_shape(seen, limit) for seen in (text, random)]
        return Snapshot(step, UShapes(*shapes), analysis.positional_heads(text, random))


def _plan_of(inspection: Inspection) -> Plan:
    assert inspection.summary.plan is not None
    return inspection.summary.plan


def _read_plan(folder: str | Path) -> Plan:
    """What an earlier inspection read, to be read again. Raises ValueError for one without a plan."""
    found = Inspection.load(folder).summary.plan
    if found is None:
        raise ValueError(f"the inspection in {folder} was made before there were plans; give --length and --windows")
    read = tuple(replace(stage, windows=stage.windows if stage.read is None else stage.read) for stage in found.stages)
    return replace(found, stages=tuple(stage for stage in read if stage.windows), minutes=None, left_out=())


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM is what Ctrl-C is while the block runs (in a process's main thread, which alone may say so)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _tokenizers(sources: list[Source]) -> list[Any]:
    """Each model's own; a second model without one is given the first's."""
    found = [sources[0].tokenizer()]
    for other in sources[1:]:
        try:
            found.append(other.tokenizer())
        except ValueError as error:
            log.warning("%s is read with the tokenizer of %s: %s", other.name, sources[0].name, error)
            found.append(found[0])
    return found


def remove_report(out: Path) -> None:
    from whorl.reports import writing

    writing.take_away(out)
    for name in ("inspection.json", "inspection.npz"):
        (out / "other" / name).unlink(missing_ok=True)


def _report(results: list[Inspection], out: Path, pictures: bool = True) -> None:
    from whorl.reports import inspection as report

    report.write(results, out, pictures)
