"""EXPORT: a model and its encoding for runtimes that do not know whorl."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whorl import finite, outputs
from whorl.attaching.records import NAMED
from whorl.checking import check_path
from whorl.extras import require
from whorl.hosts import open_host
from whorl.hosts.timm import opening as timm
from whorl.hosts.transformers import images
from whorl.hosts.transformers.opening import unwrapped
from whorl.runtimes import engines, get
from whorl.runtimes.base import Check, Runtime, Written
from whorl.runtimes.engines import Verdict


@dataclass(frozen=True, repr=False)
class Exported:
    """What was written and where, for which runtime, with which encoding, and how far off it was when read back.

    note: what whoever hands it on to another program has to know; empty where that is nothing. engine: what is known of
    the one that it was asked for.
    """

    path: Path
    runtime: Runtime
    encoding: str
    tokenizer: str
    checked: Check
    note: str = ""
    engine: Verdict | None = None

    def __repr__(self) -> str:
        note = f"; {self.note}" if self.note else ""
        return f"{self.path}: for {self.runtime.title}, {self.encoding}; {self.checked}{note}"


def export(
    model: Any,
    out: str | Path,
    *,
    runtime: str | Runtime | None = None,
    engine: str | None = None,
    tokenizer: Any = None,
    force: bool = False,
    **options: Any,
) -> Exported:
    """Writes the model with its encoding, stock or attached, for a runtime that does not know whorl.

    out: a directory that is not there yet, or is empty. With `force`, one that whorl wrote is replaced (see `outputs`).
    runtime: a name of `whorl.runtimes.RUNTIMES`, or a `Runtime` of your own; options are that runtime's.
    "hf": config, safetensors and tokenizer; loaded by stock transformers and compared before it gets its name.
    "gguf": `model.gguf`, read back and compared; a tokenizer that llama.cpp cannot run is left out, with the reason.
    Its dtype is that of the matrices: "f32" (the default), "f16" or "bf16"; vectors are float32.
    engine: a name of `whorl.runtimes.engines.ENGINES`, which runs what is written: refused where it is known to refuse
    this encoding, or to run another in silence. It brings its runtime; without either, it is "hf".

    Nothing is left at `out` when it fails. Raises ValueError, with the reason, for what the runtime cannot say.

    >>> whorl.export(whorl.attach(model, "hope:train_length=1024"), "out", tokenizer=tokenizer)
    out: for stock transformers, hope:train_length=1024,base=10000; loaded by stock transformers: logits differ by ...
    """
    out = check_path("out", out, "the path of a folder")
    if not isinstance(model, torch.nn.Module):
        open_host(model)  # says what it is
    chosen = _chosen(runtime_for(runtime, engine), options)
    if hasattr(model, "peft_config"):
        raise ValueError("this model has PEFT adapters; export what model.merge_and_unload() returns")
    model = unwrapped(model)
    reads = [str(getattr(model, "name_or_path", "") or "").partition(NAMED)[0]]
    outputs.check_replaces(out, force, reads)
    known = _check_can(chosen, model, engine)
    finite.check_weights(model)
    with outputs.replacing(out, "export", force, reads) as folder:
        written = chosen.write(model, folder, tokenizer)
        checked = _checked(chosen, model, written)
    return Exported(Path(out), chosen, written.encoding, written.tokenizer, checked, written.note, known)


def check_can(runtime: str | Runtime | None, empty: Any, engine: str | None = None, **options: Any) -> None:
    """Raises ValueError, with the reason, where the runtime, or the engine, cannot have this model whatever its weights
    are.

    empty: the model with its weights on the meta device (`whorl.attaching.loading.without_weights`), so that a large
    one need not be read first. What only the weights say, `export` asks.
    """
    _check_can(_chosen(runtime_for(runtime, engine), options), empty, engine)


def _check_can(runtime: Runtime, model: Any, engine: str | None) -> Verdict | None:
    if images.has(model) or timm.has(model):
        raise ValueError(
            f"{type(model).__name__} reads images, and runtimes are for models of texts; keep it with "
            "whorl.save(model, directory), and read that with whorl.load(directory)"
        )
    if reason := runtime.refuse(model):
        raise ValueError(reason)
    known = None if engine is None else engines.carries(engine, model)
    if known is not None and (reason := engines.refusal(known, model)):
        raise ValueError(reason)
    return known


def runtime_for(runtime: str | Runtime | None, engine: str | None) -> str | Runtime:
    """The runtime that is meant: the one that is given, or that of the engine. Raises ValueError where they differ."""
    own = "hf" if engine is None else engines.engine(engine).files
    given = runtime.name if isinstance(runtime, Runtime) else runtime
    if engine is not None and given not in (None, own):
        title = engines.engine(engine).title
        raise ValueError(f"{title} reads what the runtime {own} writes, not {given}; leave it out")
    return own if runtime is None else runtime


def _chosen(runtime: str | Runtime, options: dict[str, Any]) -> Runtime:
    """Raises ValueError for a name or options that are not known, MissingExtraError where a package lacks."""
    if isinstance(runtime, Runtime) and options:
        raise ValueError(f"{runtime} has its options already, and {', '.join(options)} came too; give them to it")
    chosen = runtime if isinstance(runtime, Runtime) else get(runtime).of_options(options)
    if chosen.extra is not None:
        require(f"the runtime {chosen.name}", chosen.extra)
    return chosen


def _checked(runtime: Runtime, model: Any, written: Written) -> Check:
    """The runtime's own check. Raises ValueError where it does not hold."""
    check = runtime.check(model, written)
    if not check.holds:
        raise ValueError(
            f"what was written for {runtime.title} is another model: {check}. Nothing was kept; keep this model with "
            "model.save_pretrained(directory), and read that with whorl.load(directory)"
        )
    return check
