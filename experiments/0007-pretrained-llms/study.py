"""Two pretrained LLMs, and what their rotary pairs do: `python study.py --models DIR --out DIR [--only STAGE ...]`.

A stage is a file, OUT/STAGE.json: one that is there is kept and not run anew. What a killed stage had measured is in
OUT/STAGE.part.json, and it goes on from there; where OUT has neither, from what results.json has. `--list` says which
stages are finished and what is missing of the others. `gather.py` makes results.json and the figures of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import reading
import torch
from healing import (
    HEALED,
    HEALED_EDGES,
    HEALED_ROUND,
    HEALED_WINDOWS,
    by_span,
    healed_model,
    healing_task,
    heldout_windows,
)
from reading import TEXTS, TRAINED
from rich.progress import track

import whorl
from whorl.attaching import attached
from whorl.files import write_atomically
from whorl.provenance import machine, versions

RESULTS = Path(__file__).with_name("results.json")
CUT_WINDOWS = (512, 8)
"""Tokens, and windows of each text, under every cut."""
ROUND = 4  # windows that every encoding is measured on before the next ones
EVERY = {"smollm2": 1, "gemma3": 4}
"""Every so many tokens is a target: Gemma's 262,144 logits are most of what it costs."""
PAIRS = {"smollm2": 32, "gemma3": 128}  # of a head
CUTS = {
    "smollm2": (28, 26, 24, 22, 20, 18, 16, 14, 13, 12, 10, 8, 6, 4, 2),
    "gemma3": (112, 96, 80, 76, 72, 64, 48, 32, 16),
}
"""How many of the fastest pairs go on turning. (24 and 96 are p-RoPE's 0.75; SmolLM2's 20 are HoPE's at 8,192.)"""
SWAPS = {
    "smollm2": (
        "nope",
        "p-rope:p=0.75,keep=slowest",
        "p-rope:p=0.9375,keep=slowest",
        "partial-rope:fraction=0.75",
        "rope:base=10000",
        "rope:base=500000",
    ),
    "gemma3": (
        "nope",
        "hope:train_length=32768",
        "p-rope:p=0.75,keep=slowest",
        "full_attention=p-rope:p=0.75/sliding_attention=rope",
        "full_attention=p-rope:p=0.25/sliding_attention=rope",
        "full_attention=nope/sliding_attention=rope",
        "full_attention=rope/sliding_attention=p-rope:p=0.25",
        "full_attention=rope/sliding_attention=nope",
        "full_attention=hope:train_length=32768/sliding_attention=hope:train_length=512",
        "full_attention=p-rope:p=0.5/sliding_attention=rope",
        "full_attention=rope/sliding_attention=p-rope:p=0.5",
    ),
}
INSPECTED = (2048, 2)
"""Tokens, and windows of each text; as many of random tokens."""
REACH = (16384, 1)
"""Tokens and windows for HoPE's account, of which each is two windows of the training length; two of random tokens."""
LONG = {
    "smollm2": (
        "fresh",
        "rope",
        "hope:train_length=8192",
        "rope~yarn:factor=2",
        "p-rope:p=0.75",
        "rope~ntk:factor=2",
        "hope:train_length=8192~yarn:factor=2",
        "p-rope:p=0.5",
        "rope~linear:factor=2",
    ),
    "gemma3": (
        "own",
        "hope:train_length=32768",
        "p-rope:p=0.75",
        "full_attention=p-rope:p=0.25/sliding_attention=rope",
        "full_attention=nope/sliding_attention=rope",
    ),
}
"""fresh: the untouched model on the last tokens, in a window of the training length that begins anew."""
LONG_WINDOWS = {"smollm2": (12288, 1), "gemma3": (4096, 1)}
LONG_DTYPE = {"smollm2": torch.bfloat16, "gemma3": torch.float32}
EDGES = (1, 512, 1024, 2048, 4096, 6144, 8192, 10240, 12288)
"""Positions between which losses by position are means."""


Piece = tuple[tuple[str, ...], int]
"""One measurement of a stage: where its losses stand (encoding, text, and so on), and from which window on."""


