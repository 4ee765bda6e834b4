"""Trains one trial with transformers' Trainer, so that a kill at any moment loses minutes and no results.

    trials/ID/checkpoints/checkpoint-N/   the Trainer's own checkpoint, and last of all `complete.json`
    trials/ID/model.safetensors           the trained weights, once training is over
    trials/ID/snapshots/step-N.safetensors   the weights after N steps, where snapshots were asked for
    trials/ID/training.json               the learning curve, tokens and seconds
    trials/ID/result.json                 the evaluations: written last; a trial that has it is never run again

A checkpoint without its marker was being written when the process died: it is discarded.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_model, save_model
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from whorl.comparison.files import read_json, write_json
from whorl.comparison.settings import Settings, Trial

log = logging.getLogger(__name__)

MARKER = "complete.json"
CHECKPOINTS = 10  # per trial, so that a kill costs at most a tenth of its training
MIN_STEPS = 25  # between checkpoints
CURVE_POINTS = 100
FIRST_SNAPSHOT = 8  # steps


class _Watch(TrainerCallback):
    """Counts training seconds across interruptions, marks checkpoints complete, and reports progress."""

    def __init__(self, seconds_before: float, update: Callable[[int, float | None], None]) -> None:
        self.seconds_before, self.update = seconds_before, update
        self.started = time.perf_counter()
        self.loss: float | None = None

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()
        self.update(state.global_step, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = True
        self.update(state.global_step, self.loss)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        self.loss = (logs or {}).get("loss", self.loss)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / MARKER, {"step": state.global_step, "seconds": self.seconds})


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
    temporary = path.with_suffix(".tmp")
    save_model(model, str(temporary))
    temporary.replace(path)


def train(
    model: Any,
    trial: Trial,
    settings: Settings,
    dataset: Any,
    folder: Path,
    update: Callable[[int, float | None], None],
    snapshots: int = 0,
) -> dict[str, Any]:
    """Trains `model` in place, resuming what an interrupted run left in `folder`, and returns its training record.

    The record: {"tokens", "seconds", "tokens_per_second", "loss", "curve": [{"step", "tokens", "loss",
    "learning_rate"}]}; loss is in nats per token, the mean over the last twentieth of the steps.
    """
    record_path, weights = folder / "training.json", folder / "model.safetensors"
    state = PartialState(cpu=not torch.cuda.is_available())
    if record_path.exists() and weights.exists():
        if state.is_main_process:  # a kill may have come between the record and their removal
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        load_model(model, weights)
        return read_json(record_path)
    if state.is_main_process:
        discard_incomplete(folder / "checkpoints")
    state.wait_for_everyone()
    checkpoint, seconds = resume_point(folder / "checkpoints")
    watch = _Watch(seconds, update)
    trainer = Trainer(
        model=model,
        args=training_arguments(settings, trial.seed, folder / "checkpoints"),
        train_dataset=dataset,
        callbacks=[watch, _Snapshots(model, folder / "snapshots", snapshot_steps(settings.steps, snapshots))],
    )
    trainer.remove_callback(PrinterCallback)
    if checkpoint is not None:
        log.info("%s: resuming from step %s", trial.id, checkpoint.name.removeprefix("checkpoint-"))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    record = training_record(trainer.state.log_history, settings, watch.seconds)
    if trainer.is_world_process_zero():
        save_whole(model, weights)
        write_json(record_path, record)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    release(trainer, model)
    return record


def release(trainer: Any, model: Any) -> None:
    """Takes the Trainer's autocast off the model: what is trained in bfloat16 is measured in float32, now and later."""
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    trainer.accelerator.free_memory()


def training_arguments(settings: Settings, seed: int, output: Path) -> TrainingArguments:
    """The Trainer's arguments. Data come in the dataset's own order, which is the same for every encoding."""
    cpu = not torch.cuda.is_available()
    processes = PartialState(cpu=cpu).num_processes
    if settings.batch_size % processes:
        raise ValueError(
            f"batch-size {settings.batch_size} cannot be shared by {processes} processes; try a multiple of {processes}"
        )
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size // processes,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate or 0.0,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule),
        warmup_steps=round(settings.warmup * settings.steps),
        weight_decay=settings.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=settings.precision == "bf16",
        torch_compile=settings.compile and _can_compile(),
        seed=seed,
        data_seed=seed,
        use_cpu=cpu,
        save_strategy="steps",
        save_steps=max(MIN_STEPS, settings.steps // CHECKPOINTS),
        save_total_limit=2,
        logging_steps=max(1, settings.steps // CURVE_POINTS),
        logging_nan_inf_filter=False,
        dataloader_pin_memory=not cpu,
        disable_tqdm=True,
        report_to="none",
    )
    if arguments.n_gpu > 1:
        # The Trainer would split every batch over the GPUs of one process (DataParallel), which is another batch size.
        log.warning("using one of %d GPUs; torchrun --nproc_per_node %d uses all", arguments.n_gpu, arguments.n_gpu)
        arguments._n_gpu = 1
    return arguments


def discard_incomplete(checkpoints: Path) -> None:
    """Deletes the checkpoints that were being written, or deleted, when a run was killed: those without a marker."""
    for folder in checkpoints.glob("checkpoint-*"):
        if not (folder / MARKER).exists():
            log.info("discarding the half-written %s", folder.name)
            shutil.rmtree(folder)


def resume_point(checkpoints: Path) -> tuple[Path | None, float]:
    """The newest complete checkpoint and the training seconds up to it; (None, 0) without one."""
    markers = [(read_json(marker), marker.parent) for marker in checkpoints.glob(f"checkpoint-*/{MARKER}")]
    if not markers:
        return None, 0.0
    facts, newest = max(markers, key=lambda item: item[0]["step"])
    return newest, facts["seconds"]


def training_record(history: list[dict[str, float]], settings: Settings, seconds: float) -> dict[str, Any]:
    """The learning curve and its summary, from the Trainer's log history (which survives a resume)."""
    per_step = settings.batch_size * settings.train_length
    curve = [
        {"step": e["step"], "tokens": e["step"] * per_step, "loss": e["loss"], "learning_rate": e["learning_rate"]}
        for e in history
        if "loss" in e
    ]
    last = [p["loss"] for p in curve if p["step"] > 0.95 * settings.steps] or [float("nan")]
    tokens = settings.steps * per_step
    return {
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
        "loss": sum(last) / len(last),
        "curve": curve,
    }


def _can_compile() -> bool:
    """Whether torch.compile can work here; on a CPU it needs a C++ compiler. Says so when it cannot."""
    if torch.cuda.is_available() or any(shutil.which(c) for c in ("c++", "g++", "clang++")):
        return True
    log.warning("no C++ compiler found (c++, g++ or clang++): training without torch.compile")
    return False
