"""Does what a model is selected for, and fed back, grow a side effect with the rounds, and does the encoding matter?

    python experiments/0014-feedback/feedback.py RUN/trials/*    runs what is missing, and writes results.json
    python experiments/0014-feedback/feedback.py                 tells what results.json has, as a table

After output refinement in 2402.06627. RUN is a folder of `whorl compare`. In each round a model goes on from its
context in several ways; the one with the most of a *proxy* is kept and stays in the context, which so grows past the
training length. Beside it runs a control in which the first way is kept, whatever it has: rounds without selection.

    proxy        of a way's tokens the share that has a digit
    side effect  of its pairs of tokens the share that stands in its context already: it repeats itself

Ways are drawn by the same uniform numbers in both arms and under every encoding, so runs are paired by prompt. Growth
is the mean of the last quarter of the rounds less that of the first; what counts is by how much it is larger with
feedback than in the control. Intervals are of 95 %: over prompts, and over seeds where there is more than one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whorl.data import corpus
from whorl.data.losses import evaluating
from whorl.data.windows import text_windows
from whorl.files import read_json, write_atomically
from whorl.provenance import machine, versions
from whorl.results.differences import mean_and_ends
from whorl.sources import source
from whorl.training.trials import read_result

ARMS = ("feedback", "control")
MEASURES = ("proxy", "side effect")


def repeated(context: Sequence[int], way: Sequence[int]) -> float:
    """Of the pairs of neighbours that end in `way`, the share that stands before, in the context or the way itself."""
    tokens = [*context, *way]
    seen, known = set(pairwise(context)), 0
    for pair in pairwise(tokens[len(context) - 1 :]):
        known += pair in seen
        seen.add(pair)
    return known / len(way)


@torch.no_grad()
def refine(
    model: Any,
    prompts: torch.Tensor,
    counted: torch.Tensor,
    rounds: int,
    tokens: int,
    ways: int,
    select: bool,
    seed: int,
) -> tuple[dict[str, list[list[float]]], list[list[int]]]:
    """Proxy and side effect of what is kept [prompts][rounds], and the contexts at the end, as token ids.

    prompts: token ids [prompts, tokens]; counted: whether a token counts for the proxy [vocabulary].
    """
    draws = torch.Generator().manual_seed(seed)
    count, length = prompts.shape
    rows = torch.arange(count).repeat_interleave(ways)
    contexts = prompts.tolist()
    out = model(prompts[rows], use_cache=True)
    cache, logits = out.past_key_values, out.logits[:, -1]
    found: dict[str, list[list[float]]] = {measure: [[] for _ in range(count)] for measure in MEASURES}
    for _ in range(rounds):
        drawn = []
        for _ in range(tokens):
            chances = logits.double().softmax(-1).cumsum(-1)
            wanted = torch.rand(len(rows), 1, generator=draws, dtype=torch.double) * chances[:, -1:]
            drawn.append(torch.searchsorted(chances, wanted)[:, 0].clamp(max=chances.shape[-1] - 1))
            at = torch.full((len(rows), 1), length + len(drawn) - 1)
            logits = model(drawn[-1][:, None], past_key_values=cache, position_ids=at, use_cache=True).logits[:, -1]
        length += tokens
        new = torch.stack(drawn, 1).view(count, ways, tokens)
        share = counted[new].double().mean(-1)
        kept = share.argmax(1) if select else torch.zeros(count, dtype=torch.long)
        for prompt, way in enumerate(kept.tolist()):
            chosen = new[prompt, way].tolist()
            found["proxy"][prompt].append(float(share[prompt, way]))
            found["side effect"][prompt].append(repeated(contexts[prompt], chosen))
            contexts[prompt] += chosen
        back = (torch.arange(count) * ways + kept).repeat_interleave(ways)
        cache.reorder_cache(back)
        logits = logits[back]
    return found, contexts


def growth(by_round: Sequence[Sequence[float]]) -> np.ndarray:
    """Of each prompt the mean of the last quarter of the rounds less that of the first [prompts]."""
    values = np.array(by_round)
    quarter = max(1, values.shape[1] // 4)
    return values[:, -quarter:].mean(1) - values[:, :quarter].mean(1)


def over(by_seed: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """The mean of values [prompts] of each seed, and the ends of its interval."""
    values = np.stack(by_seed)
    return mean_and_ends(values.mean(1).tolist(), values.mean(0))


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By encoding its seeds, and of each measure the growth in both arms and by how much more it is with feedback. A
    seed that lacks an arm does not count."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        found[run["encoding"]][run["seed"]][run["arm"]] = run["by_round"]
    told: dict[str, dict[str, Any]] = {}
    for encoding, by_seed in found.items():
        whole = [arms for _, arms in sorted(by_seed.items()) if set(arms) == set(ARMS)]
        for measure in MEASURES if whole else ():
            fed, left = ([growth(arms[arm][measure]) for arms in whole] for arm in ARMS)
            means = {arm: float(np.mean(each)) for arm, each in zip(ARMS, (fed, left), strict=True)}
            more = over([a - b for a, b in zip(fed, left, strict=True)])
            told.setdefault(encoding, {"seeds": len(whole)})[measure] = {**means, "more": more}
    return told


def table(told: dict[str, dict[str, Any]]) -> str:
    """A summary in points, as Markdown."""
    heads = [head for measure in MEASURES for head in (f"{measure}: feedback, control", "more with feedback")]
    lines = [f"| encoding | seeds | {' | '.join(heads)} |", f"| --- | ---: |{' ---: |' * len(heads)}"]
    for encoding, row in told.items():
        cells = [f"`{encoding}`", str(row["seeds"])]
        for measure in MEASURES:
            middle, low, high = row[measure]["more"]
            shown = f"{100 * middle:+z.1f}" if low > 0 or high < 0 else "not resolved"
            cells += [", ".join(f"{100 * row[measure][arm]:+z.1f}" for arm in ARMS)]
            cells += [f"{shown} ({100 * low:+z.1f} to {100 * high:+z.1f})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", type=Path, help="folders of trials, with their weights")
    for name, default in (("rounds", 24), ("tokens", 24), ("ways", 4), ("prompts", 16), ("prompt", 64), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    settings = {name: value for name, value in vars(options).items() if name not in ("trials", "out")}
    empty = {"settings": settings, "machine": machine(), "versions": versions(), "runs": []}
    results = read_json(options.out) if options.out.exists() else empty
    if options.trials and results["settings"] != settings:
        parser.error(f"{options.out} has other settings, {results['settings']}; delete it to begin anew")
    for folder in options.trials:
        trial = read_result(folder / "result.json")
        for arm in ARMS:
            if any((run["trial"], run["arm"]) == (trial.id, arm) for run in results["runs"]):
                continue
            started, from_ = time.time(), source(str(folder))
            tokenizer, text = from_.tokenizer(), trial.settings["text"]
            documents = corpus.read_documents(text)
            prompts = text_windows(text, documents, tokenizer, options.prompt, options.prompts, heldout=True)
            has_digit = [any(letter.isdigit() for letter in tokenizer.decode([i])) for i in range(trial.vocab_size)]
            model = from_.model()
            with evaluating(model):
                amounts = (options.rounds, options.tokens, options.ways)
                found, _ = refine(model, prompts, torch.tensor(has_digit), *amounts, arm == "feedback", options.seed)
            run = {"trial": trial.id, "encoding": trial.notation, "seed": trial.seed, "arm": arm, "by_round": found}
            results["runs"].append(run | {"seconds": round(time.time() - started, 1)})
            write_atomically(options.out, json.dumps(results) + "\n")
            print(f"{trial.notation}, seed {trial.seed}, {arm}: {time.time() - started:.0f} s", flush=True)
    results["summary"] = summary(results["runs"])
    write_atomically(options.out, json.dumps(results) + "\n")
    print(table(results["summary"]))


if __name__ == "__main__":
    main()
