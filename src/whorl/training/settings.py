"""Every default of `whorl compare`, in one dataclass, and what a run's settings mean once the machine is known."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whorl.checking import LENGTH, check_list, check_numbers, check_path, shown
from whorl.encodings import Encoding, Known, parse
from whorl.encodings.config import choices

DEFAULT_ENCODINGS = ("rope", "hope", "p-rope:p=0.5")


@dataclass(frozen=True)
class ModelPreset:
    """A stock Llama by its sizes, with a budget that suits it. `vocab_size` is of the tokenizer trained for it."""

    width: int
    layers: int
    heads: int
    intermediate: int
    vocab_size: int
    tokens: int
    learning_rate: float


MODELS = {
    "tiny": ModelPreset(128, 4, 2, 256, 1024, 3_686_400, 2e-3),
    "small": ModelPreset(320, 8, 5, 768, 4096, 50_000_000, 1e-3),
    "base": ModelPreset(768, 12, 12, 2560, 32768, 2_500_000_000, 6e-4),
}


# Times the preset's tokens: what the tasks made of symbols need to be learnt in range.
BUDGET = {"copy": 2, "recall": 2}
NUMBERS = ("train_length", "tail", "windows", "batch_size", "tokens", "learning_rate", "warmup", "weight_decay")
PATHS = {
    "text": "stdlib, a path or hf:DATASET",
    "tokenizer": "a path or a hub name, or None",
    "model": f"{', '.join(MODELS)}, or the path of a config or a model",
}
EXAMPLES = 1 << 30  # the places of all of them are drawn at the start, eight bytes each


@dataclass(frozen=True)
class Settings:
    """What a comparison is run with. Two runs with equal settings, encoding and seed are the same trial.

    task            language, copy or recall
    text            stdlib, a text, JSONL or Parquet file, a folder, or hf:DATASET (language only)
    tokenizer       a directory or hub name; None trains a byte-level BPE on the training split
    model           tiny, small, base, or a Hugging Face config or model directory
    train_length    tokens per training sequence
    lengths         evaluation lengths, in tokens or as multiples of the training length ("4x")
    tokens          training tokens per trial; None takes the preset's
    tail            target tokens at the end of each evaluation window
    windows         evaluation windows (sequences, for copy and recall) per length
    precision       bf16 (autocast), fp32, or auto: bf16 where the hardware multiplies it
    compile         torch.compile for training; off, because at the default budget tracing costs more than it saves
                    (experiments/0001-language/LOG.md)
    """

    task: str = "language"
    text: str = "stdlib"
    tokenizer: str | None = None
    model: str = "tiny"
    train_length: int = 128
    lengths: tuple[str, ...] = ("1x", "2x", "4x", "8x", "16x")
    tokens: int | None = None
    tail: int = 64
    windows: int = 96
    batch_size: int = 32
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.1
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name, wanted in PATHS.items():
            value = getattr(self, name)
            if value is not None or name != "tokenizer":
                object.__setattr__(self, name, check_path(name, value, wanted))
        object.__setattr__(self, "lengths", tuple(check_list("lengths", self.lengths, '["1x", "4x"]')))
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile must be True or False, got {shown(self.compile)}")
        for name in NUMBERS:
            check_numbers(**{name: getattr(self, name)})
        examples = (self.tokens or 0) // self.train_length
        if examples > EXAMPLES:
            raise ValueError(
                f"{self.tokens:,} tokens are {examples:,} examples of {self.train_length:,}, and a run draws at most "
                f"{EXAMPLES:,}; give fewer tokens, or a longer train-length"
            )
        choices("schedule", self.schedule, ("cosine", "linear", "constant"))
        choices("precision", self.precision, ("auto", "bf16", "fp32"))
        if self.task != "language" and (self.text != "stdlib" or self.tokenizer is not None):
            raise ValueError(f"the {self.task} task makes its own symbols: leave out --text and --tokenizer")
        if not self.lengths:
            raise ValueError("lengths is empty; try 1x,2x,4x")
        shortest = min(self.evaluation_lengths())
        if self.task == "language" and self.tail >= shortest:
            raise ValueError(
                f"tail={self.tail} tokens do not fit in the shortest length, {shortest}; try --tail {shortest // 2}"
            )

    def evaluation_lengths(self) -> tuple[int, ...]:
        """The evaluation lengths in tokens, ascending. Raises ValueError for what is neither tokens nor a multiple."""
        tokens = set()
        for length in self.lengths:
            match = re.fullmatch(r"(\d+(?:\.\d+)?)(x?)", str(length))
            value = 0 if match is None else float(match[1]) * (self.train_length if match[2] else 1)
            if not 1 <= value <= LENGTH or value != int(value):
                raise ValueError(
                    f"cannot read the length {length!r}; write tokens (512) or multiples of the training length (4x)"
                )
            tokens.add(int(value))
        return tuple(sorted(tokens))

    @property
    def preset(self) -> ModelPreset | None:
        return MODELS.get(self.model)

    def resolve(self) -> Settings:
        """The same with nothing left open: lengths in tokens, the preset's budget, this machine's precision."""
        tokens, rate = self.tokens, self.learning_rate
        if self.preset is not None:
            tokens = tokens or self.preset.tokens * BUDGET.get(self.task, 1)
            rate = rate or self.preset.learning_rate
        precision = self.precision if self.precision != "auto" else ("bf16" if has_fast_bf16() else "fp32")
        return dataclasses.replace(
            self,
            tokens=tokens or 50_000_000,
            learning_rate=rate or 3e-4,
            lengths=tuple(map(str, self.evaluation_lengths())),
            precision=precision,
        )

    @property
    def steps(self) -> int:
        """Optimiser steps: the token budget over the tokens of a batch, at least one."""
        assert self.tokens is not None
        return max(1, round(self.tokens / (self.batch_size * self.train_length)))

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "lengths": list(self.lengths)}


@dataclass(frozen=True)
class Trial:
    """One encoding trained from one seed. `id` is a readable name and a digest of everything that determines it.

    `label` is the notation that was asked for ("hope"), `encoding` has its unset arguments filled in.
    """

    encoding: Encoding
    seed: int
    id: str
    label: str


def check_asked(encodings: Sequence[str | Encoding], seeds: Sequence[int], settings: Settings) -> list[Encoding]:
    """The encodings of a run, with what they leave unset: its training length, and the registry's defaults.

    Raises ValueError when none or one twice is asked for.
    """
    parsed = [from_scratch(e, settings) for e in encodings]
    for name, items in (("encoding", parsed), ("seed", list(seeds))):
        twice = next((i for n, i in enumerate(items) if i in items[:n]), None)
        if twice is not None:
            shown = twice.without_defaults() if isinstance(twice, Encoding) else twice
            raise ValueError(f"the {name} {shown} is asked for twice; give it once")
        if not items:
            raise ValueError(f"no {name} was given; try {'rope hope' if name == 'encoding' else '--seeds 0'}")
    return parsed


def from_scratch(encoding: str | Encoding, settings: Settings) -> Encoding:
    """The encoding with what it leaves unset, where no host says it."""
    return parse(encoding).filled(Known(train_length=settings.train_length)).with_defaults()


def plan_trials(
    encodings: Sequence[str | Encoding],
    seeds: Sequence[int],
    settings: Settings,
    data_fingerprint: str,
    labels: Sequence[str] | None = None,
) -> list[Trial]:
    """The trials in the order in which they run: all encodings of the first seed, then of the next.

    settings must be resolved, encodings and seeds checked. labels: the notations that were asked for, where the
    encodings have been filled since.
    """
    labels = labels or [str(parse(e)) for e in encodings]
    parsed = [from_scratch(e, settings) for e in encodings]
    trials = []
    for seed in seeds:
        for encoding, label in zip(parsed, labels, strict=True):
            what = {
                "encoding": encoding.to_dict(),
                "seed": seed,
                "settings": settings.to_dict(),
                "data": data_fingerprint,
            }
            digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]
            slug = re.sub(r"[^a-z0-9.]+", "-", str(encoding.without_defaults()))[:48].strip("-")
            trials.append(Trial(encoding, seed, f"{slug}-s{seed}-{digest}", label))
    return trials


def check_model(model: str) -> None:
    """Refuses a model that is neither a preset nor a path that is there. Hub names have exactly one slash."""
    if model in MODELS or Path(model).exists() or re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return
    raise ValueError(
        f"model {model!r} is neither {', '.join(MODELS)} nor a path that is there; "
        "give a preset, a Hugging Face config.json or a model directory"
    )


def has_fast_bf16() -> bool:
    """Whether the hardware multiplies bfloat16 natively: a CUDA device from Ampere on, AVX512-BF16 or AMX."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
