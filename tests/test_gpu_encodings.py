"""Every encoding on a model on a GPU: `make test-gpu`. Everything here skips where there is no CUDA device."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import whorl
from whorl.testing import logits_and_budget, max_error, tiny_model

from .contract import EVERY, drawn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]
DEVICE = "cuda"
TOKENS = torch.randint(3, 97, (2, 160), generator=torch.Generator().manual_seed(0))  # more than a block of keys
# as in tests/contract, with tables of positions that these tokens fit
ENCODINGS = [encoding.replace("=64", "=256") for encoding in EVERY]


def attached(encoding: str) -> Any:
    return drawn(whorl.attach(tiny_model("llama", max_position_embeddings=512, attn_implementation="sdpa"), encoding))


def learnt(model: Any, device: str, dtype: torch.dtype, mixed: bool = False) -> list[torch.Tensor]:
    """The logits, and the gradient of every parameter; mixed: under autocast, in bfloat16."""
    model = copy.deepcopy(model).to(device, dtype)
    tokens = TOKENS.to(device)
    with torch.autocast(device, torch.bfloat16) if mixed else nullcontext():
        out = model(tokens, labels=tokens, use_cache=False)
    learned = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(out.loss, learned, allow_unused=True)
    return [x.detach().cpu() for x in (out.logits, *grads) if x is not None]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_logits_and_gradients(encoding: str) -> None:
    model = attached(encoding)
    truth, here = learnt(model, "cpu", torch.float64), learnt(model, "cpu", torch.float32)
    there = learnt(model, DEVICE, torch.float32)
    assert len(there) == len(truth)
    for got, plain, exactly in zip(there, here, truth, strict=True):
        assert max_error(got, exactly) <= 4 * max_error(plain, exactly) + 1e-5 * float(exactly.abs().max())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_training_in_bfloat16(encoding: str) -> None:
    model = attached(encoding)
    truth, here = learnt(model, "cpu", torch.float64), learnt(model, "cpu", torch.float32, mixed=True)
    there = learnt(model, DEVICE, torch.float32, mixed=True)
    for got, plain, exactly in zip(there, here, truth, strict=True):
        roundings = 2 * torch.finfo(torch.bfloat16).eps * float(exactly.abs().max())
        if exactly.dim() == 1 and len(exactly) <= model.config.num_attention_heads:
            # a number of each head sums over all tokens; its terms cancel, and their roundings do not
            roundings *= TOKENS.numel() ** 0.5
        assert max_error(got, exactly) <= 2 * max_error(plain, exactly) + roundings


@torch.no_grad()
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decoding(encoding: str) -> None:
    """The prompt at once, a few tokens together, and then one by one: the logits of all at once."""
    from transformers import DynamicCache

    model, tokens = attached(encoding).to(DEVICE), TOKENS.to(DEVICE)
    expected, budget = logits_and_budget(model, tokens, use_cache=False)
    past = DynamicCache()
    parts = tokens.split([140, 12, *[1] * 8], dim=1)
    logits = [model(part, past_key_values=past, use_cache=True).logits for part in parts]
    assert max_error(torch.cat(logits, 1), expected) <= 2 * budget