@dataclass
class Study:
    """kept: what results.json has, by stage; empty to measure everything anew."""

    models: Path
    out: Path
    kept: dict[str, Any] = field(default_factory=dict)
    loaded: dict[tuple[str, torch.dtype], Any] = field(default_factory=dict)

    def model(self, name: str, dtype: torch.dtype = torch.float32) -> Any:
        """The untouched model; one is held at a time."""
        if (name, dtype) not in self.loaded:
            self.loaded.clear()
            self.loaded[name, dtype] = reading.load_model(self.models, name).to(dtype)
        model = self.loaded[name, dtype]
        if attached(model) is not None:
            whorl.detach(model)
        return model

    def windows(self, name: str, text: str, length: int, count: int) -> torch.Tensor:
        path = self.out / f"{name}.npz"
        if not path.exists():
            self.tokens(name)
        with np.load(path) as kept:
            return reading.windows(kept[text], int(kept["first"]), length, count)

    def tokens(self, name: str) -> dict[str, Any]:
        """Both texts in the model's tokens. Raises ValueError where they are not those that results.json is of."""
        tokenizer = reading.load_tokenizer(self.models, name)
        streams = {text: reading.token_stream(tokenizer, text) for text in TEXTS}
        first = reading.first_token(tokenizer)
        found = {
            text: {
                "tokens": len(ids),
                "sha256": sha,
                "begins": tokenizer.decode(ids[:24]),
                "bytes_per_token": len(tokenizer.decode(ids).encode()) / len(ids),
            }
            for text, (ids, sha) in streams.items()
        }
        if found != (kept := self.kept.get(f"tokens-{name}", {}).get("found", found)):
            raise ValueError(
                f"results.json is of other tokens than {name} has here: the text (this Python's library and help) or "
                f"the tokenizer differs. --again measures everything anew. There: {kept}; here: {found}"
            )
        np.savez_compressed(self.out / f"{name}.npz", first=first, **{t: ids for t, (ids, _) in streams.items()})
        return found

    def cuts(self, name: str) -> dict[str, Any]:
        """The mean loss of each window under every cut and swap, without training."""
        length, count = CUT_WINDOWS
        measured = self.part(f"cuts-{name}")
        for (encoding, text), at in track(missing(f"cuts-{name}", measured), f"{name}: cuts"):
            so_far = measured["losses"].setdefault(encoding, {}).setdefault(text, [])
            ids = self.windows(name, text, length, count)[at : at + ROUND]
            so_far += _rounded(np.nanmean(self._losses(name, encoding, ids, EVERY[name]), 1))
            self._keep(f"cuts-{name}", measured)
        return {"length": length, "every": EVERY[name], **measured}

    def usage(self, name: str) -> dict[str, Any]:
        """What `whorl.inspect` finds in windows of a fraction of the training length: means over heads."""
        length, count = INSPECTED
        found = self.part(f"usage-{name}")
        for (text,), _ in track(missing(f"usage-{name}", found), f"{name}: inspect"):
            ids = self.windows(name, text, length, count)
            seen = whorl.inspect(self.model(name), ids, train_length=length, random_windows=count)
            found[text] = {"summary": seen.summary.to_json(), "arrays": dict(means(seen))}
            self._keep(f"usage-{name}", found)
        return found

    def reach(self, name: str) -> dict[str, Any]:
        """The U-shape over the whole training length, and what leaves its range past it, of q and k in bfloat16."""
        ids = self.windows(name, "prose", *REACH)
        model = self.model(name, torch.bfloat16)
        seen = whorl.inspect(model, ids, train_length=TRAINED[name], random_windows=2, attention=False)
        return {"text": "prose", "summary": seen.summary.to_json(), "arrays": dict(means(seen))}

    def long(self, name: str) -> dict[str, Any]:
        """Mean losses between EDGES of long windows, under the encodings of LONG. `bfloat16`: what that changes, where
        they are computed in it, measured on shorter windows."""
        length, count = LONG_WINDOWS[name]
        spans, dtype = list(pairwise(edges(length))), LONG_DTYPE[name]
        measured = self.part(f"long-{name}")
        if dtype is torch.bfloat16 and "bfloat16" not in measured:
            ids = self.windows(name, "prose", 2048, 2)
            both = [self._losses(name, "own", ids, dtype=dtype).mean(1) for dtype in (torch.float32, torch.bfloat16)]
            measured["bfloat16"] = {"float32": _rounded(both[0]), "change": _rounded(both[1] - both[0])}
        for (encoding, text), _ in track(missing(f"long-{name}", measured), f"{name}: {length:,} tokens"):
            ids = self.windows(name, text, length, count)
            if encoding == "fresh":
                ids = torch.cat([ids[:, :1], ids[:, -(TRAINED[name] - 1) :]], 1)
            own = encoding in ("fresh", "own")
            x = self._losses(name, "own" if own else encoding, ids, EVERY[name], dtype)[:, :: EVERY[name]]
            at = length - ids.shape[1] + 1 + EVERY[name] * np.arange(x.shape[1])
            none = np.full(len(x), np.nan)  # of positions before a window that begins anew
            means = [x[:, (a <= at) & (at < b)].mean(1) if a >= at[0] else none for a, b in spans]
            measured["losses"].setdefault(encoding, {})[text] = _rounded(np.stack(means, 1))
            self._keep(f"long-{name}", measured)
        return {"length": length, "every": EVERY[name], "spans": spans, **measured}

    def heal(self, name: str) -> dict[str, Any]:
        """Mean losses between positions before and after a training under each cut, and of the untouched model trained
        alike: see `healing`."""
        length, count = HEALED_WINDOWS
        task = healing_task(self.models, self.out, name)
        first = self.windows(name, "prose", length, count)
        windows = {"code": heldout_windows(task, int(first[0, 0])), "prose": first}
        measured = self.part(f"heal-{name}")
        left = dict.fromkeys((at, when, encoding) for (encoding, when, _), at in missing(f"heal-{name}", measured))
        for at, when, encoding in track(list(left), f"{name}: healing"):  # both texts with one model
            kept = measured["losses"].setdefault(encoding, {}).setdefault(when, {text: [] for text in TEXTS})
            if when == "before":
                model = self.model(name)
                whorl.attach(model, encoding)
            else:
                self.loaded.clear()
                model, training = healed_model(self.models, self.out, name, encoding, task, _say(encoding))
                measured.setdefault("trained", {})[encoding] = training
                self._keep(f"heal-{name}", measured)
            for text in TEXTS:
                kept[text] = kept[text][:at] + _rounded(by_span(model, windows[text][at : at + HEALED_ROUND]))
            self.loaded.clear()  # it is in bfloat16 now
            self._keep(f"heal-{name}", measured)
        return {"length": length, "spans": list(pairwise(HEALED_EDGES)), **measured}

    def _losses(
        self, name: str, encoding: str, ids: torch.Tensor, every: int = 1, dtype: torch.dtype = torch.float32
    ) -> Any:
        model = self.model(name, dtype)
        if encoding != "own":
            whorl.attach(model, encoding)
        found = reading.losses(model, ids, every)
        if not np.isfinite(found[:, ::every]).all():
            raise ValueError(f"losses of {name} under {encoding} are not finite")
        return found

    def part(self, stage: str) -> dict[str, Any]:
        """What is measured of a stage that is not finished: by a run that was killed, else as results.json has it."""
        path = self.out / f"{stage}.part.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text())
            found.pop("about", None)
            return found
        if stage.startswith("usage"):
            return {}
        kept = self.kept.get(stage, {})
        rest = {key: kept[key] for key in ("bfloat16", "trained") if key in kept}
        return copy.deepcopy({"losses": kept.get("windows", kept.get("losses", {})), **rest})

    def finished(self, stage: str) -> bool:
        kept = self.kept.get(stage, {"unfinished": True})
        return (self.out / f"{stage}.json").exists() or "unfinished" not in kept

    def _keep(self, stage: str, measured: dict[str, Any]) -> None:
        write_atomically(self.out / f"{stage}.part.json", json.dumps({"about": about(), **measured}).encode())


