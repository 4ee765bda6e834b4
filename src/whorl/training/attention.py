"""Which attention a model is trained with, and which it is evaluated with, where transformers leave a choice.

Up to a few hundred tokens a CPU trains faster with the attention written out (batched matrix products) than with its
fused SDPA, whose backward is slow: 1.4, 1.2 and 1.3 times the speed at 128, 256 and 512 tokens
(experiments/0001-language/LOG.md). Written out, every layer keeps [batch, heads, tokens, tokens] for its backward.
"""

from __future__ import annotations

from typing import Any

import torch

from whorl.hosts import OpenHost, host_of

WRITTEN_OUT_UP_TO = 512  # tokens; for models that are trained from the start
HEALED_WRITTEN_OUT_UP_TO = 256  # for a user's own, of any size: at 512 what is kept takes four times the memory


def for_training(model: Any, train_length: int, up_to: int = WRITTEN_OUT_UP_TO) -> Any:
    """Switches SDPA to the written-out attention on a CPU, for sequences up to that many tokens."""
    host = host_of(model)
    if (
        isinstance(host, OpenHost)
        and not torch.cuda.is_available()
        and train_length <= up_to
        and host.attention == "sdpa"
    ):
        host.attending.set_attn_implementation("eager")
    return model


def for_evaluation(model: Any) -> Any:
    """Switches the written-out attention back to SDPA: at long lengths its memory grows with the tokens only."""
    host = host_of(model)
    if isinstance(host, OpenHost) and host.attention == "eager":
        host.attending.set_attn_implementation("sdpa")
    return model.eval()
