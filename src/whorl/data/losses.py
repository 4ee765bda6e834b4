"""What a language model loses on token ids: in nats, by token, with bounded memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from whorl.checking import check_ids
from whorl.hosts import OpenHost, headless, tokens_of

CHUNK = 1024  # tokens whose logits are held in float32 at once
LOGITS = 2**28  # at most so many at once in an evaluation: 1 GiB of float32


def check_predicts_next(host: OpenHost) -> None:
    """Raises ValueError for a model that is no causal language model, and so has no logits of the next token: one that
    attends in both directions, and one whose head is of something else than tokens, or missing."""
    name = type(host.model).__name__
    if any(shape.bidirectional for shape in host.shapes):
        raise ValueError(
            f"{name} attends in both directions, and what is asked for is the next token; give a causal language model"
        )
    if headless(host.model):
        raise ValueError(
            f"{name} has no head that predicts the next token, which is what is asked for; give the causal language "
            "model that it is part of, or was trained from"
        )


def window_losses(
    model: torch.nn.Module,
    windows: torch.Tensor,
    vocab_size: int,
    batch_tokens: int = 16384,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """`token_losses` of windows [windows, length] of token ids, in eval mode, on the CPU: [windows, length - 1].

    At most about `batch_tokens` tokens go through the model at a time, and no more logits than `LOGITS`; those of a
    window that has more are made by parts, where the model's logits are what its head makes of its hidden states.
    """
    losses = []
    with evaluating(model) as device:
        for batch in batches(windows, batch_tokens, vocab_size):
            ids = batch.to(device)
            found = _by_parts(model, ids) if ids.numel() * vocab_size > LOGITS else None
            if found is None:
                found = token_losses(model(input_ids=ids, use_cache=False).logits, ids)
            losses.append(found.cpu())
            if progress is not None:
                progress(len(batch))
    return torch.cat(losses)


def batch_logits(
    model: torch.nn.Module,
    windows: torch.Tensor,
    vocab_size: int,
    batch_tokens: int = 16384,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Iterator[torch.Tensor]:
    """Logits [batch, length, vocab] of windows [windows, length] of token ids, in eval mode, on the model's device.

    In batches as those of `window_losses`; `options` are the model's.
    """
    with evaluating(model) as device:
        for batch in batches(windows, batch_tokens, vocab_size):
            yield model(input_ids=batch.to(device), **options).logits
            if progress is not None:
                progress(len(batch))


def logits_at(model: torch.nn.Module, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Logits at some places [n] of one sequence of token ids [tokens], in eval mode: float32 [n, vocab], on the CPU.

    Only these go through the head, where the model can be asked for them. Raises ValueError for ids that it has not.
    """
    check_ids("the sequences", ids, tokens_of(model))
    options: dict[str, Any] = {"use_cache": False}
    with evaluating(model) as device:
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            options["logits_to_keep"] = places.to(device)
            logits = model(input_ids=ids[None].to(device), **options).logits[0]
        else:
            logits = model(input_ids=ids[None].to(device), **options).logits[0, places]
    return logits.float().cpu()


def target_loss(
    model: torch.nn.Module,
    windows: torch.Tensor,
    targets: torch.Tensor,
    vocab_size: int,
    ignored: int,
    batch_tokens: int = 16384,
) -> float:
    """The mean loss in nats of the targets [windows, length] that the logits at the same places of `windows` are asked
    for, but for those that are `ignored`."""
    total, left = 0.0, targets
    for logits in batch_logits(model, windows, vocab_size, batch_tokens):
        here, left = left.tensor_split([len(logits)])
        of_each = (logits.flatten(0, 1).float(), here.flatten().to(logits.device))
        total += float(cross_entropy(*of_each, ignore_index=ignored, reduction="sum"))
    return total / int((targets != ignored).sum())


def token_losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood in nats of every token but the first, float32 [batch, length - 1].

    From logits [batch, length, vocab], of which `CHUNK` tokens at a time are turned to float32.
    """
    losses = [
        cross_entropy(part.float(), targets, reduction="none")
        for row, labels in zip(logits[:, :-1], ids[:, 1:], strict=True)
        for part, targets in zip(row.split(CHUNK), labels.split(CHUNK), strict=True)
    ]
    return torch.cat(losses).view(ids.shape[0], ids.shape[1] - 1)


def _by_parts(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor | None:
    """`token_losses` from the hidden states, `CHUNK` tokens through the head at a time; None where the model does more
    with its logits (a soft cap, a scale), as its config says or those of the last token show, or cannot be asked for
    those alone."""
    base, head = getattr(model, "base_model", model), getattr(model, "get_output_embeddings", lambda: None)()
    if head is None or base is model or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return None
    config = getattr(model, "config", None)
    if config is None or any("logit" in name and value not in (None, False, 1) for name, value in vars(config).items()):
        return None
    hidden: list[torch.Tensor] = []
    seen = base.register_forward_hook(lambda module, given, out: hidden.append(out[0]))
    try:
        last = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    finally:
        seen.remove()
    if len(hidden) != 1 or not torch.allclose(head(hidden[0][:, -1:]), last, rtol=1e-3, atol=1e-4):
        return None
    losses = [
        token_losses(head(hidden[0][:, start : start + CHUNK + 1]), ids[:, start : start + CHUNK + 1])
        for start in range(0, ids.shape[1] - 1, CHUNK)
    ]
    return torch.cat(losses, 1)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[torch.device]:
    """Eval mode without gradients, then the mode that was. Gives the model's device."""
    was_training = model.training
    parameter = next(model.parameters(), None)
    model.eval()
    try:
        with torch.inference_mode():
            yield torch.device("cpu") if parameter is None else parameter.device
    finally:
        model.train(was_training)


def batches(windows: torch.Tensor, batch_tokens: int, vocab_size: int) -> Iterator[torch.Tensor]:
    """`windows` [windows, length] in batches of at most `batch_tokens` tokens and `LOGITS` logits, or of one window."""
    rows = max(1, min(batch_tokens, LOGITS // vocab_size) // windows.shape[1])
    return iter(windows.split(rows))


def entropy_of_counts(ids: torch.Tensor) -> float:
    """Nats per token of the ids' own counts: what a model reaches that knows them and no context."""
    share = ids.flatten().unique(return_counts=True)[1].double() / ids.numel()
    return float(-(share * share.log()).sum())
