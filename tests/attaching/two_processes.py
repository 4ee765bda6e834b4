"""What tests/attaching/test_two_processes.py runs, in one process and by torchrun in two: `-m ... FOLDER`.

One process trains on a batch of four rows, each of two on two of them; losses and weights are written to FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import whorl
from whorl.testing import tiny_model

ENCODINGS = (
    "rope",
    "hope:train_length=16",
    "t5",
    "kerple/t5",
    "learned-rope:base=500",
    "fox",
    "fire:train_length=16",
    "learned:max_positions=64",
    "rope+window:size=8/nope+kerple",
    "rope+randomized:length=64",
)
FAMILIES = (*((e, "llama") for e in ENCODINGS), ("t5", "gpt_oss"), ("learned:max_positions=64", "gpt2"))
STEPS, ROWS, TOKENS = 3, 4, 20
CHECKPOINTED = ("t5", "fox", "rope")  # with gradient checkpointing too
BATCHES = torch.randint(3, 97, (STEPS, ROWS, TOKENS), generator=torch.Generator().manual_seed(3))


def built(encoding: str, family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model whose encoding has something to learn from, and embeddings of a size that steps do not throw about."""
    model = whorl.attach(tiny_model(family), encoding)
    torch.manual_seed(5)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
        for parameter in whorl.attached(model).parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.to(dtype).train()


def trained(model: Any, rows: slice = slice(None), checkpointed: bool = False) -> list[float]:
    """The losses of a few steps on these rows of every batch."""
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02, foreach=False)
    losses = []
    for batch in BATCHES:
        torch.manual_seed(7)
        loss = model(input_ids=batch[rows], labels=batch[rows], use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    together = torch.stack(losses).double()
    if dist.is_initialized():
        dist.all_reduce(together)
        together /= dist.get_world_size()
    return together.tolist()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters, whole."""
    whole = {name: p.detach() for name, p in model.named_parameters()}
    return {name: getattr(p, "full_tensor", lambda p=p: p)().double() for name, p in whole.items()}


def sharded(model: Any) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    layers = next(
        m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == model.config.num_hidden_layers
    )
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) and p.placements[0].is_shard() for p in model.parameters())
    return model


def run(folder: Path) -> None:
    """In each of the processes that torchrun starts."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mine = slice(2 * rank, 2 * rank + 2)
    found: dict[str, Any] = {"processes": dist.get_world_size()}
    for encoding, family in FAMILIES:
        key = f"{encoding} on {family}"
        model = built(encoding, family)
        losses = trained(nn.parallel.DistributedDataParallel(model), mine)
        found[f"{key}, DDP"] = losses, weights(model)
        model = sharded(built(encoding, family))
        losses = trained(model, mine, encoding in CHECKPOINTED)
        found[f"{key}, FSDP2"] = losses, weights(model)
        model.save_pretrained(folder / key.replace(":", "-").replace("/", "-"))  # on every process
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]))
