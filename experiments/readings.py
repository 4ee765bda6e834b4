"""What the studies say that are no comparisons: lines of evidence read from their results.json, and from measured rows.

Each function says with its arguments what is read, and gives the reader of a file (`evidence.Read`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from evidence import Line, Read, Says, Verdict, by_interval, over_seeds

from whorl.reports.formatting import listing, plural

U_SHAPE = "experiments/0004-u-shape/results.json"
PRETRAINED = "experiments/0007-pretrained-llms/results.json"
FEEDBACK = "experiments/0014-feedback/results.json"
STEPS = "benchmarks/results/steps.csv"
MODELS = {"SmolLM2-135M": "smollm2", "Gemma 3 270M": "gemma3"}
IN_Z = {"random": "z-scores, on random tokens", "text": "logits, on text"}

# The U-shape: 0004, small models trained with three seeds


def rises(encoding: str, says: Says, on: str = "random", control: str = "") -> Read:
    """Whether the far end of the training length gets more attention than the middle: "better" says that it does.
    control: what the encoding lacks, where it is one that the claim is not about."""

    def read(trials: list[dict[str, Any]]) -> Line:
        found = over_seeds([t["u_shape"][on]["rise"] for t in _of(trials, encoding)], says)
        return Line(
            found.verdict, f"{_named(encoding, control)}: the far end above the middle by {found.words} ({IN_Z[on]})"
        )

    return Read(U_SHAPE, read)


def made_by_what_hope_removes(encoding: str) -> Read:
    """Whether most of the pairs that make the U-shape are those that HoPE removes."""

    def read(trials: list[dict[str, Any]]) -> Line:
        made = [t["u_shape"]["random"]["activated"] for t in _of(trials, encoding)]
        told = listing([f"{a['removed_by_hope']} of {len(a['pairs'])}" for a in made])
        pairs = [pair for a in made for pair in a["pairs"]]
        which = f"pairs {min(pairs)} to {max(pairs)} make it"
        words = f"`{encoding}`, {plural(len(made), 'seed')}: {which}, and HoPE removes {told} of them"
        return Line(_on_all(2 * a["removed_by_hope"] > len(a["pairs"]) for a in made), words)

    return Read(U_SHAPE, read)


def appears_early(encoding: str) -> Read:
    """Whether the U-shape is there, and stays, within the first fifth of the training."""

    def read(trials: list[dict[str, Any]]) -> Line:
        steps, ends = [], []
        for trial in _of(trials, encoding):
            seen = [(at["step"], at["u_shape"]["random"]["appears"]) for at in trial["training"]]
            without = max((step for step, appears in seen if not appears), default=0)
            steps.append(min((step for step, _ in seen if step > without), default=math.inf))
            ends.append(seen[-1][0])
        told = listing([f"{step:,}" for step in steps])
        early = _on_all(step <= end / 5 for step, end in zip(steps, ends, strict=True))
        return Line(
            early, f"`{encoding}`, {plural(len(steps), 'seed')}: it is there from step {told} of {ends[0]:,} on"
        )

    return Read(U_SHAPE, read)


def leaves_its_range(encoding: str, says: bool, control: str = "") -> Read:
    """Whether a pair that HoPE removes leaves its range first past the training length, by over a standard deviation;
    says False: whether none does."""

    def read(trials: list[dict[str, Any]]) -> Line:
        found = [(t["out_of_range"]["first_pair"], t["ablation"]["hope_cut"]) for t in _of(trials, encoding)]
        first = [pair for pair, _ in found]
        told = listing([f"pair {p['pair']} of layer {p['layer']} by {p['departure']:.1f}" for p in first])
        broken = [pair["departure"] > 1 and pair["pair"] >= cut for pair, cut in found]
        verdict = _on_all(one is says for one in broken)
        who = f"{_named(encoding, control)}, {plural(len(first), 'seed')}"
        return Line(verdict, f"{who}: farthest goes {told} standard deviations, at 2x")

    return Read(U_SHAPE, read)


def not_needed(encoding: str, cut: int) -> Read:
    """Whether stilling the pairs from `cut` on, without training, leaves the loss in range alike: within 0.01 nats."""

    def read(trials: list[dict[str, Any]]) -> Line:
        rows = [next(c for c in t["ablation"]["cuts"] if c["cut"] == cut) for t in _of(trials, encoding)]
        found = over_seeds([row["in_range_change"] for row in rows], "alike", 4, alike=0.01)
        turn = f"{rows[0]['wavelength']:.0f} tokens"
        words = (
            f"`{encoding}`: stilling the pairs that take {turn} or more for a turn costs {found.words}, nats in range"
        )
        return Line(found.verdict, words)

    return Read(U_SHAPE, read)


# 0007, two pretrained models: no seeds, so what each of them shows is told


def share_of_the_slow(of: str, says: Says) -> Read:
    """Of the norm, in the slowest half of the pairs, a mean over layers: "better" says over half; "alike", within two
    points of it."""

    def read(results: dict[str, Any]) -> Line:
        found = {}
        for name, model in MODELS.items():
            layers = results[f"usage-{model}"]["code"]["shares"][of]["slow_half_share_by_layer"]
            found[name] = mean(layers)
        holds = {name: abs(x - 0.5) < 0.02 if says == "alike" else x > 0.52 for name, x in found.items()}
        told = listing([f"{100 * x:.0f} % ({name})" for name, x in found.items()])
        return Line(_in_models(holds), f"the slowest half of the pairs has {told} of the norm of {of[-1]}")

    return Read(PRETRAINED, read)


def heads_by_their_pairs(kind: str, says: Says) -> Read:
    """What the fastest quarter of the pairs makes of the margin of heads of a kind: "better" says more than a quarter
    in every one of them, "worse" less."""

    def read(results: dict[str, Any]) -> Line:
        shares = {}
        for name, model in MODELS.items():
            heads = [head["fast_share"] for head in results[f"usage-{model}"]["code"]["heads"] if head["kind"] == kind]
            shares |= {name: heads} if heads else {}
        holds = {
            name: all((share > 0.25) if says == "better" else (share < 0.25) for share in heads)
            for name, heads in shares.items()
        }
        told = listing([f"{_span(heads)} in {len(heads)} heads ({name})" for name, heads in shares.items()])
        return Line(_in_models(holds), f"{kind} heads: the fastest quarter of the pairs makes {told} of the margin")

    return Read(PRETRAINED, read)


def fast_layers(of: str) -> Read:
    """Whether the fastest quarter of the pairs has over a quarter of the norm in one of the first three layers, and in
    one of the last three."""

    def read(results: dict[str, Any]) -> Line:
        told, ends = [], []
        for name, model in MODELS.items():
            layers = results[f"usage-{model}"]["code"]["shares"][of]["fast_share_by_layer"]
            over = [at for at, share in enumerate(layers) if share > 0.25]
            ends += [min(over, default=3) < 3, max(over, default=0) >= len(layers) - 3]
            which = f"layer{'s' if len(over) > 1 else ''} {listing([str(at) for at in over])}" if over else "no layer"
            told.append(f"{which} of its {len(layers)} ({name})")
        verdict = Verdict.FOR if all(ends) else Verdict.PARTLY if any(ends) else Verdict.AGAINST
        words = f"the fastest quarter of the pairs has over 25 % of the norm of {of[-1]}, layers counted from 0"
        return Line(verdict, f"{words}: in {listing(told)}")

    return Read(PRETRAINED, read)


def near_the_bound(least: float) -> Read:
    """Whether the logit of a positional head comes to so much of the bound of Cauchy and Schwarz."""

    def read(results: dict[str, Any]) -> Line:
        bounds = {}
        for name, model in MODELS.items():
            heads = results[f"usage-{model}"]["code"]["heads"]
            bounds[name] = [head["bound"] for head in heads if head["kind"] in ("previous-token", "diagonal")]
        told = listing([f"{_span(each)} ({name})" for name, each in bounds.items()])
        return Line(
            _in_models({name: max(each) >= least for name, each in bounds.items()}),
            f"the logits of positional heads are {told} of the bound",
        )

    return Read(PRETRAINED, read)


def costs(model: str, encoding: str, says: Says, alike: float = 0.02) -> Read:
    """What an encoding costs a pretrained model at 512 tokens without training, in nats; "worse" says that it costs."""

    def read(results: dict[str, Any]) -> Line:
        rows = [row for row in results[f"cuts-{MODELS[model]}"]["rows"] if row["encoding"] == encoding]
        found = [_cost(row, says, alike) for row in rows]
        told = listing([f"{r['change']:z.3f} ({r['low']:z.3f} to {r['high']:z.3f}) on {r['text']}" for r in rows])
        verdict = found[0] if len(set(found)) == 1 else Verdict.OPEN
        where = f"{model} at 512 tokens, not trained on it"
        return Line(verdict, f"{where}: `{encoding}` costs {told}, in nats; {rows[0]['windows']} windows of each")

    return Read(PRETRAINED, read)


def _cost(row: Mapping[str, float], says: Says, alike: float) -> Verdict:
    """Of a loss above the untouched model's: "alike" says that it is below `alike`, "worse" that it is above zero."""
    if says == "alike":
        return Verdict.FOR if row["high"] < alike else Verdict.AGAINST if row["low"] > alike else Verdict.OPEN
    return Verdict.FOR if row["low"] > 0 else Verdict.AGAINST if row["high"] < 0 else Verdict.OPEN


