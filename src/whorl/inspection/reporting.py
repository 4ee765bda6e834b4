"""From names to a folder: what the command line does with an inspection."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import whorl
from whorl import outputs
from whorl.attaching import attached
from whorl.checking import check_numbers
from whorl.data.corpus import digest, read_documents
from whorl.data.windows import text_windows
from whorl.hosts import open_host
from whorl.hosts.transformers.messages import without_progress_bars
from whorl.inspection import analysis, planning, stages
from whorl.inspection.keeping import Kept, identity
from whorl.inspection.passes import Pass
from whorl.inspection.stages import Stage, asked_for, beside, check_inputs, inspect, random_tokens, silent
from whorl.locking import alone
from whorl.results.inspection import Inspection, Plan, Snapshot, UShapes
from whorl.sources import Source, source
from whorl.watching import layers_of

log = logging.getLogger(__name__)


def run(
    models: list[str],
    *,
    text: str | None = None,
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
    out: str | Path = "runs/inspect",
    stage: Stage = silent,
    planned: Callable[[Plan, bool], None] = lambda plan, goes_on: None,
) -> list[Inspection]:
    """Inspects one model, or two side by side, and writes the report; the arguments are those of the command line.

    Numbers and report are written after every stage and on Ctrl-C (or SIGTERM), so that an interrupted run leaves what
    it has, and the same command goes on after the stages that are done; with `force`, it begins anew. A second model's
    numbers go to `out/other`. plan: the folder of an earlier inspection, whose windows are read again. planned is told
    the plan, and whether it is that of a run which goes on.

    Raises ValueError for names, texts and lengths that do not fit, before anything is measured, and for an `out` that
    holds something else than an earlier inspection, before a model is loaded.
    """
    check_numbers(length=length, windows=windows, train_length=train_length, random_windows=random_windows, seed=seed,
                  minutes=minutes)  # fmt: skip
    out = Path(out)
    outputs.check_goes_on(out, by="inspect")
    again = None if plan is None else _read_plan(plan)
    sources = [source(name) for name in models]
    tokenizers = _tokenizers(sources)
    results: list[Inspection] = []
    read: dict[str, list[str]] = {}  # texts, by name
    budget = None if not minutes or again else minutes / len(models)
    with ExitStack() as while_measuring:
        while_measuring.enter_context(_ended_by_sigterm())
        for at, (found, tokenizer) in enumerate(zip(sources, tokenizers, strict=True)):
            begun = planning.clock()
            folder = out if at == 0 else out / "other"
            with without_progress_bars():
                model = found.model(stream_layers)
            limit = train_length or found.train_length or found.extended_from or _declared(model)
            from_text = text or found.text or "stdlib"
            if from_text not in read:
                read[from_text] = read_documents(from_text)
            heldout = found.holds_out(from_text, read[from_text])

            host = open_host(model)

            def cut(
                tokens: int, windows: int, text: str = from_text, tokenizer: Any = tokenizer, heldout: bool = heldout,
                model: Any = host.model,
            ) -> torch.Tensor:  # fmt: skip
                ids = text_windows(text, read[text], tokenizer, tokens, windows, heldout, seed)
                check_inputs(ids, model)
                return ids

            facts = layers_of(host)
            ids = None if length is None else cut(length, windows)  # or an error, before anything is measured
            room = host.table_rows if attached(host.model) is None else None
            asked = asked_for(facts, limit, windows, random_windows, length, ablate, layers, room)
            kept = Kept(
                folder / "stages", model=identity(found.reads or (found.name,)), text=digest(read[from_text]),
                asked=asked, minutes=minutes, again=again, seed=seed, whorl=whorl.__version__,
            )  # fmt: skip
            before = again or (None if force else kept.plan())
            if before is not None:
                chosen = before
            elif budget:
                chosen = stages.planned(host, facts, asked, True, budget, begun)
            else:
                chosen = planning.everything(asked)
            planned(chosen, before is not None and again is None)
            tokens, count = planning.windows_of(chosen)
            ids = cut(tokens, count) if ids is None or ids.shape[1] != tokens else ids[:count]
            if at == 0:
                while_measuring.enter_context(alone(out, "inspect"))
                outputs.check_goes_on(out, by="inspect")  # again: another run may have come and gone
            outputs.mark(folder, by="inspect")
            kept.begin(chosen, force)
            told = from_text + (" (held out)" if heldout else "")

            def named(inspection: Inspection, name: str = found.name, text: str = told) -> Inspection:
                summary = inspection.summary
                model, settings = replace(summary.model, name=name), replace(summary.settings, text=text)
                return replace(inspection, summary=replace(summary, model=model, settings=settings))

            def keep(inspection: Inspection, folder: Path = folder, named: Any = named) -> None:
                if not results:
                    _remove_report(out)  # an earlier one's, which would stand beside these numbers
                named(inspection).save(folder)
                _report([*results, named(inspection)], out)

            left = None if budget is None else max(1e-9, budget - (planning.clock() - begun) / 60)
            inspection = inspect(
                model, ids, train_length=limit, minutes=left, plan=chosen, kept=kept, seed=seed, stage=stage,
                finished=keep,
            )  # fmt: skip
            inspection = named(inspection)
            steps = found.steps if snapshots else ()
            training = _training(found, steps, ids[:, :limit], random_windows, limit, seed, stage)
            results.append(replace(inspection, summary=replace(inspection.summary, training=training)))
            results[-1].save(folder)
        if len(results) == 2:
            results[0] = beside(*results)
            results[0].save(out)
        _report(results, out)
    return results


def _read_plan(folder: str | Path) -> Plan:
    """What an earlier inspection read, to be read again. Raises ValueError for one without a plan."""
    found = Inspection.load(folder).summary.plan
    if found is None:
        raise ValueError(f"the inspection in {folder} was made before there were plans; give --length and --windows")
    read = tuple(replace(stage, windows=stage.windows if stage.read is None else stage.read) for stage in found.stages)
    return replace(found, stages=tuple(stage for stage in read if stage.windows), minutes=None, left_out=())


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
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


def _remove_report(out: Path) -> None:
    for name in ("report.html", "report.md", "other/inspection.json", "other/inspection.npz"):
        (out / name).unlink(missing_ok=True)


def _declared(model: Any) -> int:
    """The length that the config says the model has, where it was trained at all of it."""
    declared = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if declared is None:
        raise ValueError("this model does not say its training length; give --train-length")
    return int(declared)


def _training(
    found: Source, steps: Sequence[int], ids: Any, random_windows: int, limit: int, seed: int, stage: Stage
) -> tuple[Snapshot, ...]:
    """The U-shape and the positional heads of the snapshots of a trial, in range."""
    if not steps:
        return ()
    rows = []
    with stage("training, by snapshot", len(steps)) as advance:
        for step in steps:
            model = found.model(step=step)
            text = Pass(model, ids, "raw", attention=True, regions_over=limit, seed=seed).run()
            random = None
            if random_windows:
                drawn = random_tokens(model, random_windows, limit, seed)
                random = Pass(model, drawn, "standardised", attention=True, regions_over=limit, seed=seed).run()
            shapes = [None if seen is None else analysis.u_shape(seen, limit) for seen in (text, random)]
            rows.append(Snapshot(step, UShapes(*shapes), analysis.positional_heads(text, random)))
            advance(1)
    return tuple(rows)


def _report(results: list[Inspection], out: Path) -> None:
    from whorl.reports import inspection as report

    report.write(results, out)
