"""CONVERT: the encoding of a trained model is swapped, and the model is healed by training on."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback

from whorl import finite
from whorl.attaching import attach, attached
from whorl.attaching.filling import filled, what_was_filled
from whorl.attaching.plan import layer_plan
from whorl.attaching.reading import encoding_of, layered, positions_of
from whorl.attaching.seams import attached_encoding
from whorl.checking import check_ids, check_numbers
from whorl.conversion.extending import see_new_distances
from whorl.conversion.resuming import Diverged
from whorl.data.losses import check_predicts_next
from whorl.encodings import Encoding, Sum, parse
from whorl.encodings.frequencies import Frequencies
from whorl.files import read_json, write_json
from whorl.hosts import open_host
from whorl.randomness import put_back
from whorl.results.extension import Conversion, Losses, Within
from whorl.results.training import Step
from whorl.stages import Stage, Update, counted, silent, unheard
from whorl.tasks.base import TaskSettings
from whorl.tasks.language import Language
from whorl.training.attention import HEALED_WRITTEN_OUT_UP_TO, for_evaluation, for_training
from whorl.training.checkpoints import KEPT, complete, discard_damaged, resume_point
from whorl.training.recipe import Recipe
from whorl.training.trainer import InTime, check_memory, release, training_arguments, training_record, vocabulary

log = logging.getLogger(__name__)

TIMED = 512  # tokens
BANDS = 8  # steps in which a gradual change stops the pairs
TRAINED = "trained.safetensors"  # in a checkpoint


@dataclass(frozen=True)
class Healing:
    """How a model is trained on after a swap.

    tokens         in all; train_length tokens a sequence, batch_size sequences a step
    learning_rate  the peak, after a warm-up of a twentieth of the steps, then down to 0 along a cosine
    gradual        the share of the training over which the pairs that the new encoding does not rotate stop turning,
                   slowest first, one band at a time; 0 swaps at once
    """

    tokens: int
    train_length: int
    batch_size: int = 32
    learning_rate: float = 5e-4
    gradual: float = 0.0
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_numbers(gradual=self.gradual, seed=self.seed)

    def recipe(self) -> Recipe:
        return Recipe(
            self.train_length,
            self.tokens,
            self.batch_size,
            self.learning_rate,
            precision=self.precision,
            seed=self.seed,
        )


def language(
    text: str, tokenizer: str, train_length: int, lengths: tuple[int, ...], windows: int, tail: int
) -> Language:
    """Text to heal on and held-out text to measure on; see `tasks.language`."""
    return Language(TaskSettings(train_length, lengths, tail=tail, windows=windows, text=text, tokenizer=tokenizer))


def evaluated(model: Any, task: Language, update: Update = unheard) -> Losses:
    """Loss (nats per token) of the same target tokens at every length of the task; None past a learned table's end.

    update: told of the windows that are read, of all lengths together.
    Raises ValueError for NaN, and for a task with tokens that the model does not have.
    """
    check_tokens(model, task)
    host = open_host(model)
    for_evaluation(host.model)
    rows = positions_of(host)
    within = [n for n in task.settings.lengths if rows is None or n <= rows]
    losses: Losses = dict.fromkeys(task.settings.lengths)
    advance = counted(update, len(within) * len(task.windows))
    for n in within:
        losses[n] = float(torch.tensor(task.evaluate(model, n, progress=advance).values["tail"]).log())
    for n, loss in losses.items():
        if loss is not None and not math.isfinite(loss):
            where = finite.first_not_finite(model, task.windows[:, -n:])
            raise ValueError(f"the loss at {n:,} tokens is not finite; {where}")
    return losses


@put_back()
def convert(
    model: Any,
    to: str | Encoding,
    task: Language,
    healing: Healing,
    folder: Path,
    *,
    control: bool = True,
    stage: Stage = silent,
) -> Conversion:
    """Swaps the encoding of `model` for `to` and trains it on, in place. Returns what was measured.

    HoPE's training length is the healing's. The control is the untouched model given the same training: same batches in
    the same order, same schedule. It is None, and `control_diverged` says why, where that training diverged. `within`
    has the layers that are converted although no distance past the training length reaches them, and the notation that
    leaves them as they are.
    stage: told by name of what begins, the two trainings (healing, control) and four measurements; gives what is told
    of the steps and windows that are done.
    folder: for the trainings' checkpoints, and losses. What an interrupted run of the same arguments left there goes
    on, to the numbers of an undisturbed one; each work needs its own. Raises ValueError for an encoding that the model
    cannot carry and a training that memory cannot hold, before anything is trained, for weights and losses that are not
    finite, and (`Diverged`) when the healing diverges.
    """
    host, asked = open_host(model), parse(to)
    was, target = from_and_to(model, asked, healing.train_length)
    rows = positions_of(host)
    if control and rows is not None and healing.train_length > rows:
        raise ValueError(
            f"the untouched {type(host.model).__name__} has {rows:,} learned positions, and cannot be trained at "
            f"{healing.train_length:,} tokens beside the converted one; give --no-control, or --train-length {rows}"
        )
    words = what_was_filled(host, asked, target, healing.train_length, attached_encoding(model))
    finite.check_weights(model)
    check_memory(model, healing.recipe(), copies=int(control))
    within = _within(model, was, target, healing.train_length)
    untouched = copy.deepcopy(model) if control else None
    before = _measured(model, task, folder / "before.json", stage("loss before"))
    attach(model, target)
    swapped = _measured(model, task, folder / "swapped.json", stage("loss after the swap"))
    curve = train_on(model, task, healing, folder / "healing", stage("healing"), _bands(model, was, target, healing))
    found = Conversion(
        from_=str(was),
        to=str(target),
        tokens=healing.tokens,
        within=within,
        filled=words,
        before=before,
        swapped=swapped,
        curve=curve,
        healed=_measured(model, task, folder / "healed.json", stage("loss after the healing")),
        control=None,
        text=task.settings.text,
        train_length=healing.train_length,
        learning_rate=healing.learning_rate,
        gradual=healing.gradual,
    )
    if untouched is None:
        return found
    same = replace(healing, gradual=0.0)
    try:
        curve = train_on(untouched, task, same, folder / "control", stage("control"), [])
    except Diverged as error:  # which is no reason to lose the healed model
        log.warning("the untouched model, trained alike: %s", error)
        return replace(found, control_diverged=str(error))
    losses = _measured(untouched, task, folder / "control.json", stage("loss of the control"))
    return replace(found, control=losses, control_curve=curve)


def from_and_to(model: Any, to: str | Encoding, train_length: int) -> tuple[Encoding, Encoding]:
    """What a model has, and what `to` means on it. Raises ValueError where they are the same, where the model cannot
    have it, and where it is no causal language model. No weight is asked."""
    host = open_host(model)
    check_predicts_next(host)
    was, target = encoding_of(model), filled(host, parse(to), train_length, attached_encoding(model))
    if target == was:
        raise ValueError(f"the model has {was} already; name another encoding to convert it to")
    layer_plan(host, target, 0)
    return was, target


@torch.no_grad()
def tokens_per_second(model: Any, train_length: int) -> float:
    """How many tokens are trained on in a second, by the second of two forwards over at most 512: a step takes three
    times that."""
    host = open_host(model)
    count = min(train_length, TIMED, positions_of(host) or TIMED)
    tokens = torch.zeros(1, count, dtype=torch.long, device=model.device)
    for_evaluation(host.model)
    for _ in range(2):
        start = monotonic()
        model(tokens)
        if tokens.is_cuda:
            torch.cuda.synchronize()
        seconds = monotonic() - start
    return tokens.numel() / max(3 * seconds, 1e-9)


def _measured(model: Any, task: Language, path: Path, update: Update) -> Losses:
    """The losses that an interrupted run of the same arguments left in a file, or else measured, and left there."""
    for_evaluation(open_host(model).model)  # as measuring does: the training after it depends on it
    if path.exists():
        return {int(length): loss for length, loss in read_json(path).items()}
    found = evaluated(model, task, update)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {str(length): loss for length, loss in found.items()})
    return found


def check_tokens(model: Any, task: Language) -> None:
    """Raises ValueError for a task whose text has tokens that the model does not have."""
    for name, ids in (("windows", task.windows), ("tokens to train on", task.train_tokens)):
        check_ids(name, ids, vocabulary(model))


def train_on(
    model: Any,
    task: Language,
    healing: Healing,
    folder: Path,
    update: Update,
    bands: list[Encoding],
) -> tuple[Step, ...]:
    """Trains a model further and returns its learning curve; `bands` are attached one after another on the way.

    It goes on from the newest whole checkpoint in `folder`, where a run of the same arguments was interrupted.
    """
    recipe = healing.recipe()
    open_host(model).model.config.use_cache = False
    for_training(model, recipe.train_length, HEALED_WRITTEN_OUT_UP_TO)
    arguments = training_arguments(recipe, folder, vocabulary(model))
    discard_damaged(folder)
    checkpoint, _ = resume_point(folder)
    trainer = _Healer(
        model=model,
        args=arguments,
        train_dataset=task.training_set(recipe.seed, recipe.steps * recipe.batch_size),
        callbacks=[_Steps(model, recipe.steps, update, bands, healing.gradual), InTime()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    release(trainer, model)
    return training_record(trainer.state.log_history, recipe, 1.0).curve


def _within(model: Any, was: Encoding, target: Encoding, train_length: int) -> Within | None:
    """Layers that change although they see no further than the training length, and the notation that leaves them."""
    host = open_host(model)
    rules = [(was.for_layer(i, t), target.for_layer(i, t)) for i, t in enumerate(host.layer_types)]
    new = see_new_distances(host, was, train_length)
    layers = [i for i, ((a, b), far) in enumerate(zip(rules, new, strict=True)) if a != b and not far]
    if not layers:
        return None
    kept = [b if far else a for (a, b), far in zip(rules, new, strict=True)]
    return Within(tuple(layers), str(layered(host, kept)) if any(new) else None)


class _Healer(Trainer):
    """A checkpoint's weights are the tensors that are trained, by name and as they are: what the model's own save would
    make of them (stock terms, a table in the place of another) is for readers, and does not fit again."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().contiguous() for name, tensor in self._trained().items()}, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        kept, trained = load_file(Path(resume_from_checkpoint) / TRAINED), self._trained()
        if kept.keys() != trained.keys():
            raise ValueError(f"{resume_from_checkpoint} is of another model: its weights have other names; delete it")
        with torch.no_grad():
            for name, tensor in trained.items():
                tensor.copy_(kept[name])

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self.model.named_parameters() if tensor.requires_grad}


