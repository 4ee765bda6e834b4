"""Models that are split over processes: what may be attached to them, and what each process has of it.

Wrappers and shardings would not see parameters that an encoding adds later: attaching comes before them.

wrappers   a data-parallel module, FSDP's first version, a DeepSpeed engine: they listed, flattened or hooked the
           parameters when they were made. Nothing is attached to a model in one of them.
shardings  FSDP's second version (`fully_shard`) and tensor parallelism change the model in place: its parameters are
           then DTensors, and nothing would synchronise the plain ones of an encoding. An encoding without
           parameters has nothing to synchronise, and may still be attached. Under tensor parallelism each process has
           some heads of a layer, and gets the biases of these.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from whorl.encodings.biases import RelativeBias
from whorl.hosts.transformers import compat


def refuse_wrapped(model: Any) -> None:
    """Raises ValueError for a model in a wrapper, or with parts in one."""
    model = compat.compiled_inside(model) or model
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


def is_here(tensor: torch.Tensor) -> bool:
    """Whether this process has a tensor's numbers: it is neither sharded over several nor on the meta device."""
    return not tensor.is_meta and not hasattr(tensor, "full_tensor")


def _sharded_by(model: Any) -> str | None:
    fully_sharded = _class("torch.distributed.fsdp", "FSDPModule")
    dtensor = _class("torch.distributed.tensor", "DTensor")
    if fully_sharded is not None and any(isinstance(m, fully_sharded) for m in model.modules()):
        return "FSDP's fully_shard"
    if (getattr(model, "tp_size", None) or 1) > 1:
        return "tensor parallelism"
    parameters = list(model.parameters())
    if dtensor is not None and any(isinstance(p, dtensor) for p in parameters):
        return "its parameters are DTensors"
    if any(compat.flattened_by_fsdp(p) for p in parameters):
        return "FSDP"
    return None


def whole_state(model: Any) -> dict[str, torch.Tensor] | None:
    """The weights of a model that is sharded over processes, gathered; None for one that is not.

    Every process must ask for them. The first gets all, in memory of its CPU; the others get none. (Models that
    transformers has split itself, by a `distributed_config` or `tp_plan`, it gathers itself.)
    """
    dtensor = _class("torch.distributed.tensor", "DTensor")
    if dtensor is None or not any(isinstance(p, dtensor) for p in model.parameters()):
        return None
    if getattr(model.config, "distributed_config", None) is not None or compat.tensor_parallel_mesh(model) is not None:
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return state if torch.distributed.get_rank() == 0 else {}


def _class(module: str, name: str) -> Any:
    """A class of a module, where other code has imported that already; None otherwise."""
    return getattr(sys.modules.get(module), name, None)


class Share(NamedTuple):
    """Which part of every layer that is split by tensor parallelism this process has: the rank-th of `size`."""

    rank: int
    size: int


def heads_share(model: Any) -> Share | None:
    """This process's part under transformers' tensor parallelism, or None without it."""
    mesh = compat.tensor_parallel_mesh(model)
    if mesh is None or (getattr(model, "tp_size", None) or 1) == 1:
        return None
    mesh = mesh["tp"] if mesh.ndim > 1 else mesh
    return Share(mesh.get_local_rank(), mesh.size())


def _splits(attention: nn.Module) -> bool:
    """Whether the processes have different heads of this layer."""
    dtensor = _class("torch.distributed.tensor", "DTensor")
    return dtensor is not None and any(
        isinstance(p, dtensor) and any(placement.is_shard() for placement in p.placements)
        for p in attention.parameters()
    )


def refuse_shares(attention: nn.Module, share: Share, encoding: Any) -> None:
    """Raises ValueError where a process has some heads of a layer, for an encoding with a number for each."""
    if _splits(attention):
        raise ValueError(
            f"{encoding} multiplies logits or goes by content, head by head, and which heads are those of this "
            f"process, one of {share.size}, is not known to it; load the model without a tp_plan"
        )


def heads_here(
    biases: Sequence[nn.Module], attention: nn.Module, heads: int, share: Share, encoding: Any
) -> tuple[nn.Module, ...]:
    """The biases of a layer, of the heads that this process has of it.

    heads   of all processes together. Raises ValueError where they cannot be shared out alike.
    """
    if not _splits(attention):
        return tuple(biases)
    for bias in biases:
        if not hasattr(bias, "of_distance"):
            raise ValueError(
                f"{encoding} has a {type(bias).__name__}, which is not a bias of distance alone, and which of its "
                f"heads are those of this process, one of {share.size}, is not known; load the model without a tp_plan"
            )
    if heads % share.size:
        raise ValueError(
            f"{encoding} has a number for each of {heads} heads, which {share.size} processes cannot share out alike; "
            "choose a tp_size that divides them"
        )
    return tuple(HeadsHere(bias, share, heads) for bias in biases)


class HeadsHere(RelativeBias):
    """A bias of distance alone, of the heads that this process has; one for all heads stays one."""

    def __init__(self, bias: nn.Module, share: Share, heads: int) -> None:
        super().__init__()
        self.bias, self.share, self.heads = bias, share, heads
        self.reach, self.axis = getattr(bias, "reach", None), getattr(bias, "axis", None)

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        every: Any = self.bias
        bias = every.of_distance(distance)
        heads = len(bias) // self.share.size
        return bias if len(bias) == 1 else bias[self.share.rank * heads :][:heads]


def of_heads(biases: Sequence[nn.Module], heads: int) -> list[nn.Module]:
    """The biases for queries of so many heads: a plan may split a projection over processes and gather what it gives
    (Phi-3's of q, k and v in one), and then each has all heads."""
    return [b.bias if isinstance(b, HeadsHere) and b.heads == heads else b for b in biases]
