"""A training step of `whorl compare`'s tiny model on whorl's operations against the same on the references.

    .venv/bin/python benchmarks/attached.py
    .venv/bin/python benchmarks/attached.py --beside rope hope fox ...    steps of these over those of the first

In the precision that `whorl compare` takes on this machine, 32 x 128 tokens, AdamW; rounds of three steps, the variants
in turn. The references are what every model ran on before there were kernels. A gate comes first: both learn the same.
Rows go to benchmarks/results/attached.csv, and with --beside to steps.csv.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import rows
import torch
from torch.nn.functional import cross_entropy

import whorl
from whorl.comparison.planning import from_scratch
from whorl.encodings import parse
from whorl.testing import max_error
from whorl.training.models import build
from whorl.training.settings import Settings

ENCODINGS = ("rope", "hope:train_length=128", "alibi", "t5")
STEPS = 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = rows.parser(__doc__, rounds=15)
    parser.add_argument("--beside", nargs="+", metavar="ENCODING", help="these alone, over the first")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = Settings().resolve()
    ids = torch.randint(0, 1024, (32, 128), generator=torch.Generator().manual_seed(0))
    runs = {}
    for encoding in options.beside or ENCODINGS:
        for impl in ("auto",) if options.beside else ("reference", "auto"):
            model = build(settings, from_scratch(parse(encoding), settings), 0, 1024, 0)
            whorl.attach(model, whorl.encoding_of(model), impl=impl).train()
            runs[encoding, impl] = (model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True))
    for encoding in () if options.beside else ENCODINGS:
        gate(encoding, runs[encoding, "reference"][0], runs[encoding, "auto"][0], ids[:8], settings.precision)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for turn in range(options.rounds + 1):
        for key, (model, optimizer) in runs.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                learn(loss(model, ids, settings.precision), optimizer)
            if turn:  # the first warms up
                times[key].append((time.perf_counter() - start) / STEPS * 1e3)
    facts = {**rows.facts(), "precision": settings.precision}
    found = []
    for encoding in options.beside or ENCODINGS:
        ours, row = times[encoding, "auto"], {"encoding": encoding}
        if options.beside:
            theirs = times[options.beside[0], "auto"]
            row |= {"step_ms": middle(ours), "over": options.beside[0]}
        else:
            theirs = times[encoding, "reference"]
            row |= {"reference_ms": middle(theirs), "kernels_ms": middle(ours)}
        row |= rows.ratios(ours, theirs)
        print(row)
        found.append({**facts, **row})
    path = options.results / ("steps.csv" if options.beside else "attached.csv")
    rows.write(path, found, same=["encoding"], device="cpu", precision="bf16")


def middle(milliseconds: list[float]) -> float:
    return round(statistics.median(milliseconds), 1)


def loss(model: Any, ids: torch.Tensor, precision: str) -> torch.Tensor:
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return model(ids, labels=ids, use_cache=False).loss


def learn(found: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    found.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def losses(model: Any, ids: torch.Tensor, precision: str) -> torch.Tensor:
    """Of a few steps of a copy, in float64 or with weights in float32."""
    model = copy.deepcopy(model).to(torch.float64 if precision == "fp64" else torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)  # AdamW's first steps would turn roundings into signs
    found = []
    for _ in range(3):
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(ids, use_cache=False).logits
        # the model's own loss is rounded to float32, whose step is as large as what is looked for
        found.append(cross_entropy(logits[:, :-1].double().transpose(1, 2), ids[:, 1:]))
        learn(found[-1], optimizer)
    return torch.stack(found).detach()


def gate(name: str, plain: Any, ours: Any, ids: torch.Tensor, precision: str) -> None:
    """The losses of a few steps agree, in float32 and in `precision`, as CONTRIBUTING.md wants it of whole models.

    The one rounding that is allowed on top is a token's, and a loss is the mean of many.
    """
    truth = losses(plain, ids, "fp64")
    for which in dict.fromkeys(("fp32", precision)):
        theirs, mine = losses(plain, ids, which), losses(ours, ids, which)
        rounding = torch.finfo(DTYPES[which]).eps * float(truth.max()) / ids.numel() ** 0.5
        budget = 4 * max_error(theirs, truth) + rounding
        off = max_error(mine, theirs)
        assert off <= budget, f"red gate, no speed: {name} in {which}, losses off by {off:.2g} of at most {budget:.2g}"
        print(f"gate: {name} in {which}, losses off by {off:.2g} of at most {budget:.2g}")


if __name__ == "__main__":
    main()