class _Steps(TrainerCallback):
    """Tells of progress, marks checkpoints complete, and attaches the bands of a gradual change when their time has
    come."""

    def __init__(self, model: Any, steps: int, update: Update, bands: list[Encoding], share: float) -> None:
        self.model, self.steps, self.update, self.bands, self.share = model, steps, update, bands, share
        self.at = -1

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.bands:
            return
        done = state.global_step / (self.share * self.steps)
        at = min(len(self.bands) - 1, int(done * len(self.bands)))
        if at != self.at:
            self.at = at
            attach(self.model, self.bands[at])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.update(state.global_step, self.steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, over = state.global_step, state.global_step >= state.max_steps  # the Trainer saves at the last step too
        complete(Path(args.output_dir) / f"checkpoint-{step}", step, 0.0, kept=1 if over else KEPT)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise Diverged(
                f"the training diverged: its loss is {loss} at step {state.global_step:,} of {self.steps:,}; try a "
                f"lower learning rate than {args.learning_rate:g}"
            )


def _bands(model: Any, was: Encoding, target: Encoding, healing: Healing) -> list[Encoding]:
    """The encodings of a gradual change, the target last: the pairs that it does not rotate stop, slowest first."""
    if not healing.gradual:
        return []
    head_dim = open_host(model).shapes[0].head_dim
    before, after = was.spectrum(head_dim), target.spectrum(head_dim)
    summed = isinstance(was, Sum) or isinstance(target, Sum)  # whose other parts no band would have
    if (
        summed or before is None or after is None or attached(model) is None
        or len(before.frequencies) != len(after.frequencies)
    ):  # fmt: skip
        raise ValueError(
            f"a gradual change stops the rotation of pairs of one rotary encoding, and {was} to {target} is not that"
        )
    stilled = [i for i, (f, g) in enumerate(zip(before.frequencies, after.frequencies, strict=True)) if f and not g]
    bands: list[Encoding] = []
    for band in range(1, BANDS):
        kept = stilled[: len(stilled) - len(stilled) * band // BANDS]
        values = [
            f if g or i in kept else 0.0
            for i, (f, g) in enumerate(zip(before.frequencies, after.frequencies, strict=True))
        ]
        bands.append(Frequencies(tuple(values), after.amplitude))
    return [*bands, target]
