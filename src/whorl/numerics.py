"""How far two ways to the same numbers may be apart, and whether there is memory to find out."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

ROUNDINGS = 64  # that are allowed where nothing can be computed in float64 to compare with
AT_ONCE = 2**22  # numbers that are turned to float64 together
FLOAT32 = torch.finfo(torch.float32).eps


def math_dtype(dtype: torch.dtype) -> torch.dtype:
    """What tables, logits and arithmetic are in, for tensors of a dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """For arithmetic that is full precision whatever a model runs in. The meta device knows no autocast. (PyTorch 2.11
    compiles no question of which devices do.)"""
    on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def max_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest absolute difference, taken in float64, of some numbers at a time: logits are many."""
    both = torch.broadcast_tensors(value.detach(), truth.detach())
    parts = zip(*(one.reshape(-1).split(AT_ONCE) for one in both), strict=True)
    return float(torch.stack([(a.double() - b.double()).abs().max() for a, b in parts]).max())


def allowance(outputs: torch.Tensor, truth: torch.Tensor | None) -> float:
    """How far a model's outputs may be from those that another way of computing them gives.

    Four times what they are off from `truth`, the same in float64 (twice for each of the two ways, by the tolerance
    rule of CONTRIBUTING.md), plus one rounding of the largest, to float32 at the finest: tables are float32. Where
    there is no truth, `ROUNDINGS` roundings of the outputs' dtype.
    """
    rounding = max(torch.finfo(outputs.dtype).eps, FLOAT32) * float(outputs.abs().max())
    return ROUNDINGS * rounding if truth is None else 4 * max_error(outputs, truth) + rounding


@torch.no_grad()
def logits_and_budget(model: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, float]:
    """The logits of a float32 model, and their `allowance`."""
    logits = model(*args, **kwargs).logits
    return logits, allowance(logits, copy.deepcopy(model).double()(*args, **kwargs).logits)


@contextmanager
def in_float64(model: Any) -> Iterator[None]:
    """The model computes in float64 meanwhile, as a copy of it in float64 would, and in less memory: the weights and
    buffers of a layer are float64 only while it runs. After that they are the very tensors that they were.

    Outside of layers, a module that reads another's weights, without calling it, meets two dtypes.
    """
    own: dict[torch.Tensor, torch.Tensor] = {}

    def widen(tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            if tensor.is_floating_point() and tensor not in own:
                own[tensor] = tensor.data
                tensor.data = tensor.data.double()

    def put_back(tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            if tensor in own:
                tensor.data = own.pop(tensor)

    hooks = []
    for module, whole in _layer_by_layer(model):
        tensors = [*module.parameters(recurse=whole), *module.buffers(recurse=whole)]
        hooks.append(module.register_forward_pre_hook(lambda *_, tensors=tensors: widen(tensors)))
        hooks.append(module.register_forward_hook(lambda *_, tensors=tensors: put_back(tensors)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        put_back(list(own))  # of modules that were interrupted


def _layer_by_layer(module: torch.nn.Module, listed: bool = False) -> Iterator[tuple[torch.nn.Module, bool]]:
    """Every module for its own tensors, and what stands in a list (a layer of the model) for all that it holds."""
    yield module, listed
    if not listed:
        for child in module.children():
            yield from _layer_by_layer(child, isinstance(module, torch.nn.ModuleList))


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device or can be freed; infinite where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's, of what is gone
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return float("inf")


def peak_memory(device: torch.device) -> float | None:
    """Bytes that this process has held on a device at most; None where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most) if sys.platform == "darwin" else float(most) * 1024


def too_large_to_copy(model: Any, bytes_per_parameter: int) -> str | None:
    """Why copies of a model that take so many bytes per parameter do not fit beside it (with a tenth to spare), or None
    where they do."""
    weights = list(model.parameters())
    needed, free = bytes_per_parameter * sum(p.numel() for p in weights), free_memory(weights[0].device)
    if needed <= 0.9 * free:
        return None
    return f"copies in higher precision need {needed / 2**30:.1f} GiB, of {free / 2**30:.1f} free"
