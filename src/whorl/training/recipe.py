"""How a model is trained, whatever for: the numbers that the Trainer is given."""

from __future__ import annotations

from dataclasses import dataclass

from whorl.checking import check_numbers
from whorl.encodings.config import choices

EXAMPLES = 1 << 30  # the places of all of them are drawn at the start, eight bytes each
SCHEDULES, PRECISIONS = ("cosine", "linear", "constant"), ("auto", "bf16", "fp32")


@dataclass(frozen=True)
class Recipe:
    """AdamW over `tokens` tokens, `batch_size` sequences of `train_length` tokens a step.

    learning_rate  the peak, after a linear warm-up
    warmup         the share of the steps that warms up
    schedule       after it: cosine or linear to 0, or constant
    precision      bf16 (autocast), fp32, or auto: bf16 where the hardware multiplies it
    """

    train_length: int
    tokens: int
    batch_size: int
    learning_rate: float
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.1
    precision: str = "auto"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            train_length=self.train_length, tokens=self.tokens, batch_size=self.batch_size, warmup=self.warmup,
            learning_rate=self.learning_rate, weight_decay=self.weight_decay, seed=self.seed,
        )  # fmt: skip
        check_examples(self.tokens, self.train_length)
        choices("schedule", self.schedule, SCHEDULES)
        object.__setattr__(self, "precision", resolved_precision(self.precision))

    @property
    def steps(self) -> int:
        """Optimiser steps: the token budget over the tokens of a batch, at least one."""
        return max(1, round(self.tokens / (self.batch_size * self.train_length)))


def check_examples(tokens: int, train_length: int) -> None:
    """Raises ValueError for more training examples than a run draws."""
    examples = tokens // train_length
    if examples > EXAMPLES:
        raise ValueError(
            f"{tokens:,} tokens are {examples:,} examples of {train_length:,}, and a run draws at most {EXAMPLES:,}; "
            "give fewer tokens, or a longer train-length"
        )


def resolved_precision(precision: str) -> str:
    """bf16 or fp32: what "auto" is on this machine."""
    choices("precision", precision, PRECISIONS)
    return precision if precision != "auto" else "bf16" if has_fast_bf16() else "fp32"


def has_fast_bf16() -> bool:
    """Whether the hardware multiplies bfloat16 natively: a CUDA device from Ampere on, AVX512-BF16 or AMX."""
    import torch

    from whorl.hosts.transformers import compat

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return compat.cpu_multiplies_bfloat16()
