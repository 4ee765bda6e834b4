"""Wrappers and shardings that would not see parameters that an encoding adds later: attaching comes before them.

wrappers   a data-parallel module, FSDP's first version, a DeepSpeed engine: they listed, flattened or hooked the
           parameters when they were made. Nothing is attached to a model in one of them.
shardings  FSDP's second version (`fully_shard`) and tensor parallelism change the model in place: its parameters are
           then DTensors, and the plain ones of an encoding would be synchronised by nobody. An encoding without
           parameters has nothing to synchronise, and may still be attached.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


def refuse_wrapped(model: Any) -> None:
    """Raises ValueError for a model in a wrapper, or with parts in one."""
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module):
        return
    wrapper = model if isinstance(getattr(model, "module", None), nn.Module) and not _is_a_model(model) else None
    if wrapper is None:
        fsdp = _class("torch.distributed.fsdp", "FullyShardedDataParallel")
        wrapper = next((m for m in model.modules() if fsdp is not None and isinstance(m, fsdp)), None)
    if wrapper is not None:
        raise ValueError(
            f"this model is wrapped in {type(wrapper).__name__}, which would not see an encoding's learned parameters; "
            "attach to the model before wrapping it (taking it out of the wrapper does not help while that is in use)"
        )


def _is_a_model(model: Any) -> bool:
    """Whether a module with a child of the name `module` is a transformers model; wrappers may answer for theirs."""
    from transformers import PreTrainedModel

    return isinstance(model, PreTrainedModel)


def refuse_sharded(model: Any, encoding: Any) -> None:
    """Raises ValueError for a model whose parameters are synchronised by a plan that new ones are not in.

    encoding: one with learned parameters, to name in the message.
    """
    how = _sharded_by(model)
    if how is not None:
        raise ValueError(
            f"{encoding} has learned parameters, and this {type(model).__name__} is sharded already ({how}): nobody "
            "would synchronise them between the processes. Attach first and shard then, or attach an encoding without "
            "parameters"
        )


def _sharded_by(model: Any) -> str | None:
    fully_sharded = _class("torch.distributed.fsdp", "FSDPModule")
    dtensor = _class("torch.distributed.tensor", "DTensor")
    if fully_sharded is not None and any(isinstance(m, fully_sharded) for m in model.modules()):
        return "FSDP's fully_shard"
    if (getattr(model, "_tp_size", None) or 1) > 1:
        return "tensor parallelism"
    parameters = list(model.parameters())
    if dtensor is not None and any(isinstance(p, dtensor) for p in parameters):
        return "its parameters are DTensors"
    if any(getattr(p, "_fsdp_flattened", False) for p in parameters):
        return "FSDP"
    return None


def _class(module: str, name: str) -> Any:
    """A class of a module that somebody else must have imported, if there is one in use; None otherwise."""
    return getattr(sys.modules.get(module), name, None)