def _say(encoding: str) -> Callable[[int, int], None]:
    """A line for every training step: it takes half a minute."""
    start = time.perf_counter()
    return lambda step, of: print(f"{encoding}: step {step} of {of}, {time.perf_counter() - start:.0f} s", flush=True)


def means(seen: Any) -> Iterator[tuple[str, Any]]:
    """The arrays of an inspection, averaged over heads where they have any, to four digits."""
    for key in ("wavelength", "norm_q", "norm_k", "norm_v", "logit", "random_logit"):
        array = seen.measured(key)
        if array is not None:
            heads = {"head", "key_head"} & set(seen.axes(key))
            yield key, _short(array.mean(1) if heads else array)
    for key in ("attention", "random_attention"):
        array = seen.measured(key)
        if array is not None:
            yield f"{key}_near", _short(array[:, :, :4])
    yield "distance", [edge.tolist() for edge in seen.bins("distance")]


def _short(x: Any) -> Any:
    if np.ndim(x):
        return [_short(row) for row in x]
    return float(f"{float(x):.4g}") if np.isfinite(x) else None


def _rounded(x: Any) -> Any:
    if np.ndim(x):
        return [_rounded(row) for row in x]
    return None if np.isnan(x) else round(float(x), 5)


def about() -> dict[str, Any]:
    """When and by what something was measured."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions("torch", "transformers", "gguf"),
    }


def edges(length: int) -> tuple[int, ...]:
    """Those of EDGES that are in windows of so many tokens."""
    return tuple(edge for edge in EDGES if edge <= length)


def pieces(stage: str) -> list[Piece]:
    """What a stage measures one after another, in its order; nothing where it measures all at once."""
    kind, _, name = stage.partition("-")
    if kind == "cuts":
        encodings = ["own", *(f"p-rope:p={k / PAIRS[name]}" for k in CUTS[name]), *SWAPS[name]]
        rounds = range(0, CUT_WINDOWS[1], ROUND)  # every encoding on the first windows, then on more
        return [((encoding, text), at) for at in rounds for encoding in encodings for text in TEXTS]
    if kind == "usage":
        return [((text,), 0) for text in TEXTS]
    if kind == "long":
        return [((encoding, text), 0) for encoding in LONG[name] for text in reversed(TEXTS)]
    if kind == "heal":
        rounds, whens = range(0, HEALED_WINDOWS[1], HEALED_ROUND), ("before", "after")
        return [((e, when, text), at) for at in rounds for when in whens for e in HEALED for text in TEXTS]
    return []


def missing(stage: str, measured: dict[str, Any]) -> list[Piece]:
    """The pieces of a stage that what was measured does not have."""

    def is_there(place: tuple[str, ...], at: int) -> bool:
        found = measured.get("losses", measured)
        for key in place:
            found = found.get(key, {})
        return len(found) > at

    return [(place, at) for place, at in pieces(stage) if not is_there(place, at)]


def listing(study: Study) -> str:
    """What is finished, and what is missing of each stage that is not."""
    lines = []
    for stage in stages(study):
        if study.finished(stage):
            lines.append(f"{stage}: finished")
        elif all_of := pieces(stage):
            left = missing(stage, study.part(stage))
            lines.append(f"{stage}: {len(all_of) - len(left)} of {len(all_of)} measurements are there")
            for at in dict.fromkeys(at for _, at in left):
                lost = [" ".join(place) for place, begin in left if begin == at]
                all_there_is = len(lost) == sum(begin == at for _, begin in all_of)
                lines.append(f"  missing from window {at + 1} on: {'all' if all_there_is else ', '.join(lost)}")
        else:
            lines.append(f"{stage}: missing")
    return "\n".join(lines)


def stages(study: Study) -> dict[str, Callable[[], dict[str, Any]]]:
    """In the order in which they run."""
    names = [f"{stage}-{name}" for stage in ("tokens", "cuts", "usage", "long") for name in reading.FILES]
    names += ["reach-smollm2", "heal-smollm2"]
    return {name: lambda name=name: getattr(study, name.partition("-")[0])(name.partition("-")[2]) for name in names}


def run(study: Study, name: str, do: Callable[[], dict[str, Any]]) -> None:
    if study.finished(name):
        print(f"{name}: there already")
        return
    path = study.out / f"{name}.json"
    start = time.perf_counter()
    found = do()
    seconds = round(time.perf_counter() - start, 1)
    write_atomically(path, json.dumps({"stage": name, "seconds": seconds, **about(), "found": found}).encode())
    (study.out / f"{name}.part.json").unlink(missing_ok=True)
    print(f"{name}: {seconds} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="holds the two .gguf files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the stages' files")
    parser.add_argument("--only", nargs="+", metavar="STAGE")
    parser.add_argument("--list", action="store_true", help="say what is finished and what is missing; run nothing")
    parser.add_argument("--again", action="store_true", help="measure what results.json has and OUT has not as well")
    options = parser.parse_args()
    study = Study(options.models, options.out, {} if options.again else json.loads(RESULTS.read_text()))
    if options.list:
        print(listing(study))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    todo = stages(study)
    if unknown := set(options.only or ()) - set(todo):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(todo)}")
    for name, do in todo.items():
        if not options.only or name in options.only:
            run(study, name, do)


if __name__ == "__main__":
    main()