def u_shape_of_smollm2(on: str) -> Read:
    """Over its whole training length of 8,192 tokens."""

    def read(results: dict[str, Any]) -> Line:
        found = results["reach-smollm2"]["u_shape"][on]
        made = found["activated"]
        pairs = (
            f"; HoPE removes {made['removed_by_hope']} of the {len(made['pairs'])} pairs that make it" if made else ""
        )
        words = (
            f"SmolLM2: the far end above the middle by {found['rise']:.2f} ± {found['stderr']:.2f} ({IN_Z[on]}){pairs}"
        )
        return Line(Verdict.FOR if found["appears"] else Verdict.AGAINST, words)

    return Read(PRETRAINED, read)


def read_on(encoding: str, at: int) -> Read:
    """How SmolLM2 reads from position `at` on in an encoding that it was not trained on, and as it is: one window."""

    def read(results: dict[str, Any]) -> Line:
        found = results["long-smollm2"]
        place = found["edges"].index(at)
        (own,), (other,) = (found["losses"][name]["prose"] for name in ("rope", encoding))
        where = f"SmolLM2, trained at 8,192 tokens, at {at:,} to {found['edges'][place + 1] - 1:,}"
        losses = f"{other[place]:.2f} nats with `{encoding}`, {own[place]:.2f} as it is"
        return Line(Verdict.ONE_SEED, f"{where}: {losses}; one window: no claim")

    return Read(PRETRAINED, read)


