"""Length-dependent spectra, stock and whorl's: what a cache and a longer row in the batch do to the logits.

OMP_NUM_THREADS=1 .venv/bin/python experiments/0006-length-dependent/measure.py
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from transformers import StaticCache

import whorl
from whorl.testing import logits_and_budget, tiny_model

LENGTH, ORIGINAL, SHORT_ROW = 96, 32, 24
FAMILIES = ("llama", "qwen3", "gpt_neox", "phi3")
TOKENS = torch.randint(3, 97, (2, LENGTH), generator=torch.Generator().manual_seed(0))
LISTS = {
    "short_factor": [1.0, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.1, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0],
}


def model(family: str, kind: str) -> Any:
    """A random model of four layers with the stock rope_type, all of each head turning; attention is peaked."""
    settings: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    overrides: dict[str, Any] = {"num_hidden_layers": 4, "rope_parameters": settings}
    if family in ("gpt_neox", "phi3"):
        settings["partial_rotary_factor"] = 1.0
    if family == "phi3":
        overrides["sliding_window"] = None
    if (family, kind) == ("phi3", "dynamic"):
        settings.update(rope_type="default")  # its config refuses dynamic: whorl's alone
    if kind == "longrope":
        settings.update(LISTS, original_max_position_embeddings=ORIGINAL)
        overrides.update(original_max_position_embeddings=ORIGINAL, max_position_embeddings=4 * ORIGINAL)
    else:
        overrides["max_position_embeddings"] = ORIGINAL
    return tiny_model(family, **overrides)


def fresh(model: Any) -> Any:
    """Stock's dynamic keeps what the longest input so far made of it until a shorter one comes."""
    model(TOKENS[:, :2], use_cache=False)
    return model


def decoded(model: Any, cache: Any) -> torch.Tensor:
    steps = []
    for t in range(LENGTH):
        out = model(TOKENS[:, t : t + 1], past_key_values=cache, use_cache=True)
        steps.append(out.logits)
        cache = out.past_key_values
    return torch.cat(steps, 1)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def measured(model: Any) -> dict[str, float]:
    """Largest absolute differences between logits that should be the same."""
    full, budget = logits_and_budget(fresh(model), TOKENS)
    found = {
        "logits": float(full.abs().max()),
        "budget": budget,
        "cached": difference(decoded(fresh(model), None), full),
        "static": difference(decoded(fresh(model), StaticCache(config=model.config, max_cache_len=LENGTH)), full),
    }
    alone = fresh(model)(TOKENS[:1, :SHORT_ROW], use_cache=False).logits
    filler = torch.zeros(1, LENGTH - SHORT_ROW, dtype=torch.long)
    right = torch.cat([torch.cat([TOKENS[:1, :SHORT_ROW], filler], 1), TOKENS[1:]])
    left = torch.cat([torch.cat([filler, TOKENS[:1, :SHORT_ROW]], 1), TOKENS[1:]])
    out = fresh(model)(right, attention_mask=(right != 0).long(), use_cache=False).logits
    found["right"] = difference(out[:1, :SHORT_ROW], alone)
    mask = (left != 0).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = fresh(model)(left, attention_mask=mask, position_ids=positions, use_cache=False).logits
    found["left"] = difference(out[:1, -SHORT_ROW:], alone)
    inside = fresh(model)(TOKENS[:, :ORIGINAL], use_cache=False).logits
    found["prefix"] = difference(full[:, :ORIGINAL], inside)
    return found


@torch.no_grad()
def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread, float32")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, whorl {whorl.__version__}\n")
    columns = ("logits", "cached", "static", "right", "left", "prefix", "budget")
    print(f"| family | rope_type | by | {' | '.join(columns)} |")
    print("| --- " * 3 + "| ---: " * len(columns) + "|")
    for kind in ("dynamic", "longrope"):
        for family in FAMILIES:
            for by in ("stock", "whorl"):
                one = model(family, kind)
                inside = one(TOKENS[:, :ORIGINAL], use_cache=False).logits
                own = whorl.encoding_of(one)
                if (family, kind) == ("phi3", "dynamic"):
                    if by == "stock":
                        continue
                    own = whorl.parse(f"rope~dynamic-ntk:factor=4,original={ORIGINAL}")
                if by == "whorl":
                    whorl.attach(one, own)
                    in_range = difference(one(TOKENS[:, :ORIGINAL], use_cache=False).logits, inside)
                found = measured(one)
                print(f"| {family} | {kind} | {by} | {' | '.join(f'{found[c]:.2g}' for c in columns)} |")
                if by == "whorl":
                    assert in_range < found["budget"], "up to the original length it is stock's"
    for name, encoding in COSTS.items():  # each in a process of its own, for its peak of memory
        subprocess.run([sys.executable, __file__, name, encoding], check=True)


LISTED = ",".join(f"{key}={'@'.join(f'{x:g}' for x in values * 2)}" for key, values in LISTS.items())
COSTS = {
    "stock rope": "",
    "alibi": "alibi",
    "longrope": f"rope~longrope:{LISTED},factor=4,original=1024",
    "dynamic-ntk": "rope~dynamic-ntk:factor=4,original=1024",
    "dynamic-ntk, steps of 64": "rope~dynamic-ntk:factor=4,original=1024,step=64",
}


@torch.no_grad()
def cost(name: str, encoding: str) -> None:
    """Seconds of a forward and of a token decoded at its end, and what a longer forward adds to the peak of memory."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2}
    one = tiny_model("llama", num_hidden_layers=4, head_dim=32, max_position_embeddings=8192, **sizes)
    if encoding:
        whorl.attach(one, encoding)
    else:
        print("\n| encoding | 4,096 tokens (s) | one more (ms) | 4,096 (MiB) | 16,384 (MiB) |")
        print("| --- | ---: | ---: | ---: | ---: |")
    ids = torch.randint(3, 97, (1, 16384), generator=torch.Generator().manual_seed(0))
    one(ids[:, :64])
    row, memory = [], []
    before = peak()
    for tokens in (4096, 16384):
        start = time.perf_counter()
        out = one(ids[:, :tokens], use_cache=True, logits_to_keep=1)
        row.append(time.perf_counter() - start)
        memory.append(peak() - before)
        if tokens == 4096:
            steps = []
            for _ in range(9):
                start = time.perf_counter()
                out = one(ids[:, :1], past_key_values=out.past_key_values, use_cache=True)
                steps.append(time.perf_counter() - start)
    print(f"| {name} | {row[0]:.2f} | {1e3 * sorted(steps)[4]:.1f} | {memory[0]:.0f} | {memory[1]:.0f} |", flush=True)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    cost(*sys.argv[1:]) if len(sys.argv) > 1 else main()
