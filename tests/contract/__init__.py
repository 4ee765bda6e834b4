"""One contract for every (encoding, family): what is asked of a pair, and which pairs there are."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from whorl.hosts import ENCODERS, FAMILIES

# The encodings of docs/families.md, with small arguments: inputs are 40 tokens and tables of positions have 64 rows.
ENCODINGS = {
    "rope": "rope:base=500",
    "hope": "hope:train_length=16",
    "taper": "taper:train_length=16",
    "p-rope": "p-rope:p=0.5",
    "partial-rope": "partial-rope:fraction=0.5",
    "nope": "nope",
    "sinusoidal": "sinusoidal",
    "learned": "learned:max_positions=64",
    "alibi": "alibi",
    "t5": "t5",
    "kerple": "kerple",
    "fire": "fire:train_length=16",  # a cache must know the queries' positions past half of it
    "sandwich": "sandwich",
    "log-n": "log-n:train_length=16",
    "ssmax": "ssmax:train_length=16",
    "llama4-scale": "llama4-scale:floor_scale=8",
    "mistral-scale": "mistral-scale:original=8",
    "head-scale": "head-scale",
    "fox": "fox",
    "grape-a": "grape-a",
}
ROTARY_AND_BIAS = ("rope", "hope", "p-rope", "partial-rope", "alibi", "t5", "kerple", "fire", "sandwich")
COMPOSED = ("frequencies:values=0.9@0.1", "rope+window:size=8/nope", "hope:train_length=16+alibi")
EVERY = (*ENCODINGS.values(), *COMPOSED)
ABSOLUTE = ("sinusoidal", "learned", "fire", "llama4-scale", "mistral-scale", "head-scale")
BY_ORDER = ("nope", "log-n", "ssmax", "fox")  # positions make no difference, only which tokens come before which
IN_INTERFACE = (
    "log-n",
    "ssmax",
    "llama4-scale",
    "mistral-scale",
    "head-scale",
    "fox",
    "grape-a",
)  # and no mask can carry them

DECODERS = tuple(f for f in FAMILIES if f not in ENCODERS)
# The contract in full: every kind of seam, pairing, width, window, sink, cap and shared key.
IN_FULL = (
    "llama",
    "mistral",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gemma4_text",
    "phi",
    "gpt_neox",
    "smollm3",
    "cohere",
    "gpt_oss",
    "llama4_text",
    "falcon",
    "gpt2",
)

# Why a pair cannot be done, by (family, encoding): attaching raises this.
REFUSED = {
    ("gemma4_text", "rope+window:size=8/nope"): "reuses the keys of layer",
    **{("falcon", ENCODINGS[name]): "in transformers' attention interface, which" for name in IN_INTERFACE},
    **{(family, name): "has no meaning in an encoder" for family in ENCODERS for name in ("fox", "grape-a")},
    ("gemma4_text", "fox"): "reuses the keys of an earlier layer",
}

PAIRS = [(f, e) for f in FAMILIES for e in EVERY if (f, e) not in REFUSED]

LENGTH = 40
TOKENS = torch.randint(3, 97, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def extra(family: str) -> dict[str, Any]:
    """Inputs that a family needs: BERT looks its token types up by position, past the end of a table."""
    return {"token_type_ids": torch.zeros(2, LENGTH, dtype=torch.long)} if family == "bert" else {}


@cache
@torch.no_grad()
def packs(family: str) -> bool:
    """Whether this version's stock code keeps packed documents apart by position_ids; if not, whorl cannot."""
    from whorl.testing import logits_and_budget, tiny_model

    model = tiny_model(family)
    logits, budget = logits_and_budget(model, TOKENS)
    uncached = {} if family in ENCODERS else {"use_cache": False}
    packed = model(TOKENS.view(1, -1), position_ids=torch.arange(LENGTH).repeat(2)[None], **uncached).logits
    return difference(packed.view(2, LENGTH, -1), logits) < budget


def drawn(model: Any) -> Any:
    """Draws the encoding's learned parameters at random: at their zeros they would hide faults.

    Drawn positive: below 0.01 KERPLE's parameters count as 0.01, and have no gradient that would lower them. A table of
    positions is moved a little from where it starts.
    """
    import whorl
    from whorl.encodings.learned import PositionTable

    generator = torch.Generator().manual_seed(0)
    for effect in whorl.attached(model).effects:
        for parameter in effect.parameters():
            draw = torch.empty_like(parameter).uniform_(0.2, 1.8, generator=generator)
            parameter.data = parameter + 0.1 * draw if isinstance(effect, PositionTable) else draw
    return model


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max())
