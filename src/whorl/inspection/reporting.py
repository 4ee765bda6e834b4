"""From names to a folder: what the command line does with an inspection."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from whorl import outputs
from whorl.checking import check_numbers
from whorl.data.corpus import read_documents
from whorl.data.windows import text_windows
from whorl.inspection import analysis
from whorl.inspection.passes import Pass
from whorl.inspection.stages import Stage, beside, inspect, random_tokens, silent
from whorl.locking import alone
from whorl.results.inspection import Inspection, Snapshot, UShapes
from whorl.sources import Source, source

log = logging.getLogger(__name__)

REACH = 4  # times the training length, unless a length is given


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
    seed: int = 0,
    out: str | Path = "runs/inspect",
    stage: Stage = silent,
) -> list[Inspection]:
    """Inspects one model, or two side by side, and writes the report; the arguments are those of the command line.

    What is finished is written after every stage, so that an interrupted run leaves it. A second model's numbers go to
    `out/other`. Raises ValueError for names, texts and lengths that do not fit, before anything is measured, and for
    an `out` that holds something else than an earlier inspection, before a model is loaded.
    """
    check_numbers(length=length, windows=windows, train_length=train_length, random_windows=random_windows, seed=seed)
    out = Path(out)
    outputs.check_goes_on(out, by="inspect")
    sources = [source(name) for name in models]
    tokenizers = _tokenizers(sources)
    results: list[Inspection] = []
    read: dict[str, list[str]] = {}  # texts, by name
    with ExitStack() as while_measuring:
        for at, (found, tokenizer) in enumerate(zip(sources, tokenizers, strict=True)):
            folder = out if at == 0 else out / "other"
            model = found.model(stream_layers)
            limit = train_length or found.train_length or found.extended_from or _declared(model)
            tokens = length or REACH * limit
            from_text = text or found.text or "stdlib"
            if from_text not in read:
                read[from_text] = read_documents(from_text)
            heldout = found.holds_out(from_text, read[from_text])
            ids = text_windows(from_text, read[from_text], tokenizer, tokens, windows, heldout, seed)
            if at == 0:
                while_measuring.enter_context(alone(out, "inspect"))
                outputs.check_goes_on(out, by="inspect")  # again: another run may have come and gone

            def keep(inspection: Inspection, folder: Path = folder) -> None:
                if not results:
                    _remove_report(out)  # an earlier one's, which would stand beside these numbers
                outputs.mark(folder, by="inspect")
                inspection.save(folder)

            inspection = inspect(
                model, ids, train_length=limit, random_windows=random_windows, ablate=ablate, seed=seed, stage=stage,
                finished=keep,
            )  # fmt: skip
            told = from_text + (" (held out)" if heldout else "")
            steps = found.steps if snapshots else ()
            summary = replace(
                inspection.summary,
                model=replace(inspection.summary.model, name=found.name),
                settings=replace(inspection.summary.settings, text=told),
                training=_training(found, steps, ids[:, :limit], random_windows, limit, seed, stage),
            )
            results.append(replace(inspection, summary=summary))
            results[-1].save(folder)
        if len(results) == 2:
            results[0] = beside(*results)
            results[0].save(out)
        _report(results, out)
    return results


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
