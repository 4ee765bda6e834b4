"""Encodings that go by content, or by absolute positions, in biased_attention(): beside ALiBi; decoding beside none.

    python benchmarks/scores.py [--only REGEX] [--device cuda] [--clock cpu]

Every round runs every provider of a case, one after another; ratios are taken within a round. What a token's state
costs is in the time of an encoding that has one. float32 on the CPU, bfloat16 on a GPU. On the CPU x-transformers' own
code stands beside four of them, where it is installed: its outputs and gradients must be ours first. With `--clock cpu`
times are those that the process took of all cores: on a machine that others use too, give it --threads 1. Rows go to
benchmarks/results/scores-<device>.csv.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import rows
import torch
import x_transformers_peer
from measuring import CLOCKS, Provider, measured, peak, peak_row
from torch.nn.functional import scaled_dot_product_attention as sdpa

from whorl.encodings import REGISTRY, Shape, parse
from whorl.encodings.effects import Bias, Scale, Score
from whorl.encodings.scores import ScoreModule
from whorl.ops import biased_attention
from whorl.ops.scores import BoundScore
from whorl.testing import max_error

HEADS, DIM, WIDTH = 8, 64, 512
PLAIN = "causal SDPA"  # no encoding
CASES = {  # tokens, the yardstick and the encodings beside it
    "forgetting 1024": (1024, "alibi", ("fox",)),
    "forgetting 8192": (8192, "alibi", ("fox",)),
    "vectors and absolute positions 1024": (1024, "alibi", ("irpe", "shaw", "fire", "sandwich")),
    "all keys at once 1024": (1024, "alibi", ("cope", "stick-breaking", "dape")),
    "scales 1024": (1024, "nope", ("log-n", "ssmax")),
    "turns 2048": (2048, PLAIN, ("path", "path-fox")),
}
CACHE = 4096
CPU = torch.device("cpu")
DECODED = ("nope", "fox", "log-n", "ssmax", "fire", "alibi", "t5", "irpe", "cope", "path")
SPARING = ("alibi", "fox", "irpe", "fire", "cope", "path")  # whose memory is measured, of 16,384 tokens


def main() -> None:
    parser = rows.parser(__doc__, rounds=7)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose label matches; other rows stay")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--peak", nargs=2, metavar=("ENCODING", "TOKENS"), help="(internal) one peak")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.peak:
        notation, tokens = options.peak
        attention(notation, 512, device)()  # libraries and kernels are loaded
        print(peak(attention(notation, int(tokens), device), device))
        return
    clock = CLOCKS[options.clock]
    facts, path = (
        {**rows.facts(options.device), "clock": options.clock},
        options.results / f"scores-{options.device}.csv",
    )

    def write(found: list[dict[str, Any]]) -> None:
        rows.write(path, [{**facts, **row} for row in found], same=["case"], mode="both", clock="wall")

    for label, (tokens, yardstick, notations) in CASES.items():
        if re.search(options.only, label):
            providers = {name: attention(name, tokens, device) for name in (yardstick, *known(notations))}
            write(measured(label, providers, yardstick, options.rounds, device, clock))
    peer = x_transformers_peer.found() if options.device == "cpu" else None
    for notation in x_transformers_peer.NAMES if peer else ():
        label = f"{notation} and x-transformers' 1024"
        if re.search(options.only, label):
            gate(notation)
            providers = {notation: attention(notation, 1024, device), peer: beside(notation, 1024)}
            write(measured(label, providers, notation, options.rounds, device, clock))
    label = f"decoding with a cache of {CACHE}"
    if re.search(options.only, label):
        providers = {name: decoding(name, device) for name in (PLAIN, *known(DECODED))}
        write(measured(label, providers, PLAIN, options.rounds, device, clock))
    label = "memory of 16384"
    if re.search(options.only, label):
        how = ("--threads", str(options.threads), "--device", options.device)
        write([peak_row(label, __file__, name, "16384", *how) for name in known(SPARING)])


def known(notations: tuple[str, ...]) -> list[str]:
    """Those that this version of whorl has, for `make bench-against`."""
    found = [name for name in notations if name in REGISTRY]
    for name in set(notations) - set(found):
        print(f"not measured: there is no encoding {name!r} here")
    return found


def tensors(queries: int, keys: int, device: torch.device) -> list[torch.Tensor]:
    """q, k, v and hidden states of the keys' tokens, of which what a token keeps is made in float32."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    made = [torch.randn(1, HEADS, tokens, DIM, device=device).to(dtype) for tokens in (queries, keys, keys)]
    return [*made, torch.randn(1, keys, WIDTH, device=device)]


