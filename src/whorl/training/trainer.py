"""Trains one trial with transformers' Trainer, so that a kill at any moment loses minutes and no results.

trials/ID/checkpoints/                the Trainer's own checkpoints: see `checkpoints`
trials/ID/model.safetensors           the trained weights, once training is over
trials/ID/snapshots/step-N.safetensors   the weights after N steps, where snapshots were asked for
trials/ID/training.json               the learning curve, tokens and seconds, and what model.safetensors holds
trials/ID/result.json                 the evaluations: written last; a trial that has it is never run again
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_model
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from whorl.attaching.weights import load_weights
from whorl.data.losses import LOGITS
from whorl.hosts import host_of
from whorl.hosts.transformers import compat
from whorl.numerics import free_memory
from whorl.results.training import Step, Training, TrainingRecord
from whorl.stages import Worked
from whorl.training.checkpoints import complete, contents, discard_damaged, resume_point
from whorl.training.recipe import Recipe

log = logging.getLogger(__name__)

CHECKPOINTS = 10  # per trial, so that a kill costs at most a tenth of its training
MIN_STEPS = 25  # between checkpoints
MAX_SECONDS = 300.0  # between checkpoints: steps of a large model on few cores take minutes
CURVE_POINTS = 100
FIRST_SNAPSHOT = 8  # steps


class InTime(TrainerCallback):
    """A checkpoint at the next step where the last one, or the beginning, is `MAX_SECONDS` ago."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if PartialState().num_processes == 1 and time.perf_counter() - self.last >= MAX_SECONDS:
            control.should_save = True  # (several processes save together, and their clocks differ)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.last = time.perf_counter()


class _Resuming(Trainer):
    """A Trainer whose checkpoints it can read itself."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with compat.saved_by_own_names(self.accelerator.unwrap_model(self.model)):
            super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """It reads the config in a checkpoint for its version alone, by a class without settings of its own, which
        warns of the `rope_scaling` that is written there for transformers 4 and mlx-lm (docs/export.md)."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`rope_scaling` is deprecated", category=FutureWarning)
            super()._load_from_checkpoint(resume_from_checkpoint, model)


class _Watch(TrainerCallback):
    """Counts training seconds, over interruptions and without pauses, marks checkpoints complete, reports progress."""

    def __init__(self, seconds_before: float, update: Callable[[int, float | None], None]) -> None:
        self.seconds_before, self.update = seconds_before, update
        self.worked = Worked(time.perf_counter(), 0)
        self.loss: float | None = None
        self.diverged: int | None = None  # the step at which the loss was seen not to be finite

    @property
    def seconds(self) -> float:
        return self.seconds_before + self.worked.so_far(time.perf_counter())

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.worked = Worked(time.perf_counter(), state.global_step)
        self.update(state.global_step, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if pause := self.worked.at(time.perf_counter(), state.global_step):
            log.warning("stopped for %.0f s before step %d; it is not counted as training", pause, state.global_step)
        if state.global_step >= state.max_steps:
            control.should_save = True
        self.update(state.global_step, self.loss)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        self.loss = (logs or {}).get("loss", self.loss)
        if self.loss is not None and not math.isfinite(self.loss):  # no later step changes that
            self.diverged = state.global_step
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        PartialState().wait_for_everyone()  # every process writes files of its own
        if state.is_world_process_zero:
            complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step, self.seconds)


class _Snapshots(TrainerCallback):
    """Keeps the weights at a few steps, for `whorl inspect` to look at how they came about."""

    def __init__(self, model: Any, folder: Path, steps: set[int]) -> None:
        self.model, self.folder, self.steps = model, folder, steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in self.steps and state.is_world_process_zero:
            self.folder.mkdir(exist_ok=True)
            save_whole(self.model, self.folder / f"step-{state.global_step:06d}.safetensors")


def snapshot_steps(steps: int, count: int) -> set[int]:
    """`count` steps from the eighth to the last, in equal ratios: most of what changes changes early."""
    if count < 2:
        return {steps} if count else set()
    first = min(FIRST_SNAPSHOT, steps)
    return {round(first * (steps / first) ** (i / (count - 1))) for i in range(count)}


def save_whole(model: Any, path: Path) -> None:
    """Weights as safetensors, whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_model(model, str(temporary))
    temporary.replace(path)


def train(
    model: Any,
    recipe: Recipe,
    dataset: Any,
    folder: Path,
    update: Callable[[int, float | None], None],
    snapshots: int = 0,
) -> Training:
    """Trains `model` in place, resuming what an interrupted run left in `folder`, and returns its training record.

    A training whose loss is not finite any more stops there, and its record says at which step.
    """
    record_path, weights = folder / "training.json", folder / "model.safetensors"
    state = PartialState(cpu=not torch.cuda.is_available())
    record = _finished(record_path, weights)
    if record is not None:
        if state.is_main_process:  # a kill may have come between the record and their removal
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        load_weights(model, weights)
        return record.training()
    if state.is_main_process:
        discard_damaged(folder / "checkpoints")
    state.wait_for_everyone()
    checkpoint, seconds = resume_point(folder / "checkpoints")
    watch = _Watch(seconds, update)
    trainer = _Resuming(
        model=model,
        args=training_arguments(recipe, folder / "checkpoints", vocabulary(model)),
        train_dataset=dataset,
        callbacks=[watch, InTime(), _Snapshots(model, folder / "snapshots", snapshot_steps(recipe.steps, snapshots))],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    record = training_record(trainer.state.log_history, recipe, watch.seconds, watch.diverged)
    if watch.diverged is not None:
        log.warning("%s diverged: its loss is %s at step %d", folder.name, watch.loss, watch.diverged)
    if trainer.is_world_process_zero():
        save_whole(model, weights)
        replace(record, weights=contents(weights)).write(record_path)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    release(trainer, model)
    return record.training()


def _finished(record_path: Path, weights: Path) -> TrainingRecord | None:
    """The record of a training that is over and whose weights are whole; None where there is none."""
    if not (record_path.exists() and weights.exists()):
        return None
    record = TrainingRecord.read(record_path)
    if record.weights is not None and record.weights != contents(weights):
        log.warning("%s is not what was written there; the trial is trained anew", weights)
        return None
    return record


def release(trainer: Any, model: Any) -> None:
    """Takes the Trainer's autocast off the model: what is trained in bfloat16 is measured in float32, now and later."""
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    trainer.accelerator.free_memory()