def healed(encoding: str, text: str, place: int) -> Read:
    """Whether a cut costs SmolLM2 something in both windows that were read, and what a short training leaves of it
    against a model that was trained alike."""

    def read(results: dict[str, Any]) -> Line:
        found = results["heal-smollm2"]
        own = [row for row in found["rows"] if (row["encoding"], row["text"]) == (encoding, text)]
        before = next(row for row in own if row["when"] == "before")
        after = next((row for row in own if row["above"] == "rope, after"), None)
        where = f"{found['edges'][place]:,} to {found['edges'][place + 1] - 1:,} tokens of {text}"
        words = f"SmolLM2 at {where}: `{encoding}` costs {_of_windows(before, place)}, not trained on it"
        if after is not None:
            tokens = found["trained"][encoding]["tokens"]
            words += f"; {_of_windows(after, place)} after {tokens:,} tokens of training, above a model trained alike"
        return Line(Verdict.FOR if before["low"][place] > 0 else Verdict.OPEN, words)

    return Read(PRETRAINED, read)


# 0014, what comes back to a model's context


def grows(encoding: str, measure: str) -> Read:
    """Whether a measure grows more with the rounds where the best by the proxy comes back than where any does."""

    def read(results: dict[str, Any]) -> Line:
        row = results["summary"].get(encoding)
        if row is None:
            return Line(Verdict.MISSING, f"`{encoding}`, {measure}: {Verdict.MISSING}")
        middle, low, high = (100 * value for value in row[measure]["more"])
        what = f"`{encoding}`, {measure}, growth with feedback less that of the control"
        if row["seeds"] < 2:
            return Line(Verdict.ONE_SEED, f"{what}: {Verdict.ONE_SEED} ({middle:+z.1f} points)")
        shown = f"{middle:+z.1f}" if low > 0 or high < 0 else "not resolved"
        words = f"{what}: {shown} ({low:+z.1f} to {high:+z.1f} points), {plural(row['seeds'], 'seed')}"
        return Line(by_interval(low, high, "better"), words)

    return Read(FEEDBACK, read)


# Rows of benchmarks


def slower(encoding: str, than: float) -> Read:
    """Whether a training step takes more than so many times one with rope, in every round."""

    def read(rows: list[dict[str, str]]) -> Line:
        row = [row for row in rows if row["encoding"] == encoding][-1]
        least, middle, most = (float(row[f"ratio_{key}"]) for key in ("least", "50", "most"))
        verdict = Verdict.FOR if least > than else Verdict.AGAINST if most < than else Verdict.OPEN
        rounds = f"rounds from {least:.1f} to {most:.1f}"
        return Line(verdict, f"a step with `{encoding}` takes {middle:.1f} times one with `rope`, {rounds}")

    return Read(STEPS, read)


def _named(encoding: str, control: str) -> str:
    return f"control, {control}: `{encoding}`" if control else f"`{encoding}`"


def _of(trials: Sequence[dict[str, Any]], encoding: str) -> list[dict[str, Any]]:
    return [trial for trial in trials if trial["encoding"].partition(":")[0] == encoding]


def _on_all(found: Any) -> Verdict:
    """Of what is so or not on each seed: a claim needs two, and all of them."""
    each = list(found)
    if len(each) < 2:
        return Verdict.ONE_SEED
    return Verdict.FOR if all(each) else Verdict.OPEN if any(each) else Verdict.AGAINST


def _in_models(holds: Mapping[str, bool]) -> Verdict:
    if not holds:
        return Verdict.MISSING
    return Verdict.FOR if all(holds.values()) else Verdict.PARTLY if any(holds.values()) else Verdict.AGAINST


def _of_windows(row: Mapping[str, Sequence[float]], place: int) -> str:
    return f"{row['change'][place]:.2f} nats (its windows from {row['low'][place]:.2f} to {row['high'][place]:.2f})"


def _span(shares: Sequence[float]) -> str:
    low, high = f"{100 * min(shares):z.0f}", f"{100 * max(shares):z.0f}"
    return f"{low} %" if low == high else f"{low} to {high} %"
