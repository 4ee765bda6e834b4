"""Encodings of a grid at 14 x 14, 32 x 32 and 64 x 64 patches: turning beside RoPE on as many tokens, iRPE beside SDPA,
and steps of a ViT with each.

    python benchmarks/images.py [--only REGEX] [--clock cpu]

Every round runs every provider of a case, one after another; ratios are taken within a round. iRPE's other forms are
in PyTorch, with logits and weights [heads, tokens, tokens], and with buckets that are found once:

    dense    products by bucket, O(nkd), of which `gather` picks one for each query and key
    indexed  the same by an index into all of a head's products: how the authors' code picks them
    by pair  a vector for each query and key, [tokens, tokens, channels], O(n^2 d): as the paper defines it

float32 on the CPU, heads of 64 channels as in ViT-S; where they are turned, q and k lie as a model's projections give
them, a token's heads side by side. A correctness gate comes first.
With `--clock cpu` times are those that the process took of all cores: on a machine that others use too, give it
--threads 1. Rows go to benchmarks/results/images.csv.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import rows
import torch
from measuring import CLOCKS, Provider, measured, peak, peak_row
from torch.nn.functional import embedding
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import ViTConfig, ViTForImageClassification

import whorl
from whorl.encodings import Shape, parse
from whorl.encodings.grid import Grid
from whorl.ops import biased_attention, rotate, rotation_tables
from whorl.ops.by_token import token_by_token
from whorl.ops.scores import BoundScore
from whorl.testing import max_error

HEADS, DIM = 6, 64
STEPS = ("axial-rope", "mixed-rope", "irpe", "alibi-2d", "lookhere", "pape", "liere:block=8")
SCALE = DIM**-0.5
BATCHES = {14: 8, 32: 1, 64: 1}  # images, by patches along each side
CPU = torch.device("cpu")
PLAIN, OURS, DENSE, INDEXED, BY_PAIR = "SDPA", "irpe", "irpe, dense", "irpe, indexed", "irpe, by pair"


def main() -> None:
    parser = rows.parser(__doc__, rounds=7)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose label matches; other rows stay")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--peak", nargs=2, metavar=("PROVIDER", "SIDE"), help="(internal) one peak")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        name, side = options.peak
        attentions(14)[name]()  # libraries and kernels are loaded
        print(peak(attentions(int(side))[name], CPU))
        return
    gate()
    facts, path = {**rows.facts(), "clock": options.clock}, options.results / "images.csv"

    def write(found: list[dict[str, Any]]) -> None:
        rows.write(path, [{**facts, **row} for row in found], same=["case", "provider", "clock"], mode="both")

    for side in BATCHES:
        kinds = (("turning", turnings, "rope"), ("attention", attentions, PLAIN), ("a ViT's step", steps, "axial-rope"))
        for what, make, yardstick in kinds:
            if make is steps and side == 64:
                continue
            label = f"{what}, {side} x {side}"
            if re.search(options.only, label):
                write(measured(label, make(side), yardstick, options.rounds, CPU, CLOCKS[options.clock]))
    label = "memory, 64 x 64"
    if re.search(options.only, label):
        write([peak_row(label, __file__, n, "64", "--threads", str(options.threads)) for n in attentions(14)])


def tensors(side: int, count: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shape = BATCHES[side], HEADS, side * side, DIM
    return [torch.randn(shape).requires_grad_() for _ in range(count)]


def turnings(side: int) -> dict[str, Provider]:
    """q and k turned, out of place. Tables are there already, but for those that are learned."""
    q, k = (x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in tensors(side, 2))
    grads = [torch.randn_like(q), torch.randn_like(k)]
    shape = Shape(DIM, HEADS, HEADS * DIM, bidirectional=True, axes=2)
    grid, found = Grid(side, side), {}
    for name, places in (("rope", torch.arange(side * side)[None]), ("axial-rope", grid.places())):
        tables = rotation_tables(parse(name).with_defaults().spectrum(DIM), places, torch.float32)
        found[name] = Provider(
            lambda tables=tables: rotate(q, k, tables), lambda out: torch.autograd.grad(out, [q, k], grads)
        )
    (effect,) = parse("mixed-rope").effects(shape)
    module, at = effect.module, grid.positions()
    learned = list(module.parameters())
    found["mixed-rope"] = Provider(
        lambda: token_by_token([BoundScore(module)], at, at, q, k, SCALE)[:2],
        lambda out: torch.autograd.grad(out, [q, k, *learned], grads),
    )
    return found


def steps(side: int) -> dict[str, Provider]:
    """A forward and a backward of three layers of ViT-S, embedding and head around them."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=HEADS * DIM,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        intermediate_size=4 * HEADS * DIM,
        image_size=16 * side,
    )
    stock, pixels, found = ViTForImageClassification(config), torch.randn(BATCHES[side], 3, 16 * side, 16 * side), {}
    for name in ("stock", *STEPS):
        model = copy.deepcopy(stock)
        if name != "stock":
            whorl.attach(model, name)
        wanted = [p for p in model.parameters() if p.requires_grad]
        found[name] = Provider(
            lambda model=model: model(pixels).logits,
            lambda out, wanted=wanted: torch.autograd.grad(out.sum(), wanted, allow_unused=True),
        )
    return found


