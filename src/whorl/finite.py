"""Numbers that are not numbers: which weights hold them, and which module's output is the first that does.

Every comparison with NaN is false, so a measure made of comparisons takes it for "nothing here". What reads a model
asks these before it says anything of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from whorl.checking import few
from whorl.encodings.biases import RelativeBias
from whorl.hosts.transformers.opening import unwrapped


def not_finite(model: Any) -> list[str]:
    """Every weight and kept buffer with a value that is not a number, or infinite: its name and how many.

    None on the meta device (layers that are on disk): those are seen when a forward reads them.
    """
    kept = dict(unwrapped(model).state_dict(keep_vars=True))
    found = []
    for name, weight in kept.items():
        if not isinstance(weight, torch.Tensor) or weight.is_meta or not weight.is_floating_point():
            continue
        values = weight.detach().float() if weight.element_size() == 1 else weight.detach()
        finite = values.isfinite()
        if not finite.all():
            found.append(f"{name} ({int((~finite).sum()):,} of {weight.numel():,})")
    return found


def check_weights(model: Any, name: str = "") -> None:
    """Raises ValueError that names the weights which hold NaN or infinities."""
    broken = not_finite(model)
    if broken:
        raise ValueError(
            f"{name or 'the model'} has weights that are not finite: {few(broken)}. Nothing "
            "measured on it would mean anything; restore the file, or take an earlier checkpoint"
        )


def check_values(values: torch.Tensor, what: str, model: Any, ids: torch.Tensor) -> None:
    """Raises ValueError where `values`, which the model gave for token ids [rows, tokens], are not all finite.

    It names the first module whose output is not, found by running the rows again.
    """
    if not values.isfinite().all():
        raise ValueError(f"{what}: {first_not_finite(model, ids)}")


@torch.no_grad()
def first_not_finite(model: Any, ids: torch.Tensor) -> str:
    """In words, the first module (in the order in which they finish) whose output for ids [rows, tokens] is not finite.

    One row at a time. Minus infinity is what a window's bias says of a hidden key, and counts as finite there.
    """
    inner = unwrapped(model)
    found: list[str] = []

    def noting(module: torch.nn.Module, args: Any, output: Any) -> None:
        if not found and any(_broken(module, tensor) for tensor in _tensors(output)):
            found.append(f"{names[module] or type(module).__name__} ({type(module).__name__})")

    names = {module: name for name, module in inner.named_modules()}
    handles = [module.register_forward_hook(noting) for module in names]
    training = inner.training
    inner.eval()
    try:
        for row in ids:
            inner(input_ids=row[None].to(inner.device))
            if found:
                return f"the first output that is not finite is that of {found[0]}"
    finally:
        inner.train(training)
        for handle in handles:
            handle.remove()
    return "every module's output is finite, so what is made of them is not"


def _broken(module: torch.nn.Module, tensor: torch.Tensor) -> bool:
    hidden = isinstance(module, RelativeBias)
    return bool(tensor.isnan().any() if hidden else not tensor.isfinite().all())


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