def vocabulary(model: Any) -> int:
    """The logits that a model gives for each token; 1 for one of images or points, which gives some for the whole."""
    inner = host_of(model).model
    embeddings = inner.get_input_embeddings() if hasattr(inner, "get_input_embeddings") else None
    return len(embeddings.weight) if isinstance(embeddings, torch.nn.Embedding) else 1


def at_once(sequences: int, length: int, vocab_size: int) -> int:
    """How many of a step's sequences go through the model at once: all, or a share whose logits are at most `LOGITS`,
    or one. Gradients are summed over the shares."""
    shares = (n for n in range(sequences, 0, -1) if sequences % n == 0)
    return next((n for n in shares if n * length * vocab_size <= LOGITS), 1)


def check_memory(model: Any, recipe: Recipe, copies: int = 0) -> None:
    """Raises ValueError where a training needs more memory than is free: at least the gradients and both moments of
    AdamW, three times the logits in float32, and so many copies of the weights. (What layers keep comes on top.)"""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    rows = at_once(recipe.batch_size, recipe.train_length, vocabulary(model))
    logits = 12 * rows * recipe.train_length * vocabulary(model)
    needed, free = 3 * trained + copies * weights + logits, free_memory(device)
    if needed > free:
        less = ", --no-control" if copies else ""
        raise ValueError(
            f"training needs at least {needed / 2**30:.1f} GiB beside the model, {logits / 2**30:.1f} of it for the "
            f"logits of {rows} x {recipe.train_length:,} tokens, and {free / 2**30:.1f} are free; try a shorter "
            f"--train-length{less}, or a machine with more memory"
        )


def training_arguments(recipe: Recipe, output: Path, vocab_size: int) -> TrainingArguments:
    """The Trainer's arguments. Data come in the dataset's own order, which is the same for every encoding."""
    cpu = not torch.cuda.is_available()
    processes = PartialState(cpu=cpu).num_processes
    if recipe.batch_size % processes:
        raise ValueError(
            f"batch-size {recipe.batch_size} cannot be shared by {processes} processes; try a multiple of {processes}"
        )
    sequences = recipe.batch_size // processes
    rows = at_once(sequences, recipe.train_length, vocab_size)
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=recipe.steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=sequences // rows,
        train_sampling_strategy="sequential",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(recipe.schedule, recipe.schedule),
        warmup_steps=round(recipe.warmup * recipe.steps),
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=recipe.precision == "bf16",
        torch_compile=recipe.compile and _can_compile(),
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=cpu,
        save_strategy="steps",
        save_steps=max(MIN_STEPS, recipe.steps // CHECKPOINTS),
        logging_steps=max(1, recipe.steps // CURVE_POINTS),
        logging_nan_inf_filter=False,
        dataloader_pin_memory=not cpu,
        disable_tqdm=True,
        report_to="none",
    )
    if arguments.n_gpu > 1:
        # The Trainer would split every batch over the GPUs of one process (DataParallel), which is another batch size.
        log.warning("using one of %d GPUs; torchrun --nproc_per_node %d uses all", arguments.n_gpu, arguments.n_gpu)
        compat.use_one_gpu(arguments)
    return arguments


def training_record(
    history: list[dict[str, float]], recipe: Recipe, seconds: float, diverged: int | None = None
) -> TrainingRecord:
    """The learning curve and its summary, from the Trainer's log history (which survives a resume)."""
    per_step = recipe.batch_size * recipe.train_length
    points = (e for e in history if "loss" in e)
    curve = tuple(Step(int(e["step"]), int(e["step"]) * per_step, e["loss"], e["learning_rate"]) for e in points)
    steps = recipe.steps if diverged is None else diverged
    last = [point.loss for point in curve if point.step > 0.95 * steps] or [float("nan")]
    tokens = steps * per_step
    return TrainingRecord(
        tokens=tokens,
        seconds=round(seconds, 2),
        tokens_per_second=round(tokens / seconds, 1),
        loss=sum(last) / len(last),
        curve=curve,
        diverged=diverged,
    )


def _can_compile() -> bool:
    """Whether torch.compile can work here; on a CPU it needs a C++ compiler. Says so when it cannot."""
    if torch.cuda.is_available() or any(shutil.which(c) for c in ("c++", "g++", "clang++")):
        return True
    log.warning("no C++ compiler found (c++, g++ or clang++): training without torch.compile")
    return False
