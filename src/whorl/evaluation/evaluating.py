"""From a model's name to a folder: probe by probe, the shorter lengths first, each kept as soon as it is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import whorl
from whorl import outputs
from whorl.attaching.reading import positions_of
from whorl.checking import check_ids, check_lengths, check_list, check_numbers, check_path
from whorl.data.corpus import SOURCES, check_path_of_text, digest, read_documents
from whorl.data.tokens import ids_of
from whorl.data.windows import text_windows
from whorl.encodings import Encoding, parse
from whorl.evaluation.base import Material, Measured, Probe
from whorl.evaluation.opening import opened
from whorl.evaluation.probes import PROBES, check_names, get
from whorl.extras import require
from whorl.hosts import OpenHost, tokens_of
from whorl.hosts.transformers.messages import without_progress_bars
from whorl.locking import alone
from whorl.provenance import machine, versions
from whorl.results.evaluation import Asked, Evaluation
from whorl.results.schema import parsed
from whorl.results.trial import Machine, Row
from whorl.sources import Source, identity, source
from whorl.stages import Stage, counted, silent

RESULTS = "results.json"
BEGINS = 10_000  # characters of a text whose tokens tell one tokenizer from another
LENGTHS = ("0.25x", "0.5x", "1x", "2x")
Say = Callable[[str], None]


@without_progress_bars()
def evaluate(
    name: str | Path,
    *,
    encoding: str | Encoding | None = None,
    probes: Sequence[str] = tuple(PROBES),
    lengths: Sequence[str | int] = LENGTHS,
    train_length: int | None = None,
    text: str | Path | None = None,
    tokenizer: str | None = None,
    windows: int = 8,
    sequences: int = 16,
    tail: int = 64,
    seed: int = 0,
    device: str | None = None,
    out: str | Path = "runs/evaluate",
    force: bool = False,
    stage: Stage = silent,
    say: Say = lambda line: None,
) -> Evaluation:
    """Asks a checkpoint, by name, what it does in and past the length that it was trained at. Nothing is trained.

    encoding      one to attach in the place of the model's own, which is filled from its config
    probes        of `whorl.evaluation.probes`; each is defined in its file
    lengths       in tokens, or as multiples of the training length ("2x")
    train_length  None takes the trial's or the config's
    text          None takes the text that a trial was trained on (of which what it was not trained on is read), or the
                  standard library; `windows` of it are as long as the longest length
    tokenizer     None takes the model's own; else a folder, a GGUF file or a hub name
    sequences     of each probe that writes its own
    tail          target tokens at the end of a window
    device        as PyTorch names it; None takes the GPU, where there is one with room for the model
    out           the folder of results.json and the report, which have each part as soon as it is there: the same
                  command goes on after those. `force` begins anew
    stage, say    told of what begins and how much of it is done, and of what the numbers follow from

    Raises ValueError for what does not fit, and for a folder that holds the results of something else.
    """
    require("an evaluation", "reports")
    check_numbers(train_length=train_length, windows=windows, sequences=sequences, tail=tail, seed=seed)
    name = check_path("the model", name, "a directory, a .gguf file, a hub name or a trial's folder")
    out = Path(check_path("out", out, "the path of a folder"))
    names = check_names(probes)
    lengths = check_list("lengths", lengths, '["1x", "2x"]')
    wanted = None if encoding is None else parse(encoding)
    if text is not None:
        check_path_of_text(text := check_path("text", text, SOURCES))
    outputs.check_goes_on(out, by="evaluate")
    found = source(name, tokenizer=tokenizer, device=device)
    reader = found.tokenizer()
    subject = opened(found, wanted, train_length)
    limit = subject.train_length
    if subject.filled:
        say(subject.filled)
    chosen = text or found.text or "stdlib"
    documents = read_documents(chosen)
    reached = check_lengths(lengths, limit)
    if not reached:
        raise ValueError(f"no length was asked for; try {','.join(LENGTHS)}")
    asked = Asked(
        encoding=None if wanted is None else str(wanted), text=chosen, train_length=limit, lengths=reached,
        windows=windows, sequences=sequences, tail=tail, seed=seed, material=_digest(found, documents, reader),
    )  # fmt: skip
    heldout = found.holds_out(chosen, documents)
    ids = text_windows(chosen, documents, reader, max(reached), windows, heldout, seed)
    check_ids("the windows of the text", ids, tokens_of(subject.host.model))
    material = Material(reader, ids, sequences, tail, seed)
    asking = {one: get(one)(material) for one in names}
    result = Evaluation(
        whorl=whorl.__version__,
        created="",
        model=found.name,
        parameters=sum(p.numel() for p in subject.host.model.parameters()),
        encoding=subject.encoding,
        trained_with=subject.trained_with,
        train_length_from="given" if train_length else f"{found.tells_length} says",
        asked=asked,
        heldout=heldout,
        vocab_size=subject.host.model.config.get_text_config().vocab_size,
        machine=parsed(Machine, machine(subject.host.model.device)),
        versions=versions("torch", "transformers"),
        probes=tuple(names),
        probe_versions={one: probe.version for one, probe in asking.items()},
    )
    with alone(out, "evaluate"):
        outputs.check_goes_on(out, by="evaluate")  # again: another run may have come and gone
        if not force:
            result = _with_earlier(result, out / RESULTS, say)
        outputs.mark(out, by="evaluate")
        return _measured(result, asking, subject.host, out, stage)


def _measured(result: Evaluation, asking: dict[str, Probe], host: OpenHost, out: Path, stage: Stage) -> Evaluation:
    """The result with all that was missing: results.json after each part, the report after each length and in the end,
    also where it is interrupted."""
    from whorl.reports import evaluation as report

    reported = None
    try:
        for name, length in result.missing:
            if reported not in (None, length):
                report.write(result, out)
            reported = length
            done = counted(stage(f"{name} at {length:,} tokens"), asking[name].steps)
            result = _with(result, name, _row(asking[name], host, length, done))
            result.write(out / RESULTS)
    finally:
        if result.rows:
            report.write(result, out)
    return result


def _row(probe: Probe, host: OpenHost, length: int, done: Callable[[int], None]) -> Measured:
    """What a probe finds at a length; where it cannot be asked, or the model does not reach so far, a row that says
    why."""
    rows = positions_of(host)
    if rows is not None and length > rows:
        return Measured(Row(length, unreachable=f"the model has {rows:,} positions, and no more"))
    try:
        return probe.measure(host.model, length, done)
    except ValueError as error:
        return Measured(Row(length, unreachable=str(error)))


def _with(result: Evaluation, name: str, measured: Measured) -> Evaluation:
    rows = sorted((*result.rows.get(name, ()), measured.row), key=lambda row: row.length)
    return replace(
        result,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        rows={**result.rows, name: tuple(rows)},
        positions=measured.positions or result.positions,  # lengths come in ascending order
    )


def _digest(found: Source, documents: Sequence[str], tokenizer: Any) -> str:
    """Of the weights, by the names, sizes and times of their files, of the text, and of what the tokenizer makes of its
    beginning and calls its tokens."""
    begins = ids_of(tokenizer, documents[0][:BEGINS])
    what = [identity(found.reads or (found.name,)), digest(documents), begins, tokenizer.get_vocab()]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _with_earlier(result: Evaluation, path: Path, say: Say) -> Evaluation:
    """The result with the rows of a run that was asked for the same, other probes or not.

    Raises ValueError for one that was asked for something else, or by other definitions.
    """
    if not path.exists():
        return result
    there = Evaluation.read(path)
    differs = [
        one.name.replace("_", "-") if one.name != "material" else "the model, its tokenizer or the text"
        for one in fields(Asked)
        if getattr(there.asked, one.name) != getattr(result.asked, one.name)
    ]
    now = result.probe_versions
    differs += [
        f"the definition of {one}" for one, version in there.probe_versions.items() if version != now.get(one, version)
    ]
    if differs:
        raise ValueError(
            f"{path.parent} holds another evaluation ({', '.join(differs)} differ); give another --out, or --force to "
            "begin anew"
        )
    probes = tuple(one for one in PROBES if one in {*there.probes, *result.probes})
    if there.rows:
        say(f"going on after what is in {path.parent}")
    return replace(
        result, created=there.created, rows=there.rows, positions=there.positions, probes=probes,
        probe_versions={**there.probe_versions, **now},
    )  # fmt: skip
