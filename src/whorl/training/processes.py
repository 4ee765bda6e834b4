"""The processes that `torchrun` or `accelerate launch` started, which train a model together."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import PartialState

# The first process evaluates while the others wait for it; NCCL would give up after ten minutes.
PATIENCE = timedelta(days=1)


def processes() -> PartialState:
    """This process among those that train together, which begins to speak to them where it has not.

    Raises ValueError where accelerate was told to shard models: the weights that one process writes would be a part.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1"):
        raise ValueError(
            "accelerate was told to shard the model (FSDP), and a comparison trains a whole one in each process; use "
            "torchrun, or accelerate launch --multi_gpu"
        )
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
