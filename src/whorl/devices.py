"""Which device a model is read on: the GPU where there is one with room for it, or the one that is asked for."""

from __future__ import annotations

import logging
from typing import Any

import torch

from whorl.numerics import free_memory

log = logging.getLogger(__name__)

ROOM = 1.25  # times the weights: they, and what one window needs beside them


def check_device(asked: str | None) -> None:
    """Raises ValueError for the name of a device that is not there; None is whichever is taken."""
    if asked is None:
        return
    if (why := _unusable(asked)) is not None:
        raise ValueError(f"the device {asked!r} cannot be used: {why}; here there is {_there()}")


def _unusable(asked: str) -> str | None:
    try:
        device = torch.device(asked)
    except RuntimeError:
        return "PyTorch has no device of this name"
    if device.type == "meta":
        return "it holds no numbers"
    if device.type == "cpu" and device.index:  # which PyTorch takes, as the one that there is
        return "all of the machine's processors are one device, cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # of PyTorch, each of other kinds
        return str(error).splitlines()[0].split(". ")[0][:200]
    return None


def _there() -> str:
    """The devices that there are, in words."""
    gpus = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return " and ".join(["cpu", *gpus])


def placed(model: Any, asked: str | None = None) -> Any:
    """The model on the device that is asked for. None: on PyTorch's current GPU, if its weights and a quarter more fit
    in the memory that is free there; else where it is, which a line of the log says.

    One of which parts lie elsewhere (on disk, on several devices) stays so.
    """
    if asked is not None:
        return model.to(asked)
    if getattr(model, "hf_device_map", None) is not None or not torch.cuda.is_available():
        return model
    device = torch.device("cuda", torch.cuda.current_device())
    needed = ROOM * sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))
    if needed > (free := free_memory(device)):
        log.warning(
            "read on the CPU: on %s %.1f GiB are free, and the model needs %.1f (--device)",
            torch.cuda.get_device_name(device), free / 2**30, needed / 2**30,
        )  # fmt: skip
        return model
    return model.to(device)
