"""Training throughput: whorl compare's training against a plain float32 eager loop around the stock model.

    make bench

Both train the same model (the preset, stock Llama of the same shape) on the same batches, in alternating rounds of one
process, so that what else the machine does hits both. A correctness gate comes first: one float32 step of both from the
same weights and batch must give the same loss, and a round must lower the loss; a red gate prints no speed.
Rows go to benchmarks/results/training.csv with device, versions and commit.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import rows
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from whorl.comparison.planning import from_scratch
from whorl.training.models import build, build_model
from whorl.training.settings import Settings
from whorl.training.trainer import training_arguments

VOCABULARY = 1024


class Batches(torch.utils.data.Dataset):
    """Random tokens with a learnable structure (each is the one before it plus one, half of the time)."""

    def __init__(self, settings: Settings, examples: int) -> None:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(VOCABULARY, (examples, settings.train_length), generator=generator)
        noise[:, 1::2] = (noise[:, 0::2] + 1) % VOCABULARY
        self.ids = noise

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "labels": self.ids[i].clone()}


class StepTimes(TrainerCallback):
    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.marks.append(time.perf_counter())


def whorl_round(settings: Settings, encoding: str, data: Batches) -> tuple[list[float], list[float]]:
    """Seconds per step and losses of whorl's own training path (Trainer, callbacks and data loader included)."""
    model = build(settings, from_scratch(encoding, settings), 0, VOCABULARY, 0)
    times, recipe = StepTimes(), settings.recipe(seed=0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(recipe, Path(folder), VOCABULARY)
        arguments.save_strategy = "no"
        arguments.logging_steps = max(1, recipe.steps // 2)
        trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[times])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [b - a for a, b in pairwise(times.marks)], losses


def compiled_round(settings: Settings, encoding: str, data: Batches) -> tuple[list[float], list[float]]:
    """The same with torch.compile; tracing falls in the steps that are left out."""
    return whorl_round(dataclasses.replace(settings, compile=True), encoding, data)


def plain_round(settings: Settings, encoding: str, data: Batches) -> tuple[list[float], list[float]]:
    """The loop that a person writes: float32, eager, AdamW, the stock model with its own default attention."""
    torch.manual_seed(0)
    model = build_model(settings, VOCABULARY, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate or 0.0, betas=(0.9, 0.95))
    loader = torch.utils.data.DataLoader(data, batch_size=settings.batch_size)
    marks, losses = [], []
    model.train()
    for batch in loader:
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        marks.append(time.perf_counter())
        if len(marks) == settings.recipe(seed=0).steps:
            break
    return [b - a for a, b in pairwise(marks)], losses


PROVIDERS: dict[str, tuple[Callable[..., Any], str]] = {
    "plain float32 loop, stock rope": (plain_round, "rope"),
    "whorl compare, rope": (whorl_round, "rope"),
    "whorl compare, hope": (whorl_round, "hope"),
    "whorl compare --compile, rope": (compiled_round, "rope"),
}


def gate(settings: Settings) -> None:
    """One float32 step from the same weights and batch: the same loss to rounding. Raises AssertionError otherwise."""
    one = dataclasses.replace(
        settings, tokens=settings.batch_size * settings.train_length, precision="fp32", warmup=0.0
    )
    data = Batches(one, one.batch_size)
    ours, theirs = (f(one, "rope", data)[1][0] for f in (whorl_round, plain_round))
    assert abs(ours - theirs) < 1e-4, f"the losses of the first step differ: {ours} and {theirs}"
    print(f"gate: first-step loss {ours:.6f} and {theirs:.6f}")


def main() -> None:
    parser = rows.parser(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=30, help="per round and provider, the first ten left out")
    options = parser.parse_args()
    set_verbosity_error()
    disable_progress_bar()
    torch.set_num_threads(options.threads)
    per_step = Settings().batch_size * Settings().train_length
    settings = Settings(tokens=options.steps * per_step, schedule="constant").resolve()
    gate(settings)
    data = Batches(settings, options.steps * settings.batch_size)
    times: dict[str, list[list[float]]] = {name: [] for name in PROVIDERS}
    for _ in range(options.rounds):
        for name, (function, encoding) in PROVIDERS.items():
            seconds, losses = function(settings, encoding, data)
            assert losses[-1] < losses[0], f"{name} did not lower the loss: {losses}"
            times[name].append(seconds[9:])
    write_rows(settings, options, times, per_step)


def write_rows(
    settings: Settings, options: argparse.Namespace, times: dict[str, list[list[float]]], tokens: int
) -> None:
    """One row per provider and round, and a printed summary with paired ratios."""
    common = {
        **rows.facts("cuda" if torch.cuda.is_available() else "cpu"),
        "model": settings.model,
        "precision of whorl": settings.precision,
    }
    found = []
    baseline = [statistics.median(r) for r in times["plain float32 loop, stock rope"]]
    for name, rounds in times.items():
        ratios = []
        for index, seconds in enumerate(rounds):
            low, middle, high = (statistics.quantiles(seconds, n=10)[i] for i in (1, 4, 7))
            ratios.append(baseline[index] / middle)
            found.append(
                {
                    **common,
                    "provider": name,
                    "round": index,
                    "tokens_per_second_50": round(tokens / middle),
                    "tokens_per_second_20": round(tokens / high),
                    "tokens_per_second_80": round(tokens / low),
                    "speed_over_plain": round(baseline[index] / middle, 3),
                }
            )
        speed = tokens / statistics.median(statistics.median(r) for r in rounds)
        spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:32} {speed:9,.0f} tokens/s   {spread}")
    path = options.results / "training.csv"
    rows.write(path, found, same=["model"])
    print(f"rows: {path}")


if __name__ == "__main__":
    main()
