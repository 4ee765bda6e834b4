"""What a language model loses on token ids: in nats, by token, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import cross_entropy

CHUNK = 1024  # tokens whose logits are held in float32 at once
LOGITS = 2**28  # at most so many at once in an evaluation: 1 GiB of float32


def window_losses(
    model: torch.nn.Module,
    windows: torch.Tensor,
    vocab_size: int,
    batch_tokens: int = 16384,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """`token_losses` of windows [windows, length] of token ids, in eval mode, on the CPU: [windows, length - 1].

    At most about `batch_tokens` tokens go through the model at a time, and no more logits than `LOGITS`.
    """
    losses = []
    with evaluating(model) as device:
        for batch in batches(windows, batch_tokens, vocab_size):
            ids = batch.to(device)
            losses.append(token_losses(model(input_ids=ids, use_cache=False).logits, ids).cpu())
            if progress is not None:
                progress(len(batch))
    return torch.cat(losses)


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