def table_of_buckets() -> torch.nn.Module:
    (effect,) = parse(OURS).effects(Shape(DIM, HEADS, HEADS * DIM, bidirectional=True, axes=2))
    torch.nn.init.normal_(effect.module.tables["k"], std=0.1)
    return effect.module


def attentions(side: int) -> dict[str, Provider]:
    leaves, module = tensors(side, 3), table_of_buckets()
    q, k, v = leaves
    table, at = module.tables["k"], Grid(side, side).positions()
    grad = torch.randn_like(q)

    @cache  # the authors keep them from layer to layer
    def buckets() -> torch.Tensor:
        return module.buckets.of(at, at)[0, 0]

    @cache
    def among_all() -> torch.Tensor:
        return (torch.arange(side * side)[:, None] * table.shape[-2] + buckets()).flatten()

    def by_bucket() -> torch.Tensor:
        return q * SCALE @ table.mT

    def gathered() -> torch.Tensor:
        products = by_bucket()
        return products.gather(-1, buckets().expand(*products.shape[:2], -1, -1))

    def indexed() -> torch.Tensor:
        products = by_bucket()
        return products.flatten(2)[:, :, among_all()].view(*products.shape[:2], side * side, side * side)

    def by_pair() -> torch.Tensor:
        vectors = embedding(buckets(), table[0])  # [queries, keys, channels]
        by_query = (q * SCALE).permute(2, 0, 1, 3).flatten(1, 2) @ vectors.mT
        return by_query.unflatten(1, q.shape[:2]).permute(1, 2, 0, 3)

    def attended(added: Callable[[], torch.Tensor]) -> torch.Tensor:
        return (q * SCALE @ k.mT + added()).softmax(-1) @ v

    def provider(run: Callable[[], torch.Tensor], wanted: list[torch.Tensor]) -> Provider:
        return Provider(run, lambda out: torch.autograd.grad(out, wanted, grad))

    how = {"query_positions": at, "key_positions": at, "scale": SCALE, "scores": [BoundScore(module)]}
    return {
        PLAIN: provider(lambda: sdpa(q, k, v), leaves),
        OURS: provider(lambda: biased_attention(q, k, v, [], **how)[0], [*leaves, table]),
        DENSE: provider(lambda: attended(gathered), [*leaves, table]),
        INDEXED: provider(lambda: attended(indexed), [*leaves, table]),
        BY_PAIR: provider(lambda: attended(by_pair), [*leaves, table]),
    }


def gate() -> None:
    """Ends the process where two forms of iRPE differ, in output or gradients, by more than rounding explains."""
    found = {name: provider for name, provider in attentions(14).items() if name != PLAIN}
    out = {name: provider.forward() for name, provider in found.items()}
    results = {name: [out[name], *found[name].backward(out[name])] for name in found}
    for name in (OURS, INDEXED, BY_PAIR):
        for one, other in zip(results[name], results[DENSE], strict=True):
            if max_error(one, other) > 64 * torch.finfo(torch.float32).eps * float(other.detach().abs().max()):
                sys.exit(f"{name} is not what its dense form gives: no speed is measured")


if __name__ == "__main__":
    main()
