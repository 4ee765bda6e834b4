"""EXTEND: a rotary checkpoint at a longer context, by the methods that need no training, measured before and after."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from whorl import finite
from whorl.attaching import attach, attached, detach
from whorl.attaching.reading import encoding_of, layered, positions_of
from whorl.attaching.saving import save_for_all
from whorl.attaching.seams import attached_encoding
from whorl.attaching.stock import stock_form
from whorl.checking import check_ids, shown
from whorl.data.losses import check_predicts_next, window_losses
from whorl.encodings import Encoding, Layers, Sum, get_scaling
from whorl.encodings.nope import NoPE
from whorl.encodings.rope import Rotary
from whorl.encodings.scaled import Scaled
from whorl.encodings.scalings import Scaling
from whorl.encodings.scalings.base_change import BaseChange
from whorl.encodings.window import Window
from whorl.hosts import OpenHost, open_host, tokens_of
from whorl.registry import entry
from whorl.stages import Update, counted, unheard

log = logging.getLogger(__name__)

SCALINGS = ("linear", "ntk", "ntk-by-parts", "yarn", "llama3")
METHODS = (*SCALINGS, "window")
WINDOWS = (0.125, 0.25, 0.5, 1.0)  # of the training length
TOLERANCE = 0.2  # nats that `auto` lets the loss in range rise by


@dataclass(frozen=True)
class Tried:
    """One method on one text. Losses are nats per token, means over the text's windows.

    by_position    [positions]: of the token after each position
    in_range       at positions below the training length
    past           at the last quarter of the target length
    whole_context  whether every layer reads as far as it does in the untouched model, which a window takes from it
    """

    method: str
    encoding: Encoding
    by_position: torch.Tensor
    in_range: float
    past: float
    whole_context: bool = True

    @property
    def finite(self) -> bool:
        """Whether the loss is finite at every position."""
        return bool(self.by_position.isfinite().all())


Change = Callable[[Encoding], Encoding]  # of one layer's encoding


def changes(method: str, train_length: int, to: int) -> list[tuple[str, Change]]:
    """(name, change of a layer's encoding) of a method that stretches it from `train_length` to `to` tokens.

    linear (position interpolation, 2306.15595), ntk (base change by the factor), ntk-by-parts and yarn (2309.00071) and
    llama3 (2407.21783) scale the spectrum by to / train_length. window hides keys past an eighth, a quarter, a half or
    all of the training length, so that no distance is new: what lies beyond the window is not read at all (what Mistral
    has, and LM-Infinite, 2308.16137, is near to). base=B is another base, for tuning (2310.05209). Raises ValueError
    for other methods.
    """
    check_method(method)
    if method.startswith("base="):
        return [(method, _rescaling(BaseChange(_base(method))))]
    if method == "window":
        sizes = dict.fromkeys(max(1, int(share * train_length)) for share in WINDOWS)
        return [(f"window of {size}", _windowing(size)) for size in sizes]
    arguments: dict[str, Any] = {"factor": to / train_length}
    if method in ("ntk-by-parts", "yarn", "llama3"):
        arguments["original"] = train_length
    return [(method, _rescaling(get_scaling(method)(**arguments)))]


def check_method(method: str) -> None:
    """Raises ValueError for what is no method (`auto` is none: it tries them)."""
    if isinstance(method, str) and method.startswith("base="):
        BaseChange(_base(method))
    else:
        entry("method", method, dict.fromkeys(METHODS), "give auto, base=B or one of these")


def check_target(to: int, train_length: int) -> None:
    """Raises ValueError for a target that is not longer than the training length."""
    if to <= train_length:
        raise ValueError(f"the model was trained at {train_length:,} tokens already, and {to:,} were asked for")


def _base(method: str) -> float:
    try:
        return float(method.removeprefix("base="))
    except ValueError:
        raise ValueError(f"cannot read the base of {method!r}; write base=500 or base=1e6") from None


def _rescaling(scaling: Scaling) -> Change:
    """The same encoding with the spectrum of its rotary part scaled; unchanged where nothing turns."""

    def change(encoding: Encoding) -> Encoding:
        if isinstance(encoding, Sum):
            return Sum(tuple(change(part) for part in encoding.parts))
        turns = isinstance(encoding, Rotary) and not isinstance(encoding, NoPE)
        return Scaled(encoding, (scaling,)) if turns else encoding

    return change


def _windowing(size: int) -> Change:
    """The same encoding with this window, in the place of a wider one."""

    def change(encoding: Encoding) -> Encoding:
        parts = encoding.parts if isinstance(encoding, Sum) else (encoding,)
        kept = [part for part in parts if not isinstance(part, Window)]
        return Sum((*kept, Window(size))) if kept else Window(size)

    return change


def see_new_distances(host: OpenHost, encoding: Encoding, train_length: int) -> list[bool]:
    """Of each layer, whether it sees keys at distances that training at `train_length` tokens never showed.

    It does not where a window, the host's own or the encoding's, or the chunks that it attends in, lie within that.
    """
    return [reach > train_length for reach in _reaches(host, encoding)]


def _reaches(host: OpenHost, encoding: Encoding) -> list[float]:
    """Of each layer, the keys at distances below what it reads at most: tokens, or infinity."""
    found = []
    for i, layer_type in enumerate(host.layer_types):
        rule = encoding.for_layer(i, layer_type)
        parts = rule.parts if isinstance(rule, Sum) else (rule,)
        chunk = getattr(host.model.config.get_text_config(), "attention_chunk_size", None)
        limits = [host.windows[i], chunk if layer_type == "chunked_attention" else None]
        limits += [part.size for part in parts if isinstance(part, Window)]
        found.append(min((limit for limit in limits if limit is not None), default=math.inf))
    return found


def extended(host: OpenHost, encoding: Encoding, change: Change, train_length: int) -> Encoding:
    """The encoding with the change made in the layers that see new distances, and the others as they are.

    Raises ValueError where no layer sees any, or none of those is changed (position-free ones, say).
    """
    rules = [encoding.for_layer(i, layer_type) for i, layer_type in enumerate(host.layer_types)]
    new = see_new_distances(host, encoding, train_length)
    if not any(new):
        raise ValueError(
            f"every layer of this {type(host.model).__name__} sees no further than the training length, "
            f"{train_length:,} tokens ({encoding}), so that no distance is new to it and there is nothing to stretch"
        )
    changed = [change(rule) if reaches else rule for rule, reaches in zip(rules, new, strict=True)]
    if changed == rules:
        raise ValueError(
            f"{encoding} does not turn the layers that see further than the training length, {train_length:,} tokens, "
            "so that there is nothing to stretch"
        )
    if all(new) and isinstance(encoding, Layers):
        every = [change(rule) for rule in encoding.rules]
        return Layers(dict(zip(encoding.types, every, strict=True)) if encoding.types else every)
    return layered(host, changed)


def loss_by_position(
    model: Any,
    windows: torch.Tensor,
    ignored: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Mean loss (nats) of the token after each position, over windows [windows, tokens]: [tokens - 1].

    ignored: a token that is no target (the tokenizer's unknown one, of which no model has learnt anything). progress:
    told how many more windows were read.
    """
    inner = open_host(model).model
    losses = window_losses(inner, windows, inner.config.get_text_config().vocab_size, progress=progress).double()
    counted = torch.ones_like(losses) if ignored is None else (windows[:, 1:] != ignored).double()
    return (losses * counted).sum(0) / counted.sum(0).clamp_min(1)


def extend(
    model: Any,
    to: int,
    windows: torch.Tensor,
    *,
    train_length: int,
    method: str = "auto",
    tolerance: float = TOLERANCE,
    ignored: int | None = None,
    update: Update = unheard,
) -> tuple[Tried, list[Tried]]:
    """Attaches the method that reads `to` tokens best, and returns it and all that were tried, the untouched one first.

    windows [windows, tokens]: text that is `to` tokens long or nearly so. `auto` tries every method without training
    and, of those that read the whole context and of leaving the model as it is ("none"), keeps the lowest loss at the
    last quarter of the positions among those that raise the loss in range by at most `tolerance` nats. A window, with
    which the model reads fewer tokens than before, it measures beside them and never keeps: that is asked for by its
    name.
    Raises ValueError for a target that is not longer than the training length, an unknown method, text that is too
    short, a model that is no causal language model, does not turn or sees no new distance, and one whose weights or
    losses are not finite.

    Layers that see no further than the training length stay as they are: nothing that they meet is new.

    update: told of the windows that are read, of all methods together, and of how many.
    """
    for name, value in {"to": to, "train_length": train_length}.items():
        if not isinstance(value, int):
            raise ValueError(f"{name} must be a number of tokens, got {shown(value)}")
    if not isinstance(windows, torch.Tensor) or windows.dim() != 2:
        got = f"shape {tuple(windows.shape)}" if isinstance(windows, torch.Tensor) else shown(windows)
        raise ValueError(f"windows must be a tensor of token ids [windows, tokens], got {got}")
    encoding = encoding_of(model)
    check_target(to, train_length)
    if windows.shape[1] <= train_length + 1:
        raise ValueError(
            f"windows of {windows.shape[1]:,} tokens show nothing past the training length, {train_length:,}; "
            f"give a text of at least {to:,} tokens"
        )
    methods = {name: changes(name, train_length, to) for name in (METHODS if method == "auto" else (method,))}
    host = open_host(model)
    check_predicts_next(host)
    check_ids("windows", windows, tokens_of(host.model))
    if (rows := positions_of(host)) is not None and windows.shape[1] > rows:
        raise ValueError(
            f"{type(host.model).__name__} with {encoding} has {rows:,} learned positions and nothing that could be "
            f"stretched to {to:,} tokens; `whorl convert MODEL --to rope --heal TOKENS` makes it one that turns"
        )
    if not any(see_new_distances(host, encoding, train_length)):
        extended(host, encoding, lambda rule: rule, train_length)  # raises, and says why
    candidates: list[tuple[str, Encoding]] = []
    for one in methods.values():
        for name, change in one:
            try:
                candidates.append((name, extended(host, encoding, change, train_length)))
            except ValueError as error:
                if method != "auto":
                    raise
                log.warning("%s cannot be had here: %s", name, error)
    if method == "auto":
        _check_any_reads_on([name for name, _ in candidates if name in SCALINGS], len(candidates), host, encoding)
    finite.check_weights(model)
    before = attached(model)
    reached = _reaches(host, encoding)

    read = counted(update, (1 + len(candidates)) * len(windows))

    def measured(name: str, encoding: Encoding) -> Tried:
        losses = loss_by_position(model, windows, ignored, read)
        found = summed(name, encoding, losses, train_length, to)
        whole = all(now >= was for was, now in zip(reached, _reaches(host, encoding), strict=True))
        found = replace(found, whole_context=whole)
        if not found.finite:
            reasons.append(f"{name}: {finite.first_not_finite(model, windows)}")
        return found

    reasons: list[str] = []
    tried = [measured("none", encoding)]
    if not math.isfinite(tried[0].in_range):
        raise ValueError(f"the losses of the untouched model are not finite in range; {reasons[0]}")
    model.eval()
    try:
        for name, candidate in candidates:
            try:
                attach(model, candidate)
            except ValueError as error:
                if method != "auto":
                    raise
                log.warning("%s cannot be had here: %s", name, error)
                continue
            tried.append(measured(name, candidate))
    finally:
        if before is not None:
            attach(model, encoding)  # what it has learned is in every method, too
        elif attached(model) is not None:  # the first method may have been refused
            detach(model)
    eligible = [t for t in tried[1:] if t.whole_context or method != "auto"]
    _check_any_reads_on(eligible, len(tried) - 1, host, encoding)
    for reason in reasons:
        log.warning("losses that are not finite with the method %s", reason)
    if not any(t.finite for t in eligible):
        raise ValueError(f"no method gives finite losses; {'; '.join(reasons)}")
    best = choose(tried[0], eligible, tolerance, or_none=method == "auto")
    if best is not tried[0]:
        attach(model, best.encoding)
    return best, tried


def _check_any_reads_on(methods: Sequence[Any], in_all: int, host: OpenHost, encoding: Encoding) -> None:
    """Raises ValueError where no method that reads the whole context is left; in_all counts those of windows too."""
    if not methods:
        only = "; --method window can, and reads nothing beyond the window" if in_all else ""
        raise ValueError(
            "none of the methods that read the whole context can be had on "
            f"{type(host.model).__name__} with {encoding}{only}"
        )


def summed(name: str, encoding: Encoding, losses: torch.Tensor, train_length: int, to: int) -> Tried:
    """A method's losses by position, with their means in range and over the last quarter of the target length."""
    quarter = max(train_length, len(losses) - to // 4)
    return Tried(name, encoding, losses, float(losses[: train_length - 1].mean()), float(losses[quarter:].mean()))


def choose(untouched: Tried, methods: Sequence[Tried], tolerance: float, or_none: bool = True) -> Tried:
    """The lowest loss past the training length, among methods that keep the loss in range where there are any.

    or_none: leaving the model as it is stands among them, and wins where no method is lower. Of what has finite losses,
    of which there must be one method."""
    methods = [t for t in methods if t.finite]
    kept = [t for t in methods if t.in_range <= untouched.in_range + tolerance]
    if or_none and untouched.finite:
        return min([untouched, *kept], key=lambda t: t.past)
    return min(kept or methods, key=lambda t: t.past)


def save(model: Any, folder: Path, tokenizer: Any, longest: int) -> str:
    """Writes the model and its tokenizer so that stock transformers load them where they can say the encoding, and says
    which of the two it is. A Llama with a window is written as a Mistral, whose code is the same but for it.

    longest: tokens, of the config and the tokenizer.
    """
    host = open_host(model)
    config = host.model.config.get_text_config()
    was = config.max_position_embeddings
    mistral = _as_mistral(host.model)
    config.max_position_embeddings = longest
    try:
        if mistral is not None:
            mistral.config.max_position_embeddings = longest
            save_for_all(mistral, folder)
            how = "stock, as a Mistral (a Llama with a window)"
        else:
            form = stock_form(host.model)
            save_for_all(host.model, folder)
            how = "stock" if not isinstance(form, str) else f"whorl.load ({form})"
    finally:
        config.max_position_embeddings = was
    if tokenizer is not None:
        tokenizer.model_max_length = longest
        tokenizer.save_pretrained(folder)
    return how


def _as_mistral(model: Any) -> Any:
    """A Llama whose encoding is a stock spectrum and one window, as the Mistral that does the same; None for others."""
    from transformers import MistralConfig, MistralForCausalLM

    encoding = attached_encoding(model)
    parts = getattr(encoding, "parts", ())
    windows = [part for part in parts if isinstance(part, Window)]
    if type(model).__name__ != "LlamaForCausalLM" or len(windows) != 1 or len(parts) != 2:
        return None
    (rotary,) = (part for part in parts if not isinstance(part, Window))
    config = model.config.to_dict()
    if config.get("attention_bias") or config.get("mlp_bias"):
        return None
    form = stock_form(model, rotary)
    if isinstance(form, str):
        return None
    names = set(MistralConfig().to_dict()) - {"model_type", "architectures", "sliding_window", "transformers_version"}
    kept = {name: value for name, value in config.items() if name in names}
    kept |= {**form.config, "sliding_window": windows[0].size}
    twin = MistralForCausalLM(MistralConfig(**kept)).to(model.dtype)
    state = {n: p for n, p in model.state_dict().items() if not n.startswith("model.whorl.")}
    twin.load_state_dict(state)
    if getattr(model, "generation_config", None) is not None:
        twin.generation_config = model.generation_config
    return twin.eval()