def called(
    notation: str, device: torch.device
) -> tuple[Callable[..., torch.Tensor], Callable[..., Any], list[torch.Tensor]]:
    """The attention of an encoding for q, k, v, the state of the keys' tokens and positions; what makes that state, of
    hidden states and positions; and what is learned."""
    effects = parse(notation).effects(Shape(DIM, HEADS, WIDTH))
    modules: list[Any] = [module.to(device) for effect in effects for module in effect.modules]
    for module in modules:
        for x in module.parameters():
            if not x.detach().any():  # a table that starts at zero
                torch.nn.init.normal_(x, std=0.02)
    biases = [effect.module for effect in effects if isinstance(effect, Bias)]
    scales = [effect.module for effect in effects if isinstance(effect, Scale)]
    scores: list[ScoreModule] = [effect.module for effect in effects if isinstance(effect, Score)]

    def states(hidden: torch.Tensor, at: torch.Tensor) -> list[torch.Tensor | None]:
        return [score.tokens(hidden, at, None, None) if score.keeps_state else None for score in scores]

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kept: Any, q_at: Any, k_at: Any) -> torch.Tensor:
        bound = [
            BoundScore(score, None if state is None else state[:, -q.shape[2] :], state)
            for score, state in zip(scores, kept, strict=True)
        ]
        factor = None
        for scale in scales:
            one = scale(q_at + 1, q_at)
            factor = one if factor is None else factor * one
        out, _ = biased_attention(
            q, k, v, biases, query_positions=q_at, key_positions=k_at, causal=True, scale=DIM**-0.5, factor=factor,
            scores=bound,
        )  # fmt: skip
        return out

    return attend, states, [x for module in modules for x in module.parameters()]


def attention(notation: str, tokens: int, device: torch.device) -> Provider:
    q, k, v, hidden = tensors(tokens, tokens, device)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    grad, at = torch.randn_like(q), torch.arange(tokens, device=device)[None]
    if notation == PLAIN:
        return Provider(lambda: sdpa(*leaves, is_causal=True), lambda out: torch.autograd.grad(out, leaves, grad))
    attend, states, learned = called(notation, device)
    wanted = [*leaves, *learned]
    return Provider(
        lambda: attend(*leaves, states(hidden, at), at, at),
        lambda out: torch.autograd.grad(out, wanted, grad, allow_unused=True),
    )


def beside(notation: str, tokens: int) -> Provider:
    """x-transformers' own, on the same tensors."""
    *leaves, hidden = tensors(tokens, tokens, CPU)
    for x in leaves:
        x.requires_grad_()
    attend, learned = x_transformers_peer.theirs(notation, called(notation, CPU)[2], HEADS, WIDTH)
    wanted, grad = [*leaves, *learned], torch.randn_like(leaves[0])
    return Provider(lambda: attend(*leaves, hidden), lambda out: torch.autograd.grad(out, wanted, grad))


def gate(notation: str) -> None:
    """x-transformers' output and gradients are ours but for the roundings of one row: else no speed."""
    tokens = 130
    at, given, grad = torch.arange(tokens)[None], tensors(tokens, tokens, CPU), torch.randn(1, HEADS, tokens, DIM)
    attend, states, learned = called(notation, CPU)
    peer, own = x_transformers_peer.theirs(notation, learned, HEADS, WIDTH)
    found = []
    for of, wanted in ((lambda q, k, v, h: attend(q, k, v, states(h, at), at, at), learned), (peer, own)):
        *leaves, hidden = (x.clone() for x in given)
        out = of(*(x.requires_grad_() for x in leaves), hidden)
        found.append([out, *torch.autograd.grad(out, [*leaves, *wanted], grad)])
    for ours, theirs in zip(*found, strict=True):
        rounding = tokens * torch.finfo(ours.dtype).eps * float(ours.detach().abs().max())
        assert max_error(ours, theirs) <= rounding, (
            f"red gate, no speed: {notation} is off by {max_error(ours, theirs)}"
        )


def decoding(notation: str, device: torch.device) -> Provider:
    """One token more: keys and states are cached, of its own too."""
    q, k, v, hidden = tensors(1, CACHE, device)
    k_at = torch.arange(CACHE, device=device)[None]
    q_at = k_at[:, -1:]
    if notation == PLAIN:
        return Provider(torch.no_grad()(lambda: sdpa(q, k, v)))
    attend, states, _ = called(notation, device)
    with torch.no_grad():
        kept = states(hidden, k_at)
    return Provider(torch.no_grad()(partial(attend, q, k, v, kept, q_at, k_at)))


if __name__ == "__main__":
    main()
