"""What is examined: a model with its seams, and what several checks need, worked out once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from whorl.attaching.plan import layer_plan
from whorl.attaching.seams import attached_encoding
from whorl.diagnosis.answers import NotApplicable
from whorl.diagnosis.files import Files
from whorl.diagnosis.knowing import skeleton
from whorl.diagnosis.reading import UNINITIALISED, Reading, readings, rounded_angles, undisturbed, usable
from whorl.encodings import Encoding
from whorl.finite import not_finite
from whorl.hosts import OpenHost, headless, open_host, text_config
from whorl.hosts.transformers.rope_settings import length_dependent, of_layers, unscaled_up_to
from whorl.numerics import allowance, max_error, too_large_to_copy

TOKENS = 40  # of the sequences that are run


@dataclass
class Subject:
    """A model under examination.

    text    token ids [windows, tokens] of a text that the model should read well, or None
    text_given  whether a user gave it
    length  the tokens that the model is meant to be run at, or None for what its config declares
    files   what the directory holds that it came from, or None
    """

    model: Any
    host: OpenHost
    name: str = ""
    text: torch.Tensor | None = None
    text_given: bool = False
    length: int | None = None
    files: Files | None = None

    @cached_property
    def config(self) -> Any:
        return text_config(self.host.model.config)

    @cached_property
    def encoding(self) -> Encoding | None:
        """What whorl has attached."""
        return attached_encoding(self.model)

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        """The stock rotary module's tables. Raises NotApplicable where there is none, where whorl has attached another,
        and for a module that does not run."""
        if self.encoding is not None:
            raise NotApplicable(f"whorl attached {self.encoding}: its tables are made in float64 for each forward")
        if self.host.rotary is None:
            raise NotApplicable(f"{type(self.host.model).__name__} has no rotary module")
        try:
            return readings(self.host, self.config)
        except (RuntimeError, TypeError, IndexError) as error:  # of stock code: its settings make no tables
            raise NotApplicable("the rotary module does not run") from error

    @cached_property
    def rotary_settings(self) -> list[dict[str, Any]]:
        """The rope settings of every layer type that has some; empty under an attached encoding."""
        if self.encoding is not None or self.host.rotary is None:
            return []
        found = [of_layers(self.config, t, self.host.typed) for t in dict.fromkeys(self.host.layer_types)]
        return [f for f in found if f]

    @cached_property
    def context(self) -> int | None:
        """The tokens that the config declares; None where it says none, or nonsense."""
        found = getattr(self.config, "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 1 else None

    @cached_property
    def bidirectional(self) -> bool:
        return self.host.shapes[0].bidirectional

    @cached_property
    def headless(self) -> bool:
        return headless(self.host.model)

    @cached_property
    def absolute(self) -> bool:
        """Whether vectors of positions are added to the embedding."""
        if self.encoding is not None:
            return "add" in self.encoding.kinds
        return self.host.position_table is not None

    @cached_property
    def skeleton(self) -> OpenHost | None:
        """The model that the config describes now, without weights; None where it cannot be built."""
        return skeleton(self.host)

    def declared_to_turn(self) -> list[bool]:
        """Per layer, whether the config (or the attached encoding) says that q and k turn."""
        by_code = self.host.turns if self.skeleton is None else self.skeleton.turns
        listed = getattr(self.config, "no_rope_layers", None)
        if isinstance(listed, list) and len(listed) == len(by_code):
            by_code = tuple(map(bool, listed))  # 1: the layer has rotary
        if self.encoding is not None:
            plan = layer_plan(replace(self.host, turns=by_code), self.encoding)
            return [bool(layer.spectrum.turning) for layer in plan.layers]
        without = {t for t in self.host.layer_types if of_layers(self.config, t, self.host.typed) is None}
        without |= {r.label for r in self.readings if r.meant is not None and not len(r.meant.turning)}
        return [
            t and n not in without and "" not in without for t, n in zip(by_code, self.host.layer_types, strict=True)
        ]

    @cached_property
    def ordinary_tokens(self) -> torch.Tensor:
        """Every token id but the special ones."""
        special = {v for k, v in vars(self.config).items() if k.endswith("_token_id") and isinstance(v, int)}
        return torch.tensor([i for i in range(self.config.vocab_size) if i not in special])

    def forward(self, model: Any, ids: torch.Tensor, **arguments: Any) -> Any:
        """This model's (or a copy's) whole output, with what its kind needs besides token ids."""
        if not self.bidirectional:
            arguments.setdefault("use_cache", False)
        arguments.setdefault("return_dict", True)
        if getattr(self.config, "type_vocab_size", 0):
            arguments["token_type_ids"] = torch.zeros_like(ids)  # BERT looks them up by position otherwise
        return (open_host(model).base if self.headless else model)(ids, **arguments)

    @cached_property
    def not_finite(self) -> list[str]:
        """Every weight with a value that is not a number, or infinite: its name and how many."""
        return not_finite(self.host.model)

    @property
    def runs(self) -> Runs:
        """The model as it runs. Raises NotApplicable where it does not, which the check "runs" reports."""
        if self.not_finite:
            raise NotApplicable("some weights are not finite")
        found = self.first_run
        if isinstance(found, NotApplicable):
            raise found
        if isinstance(found, Exception):
            raise NotApplicable("the model does not run") from found
        if not torch.isfinite(found.outputs).all():
            raise NotApplicable(f"the model's {found.what} are not finite")
        return found

    @cached_property
    def first_run(self) -> Runs | Exception:
        """The model as it runs, or what it raised, or NotApplicable for one that is not ready to run."""
        if any(p.is_meta for p in self.host.model.parameters()):
            return NotApplicable("its weights are on the meta device")
        with suppress(NotApplicable):  # what does not run says so below
            if any(r.cause == UNINITIALISED for r in self.readings):
                return NotApplicable("its frequencies are not initialised")
        try:
            return Runs(self)
        except Exception as error:  # of stock code, and the very thing that is asked about
            return error


class Runs:
    """The model in float32 or better, some tokens, what it makes of them, and how far another way there may be off.

    outputs   logits [rows, tokens, vocabulary]; or where the model has no language head (a base model, a classifier)
              the hidden states that its base model gives

    Half precision models are copied to float32, so that rounding (and experts that change with it) hides no fault. The
    allowance is `whorl.numerics.allowance`: four times the error against float64, plus a rounding.
    """

    def __init__(self, subject: Subject) -> None:
        model = subject.host.model
        half = torch.finfo(model.dtype).bits < 32
        self.subject = subject
        if too_large := too_large_to_copy(model, 12 if half else 8):
            raise NotApplicable(too_large)
        self.model = copy.deepcopy(model).float() if half else model
        self.autocasts = _autocasts(subject)
        self.host = open_host(self.model)
        self.length = min(TOKENS, subject.context or TOKENS, subject.host.table_rows or TOKENS)
        self.ids = self._ids()
        self.outputs = torch.cat([self(row) for row in self.ids.split(1)])  # alone, so that rows cannot mix in it
        self.budget = self._budget()
        self._rounded: dict[int, float] = {}  # by the last position

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
        """Outputs [batch, tokens, ...], without a cache; the rotary module forgets the call."""
        with self.undisturbed():
            return self.outputs_of(self._run(self.model, ids, **arguments))

    def undisturbed(self) -> Any:
        """A context after which the rotary module is as it was."""
        return undisturbed(*_rotary(self.host))

    @property
    def what(self) -> str:
        return "hidden states" if self.subject.headless else "logits"

    def outputs_of(self, whole: Any) -> torch.Tensor:
        return whole.last_hidden_state if self.subject.headless else whole.logits

    @torch.no_grad()
    def as_it_is(self) -> torch.Tensor:
        """Outputs of the model itself, in its own dtype and autocast, for the first row."""
        model = self.subject.host.model
        with undisturbed(*_rotary(self.subject.host)):
            return self.outputs_of(self.subject.forward(model, self.ids[:1]))

    @torch.no_grad()
    def in_one_state(self, ids: torch.Tensor, **arguments: Any) -> Any:
        """The model's whole output; the call may leave its mark on the rotary module, as a user's does."""
        return self._run(self.model, ids, **arguments)

    def _run(self, model: Any, ids: torch.Tensor, **arguments: Any) -> Any:
        with _without_autocast(model, self.autocasts):
            return self.subject.forward(model, ids, **arguments)

    def _ids(self) -> torch.Tensor:
        """Two rows of tokens: of the text where there is one, or else drawn at random. Never a special one."""
        text, ordinary = self.subject.text, self.subject.ordinary_tokens
        device = self.model.get_input_embeddings().weight.device
        if text is not None and text.shape[0] > 1 and text.shape[1] >= self.length:
            return text[:2, : self.length].contiguous().to(device)
        drawn = torch.randint(len(ordinary), (2, self.length), generator=torch.Generator().manual_seed(0))
        return ordinary[drawn].to(device)

    def _budget(self) -> float:
        try:
            twin = copy.deepcopy(self.model).double()
            with torch.no_grad():
                truth = torch.cat([self.outputs_of(self._run(twin, row)) for row in self.ids.split(1)])
        except (RuntimeError, TypeError, ValueError, NotImplementedError):  # experts without float64, devices without
            return allowance(self.outputs, None)
        if truth.dtype != torch.float64:  # somebody's own forward, which the copy shares
            return allowance(self.outputs, None)
        return allowance(self.outputs, truth)

    def allowed(self, last_position: int) -> float:
        """The allowance at positions that end there.

        Stock tables are of float32 angles, each off by up to 2^-24 of itself, which grows with the position; whorl's
        own are exact. What such roundings make of the outputs is measured: angles are moved by as much, to either side
        at random, and twice what comes of it is added (the tolerance rule of CONTRIBUTING.md).
        """
        if self.subject.encoding is not None or self.subject.host.rotary is None:
            return self.budget
        if last_position not in self._rounded:
            start = max(0, last_position - self.length)
            positions = start + torch.arange(self.length, device=self.ids.device)[None]
            row = self.ids[:1]
            arguments = {"position_ids": positions, "attention_mask": torch.ones_like(row)}
            own = self(row, **arguments)
            with rounded_angles(self.host.rotary):
                self._rounded[last_position] = max_error(self(row, **arguments), own)
        return self.budget + 2 * self._rounded[last_position]

    @cached_property
    def border(self) -> int | None:
        """The position past which the stock frequencies are others (rope types dynamic and longrope), or None."""
        for settings in self.subject.rotary_settings:
            if length_dependent(settings):
                return unscaled_up_to(settings, self.subject.context)
        return None

    def positions(self) -> torch.Tensor:
        """[1, tokens]: from 0 on, or across the border where there is one, so that what changes there is seen."""
        start = 0 if self.border is None else max(0, self.border - self.length // 2)
        return start + torch.arange(self.length, device=self.ids.device)[None]


def _rotary(host: OpenHost) -> list[Any]:
    return [] if host.rotary is None else [host.rotary]


@torch.no_grad()
def _autocasts(subject: Subject) -> bool:
    """Whether the model's own forward enters autocast, as accelerate's mixed precision makes it."""
    model = subject.host.model
    device = model.device.type
    inside: list[bool] = []
    handle = subject.host.first_layer.register_forward_pre_hook(
        lambda *_: inside.append(torch.is_autocast_enabled(device))
    )
    try:
        with torch.autocast(device, enabled=False), undisturbed(*_rotary(subject.host)):
            subject.forward(model, subject.ordinary_tokens[None, :1].to(model.device))
    finally:
        handle.remove()
    return any(inside)


@contextmanager
def _without_autocast(model: Any, own: bool) -> Iterator[None]:
    """While open, forwards keep their precision: rounding would hide a difference. `own`: the model's instance forward
    enters autocast itself, and its class's runs in its place."""
    kept = model.__dict__.pop("forward", None) if own else None
    try:
        with torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        if kept is not None:
            model.forward = kept


@contextmanager
def openable(model: Any) -> Iterator[None]:
    """While the seams are looked for, buffers that hold no frequencies hold zeros: a spectrum refuses NaN."""
    kept = []
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and not buffer.is_meta and not usable(buffer):
            kept.append((buffer, buffer.clone()))
            buffer.zero_()
    try:
        yield
    finally:
        for buffer, values in kept:
            buffer.copy_(values)
