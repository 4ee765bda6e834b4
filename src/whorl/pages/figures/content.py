"""Encodings that go by content: what they make of an example, whose content is drawn at random or made for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch

import numpy as np
import torch

from whorl.encodings.cope import ContextualPositions
from whorl.encodings.dape import AdaptedBias
from whorl.encodings.darope import ChosenPositions
from whorl.encodings.fope import FourierMixture
from whorl.encodings.fox import ForgetGates
from whorl.encodings.grape_a import GatedSlopes
from whorl.encodings.grape_m import LearnedPlanes
from whorl.encodings.learned_rope import LearnedAngles
from whorl.encodings.linear import FeatureAttention
from whorl.encodings.mixed_rope import MixedAngles
from whorl.encodings.pape import Parabolas
from whorl.encodings.pape_ri import Bowls
from whorl.encodings.path import Householder
from whorl.encodings.pope import Polar
from whorl.encodings.relative_vectors import RelativeVectors
from whorl.encodings.repo import FreePositions
from whorl.encodings.scores import At, ScoreModule
from whorl.encodings.selective_rope import AccumulatedAngles
from whorl.encodings.spe import SPE, SelectiveCodes
from whorl.encodings.spectrum import Spectrum, rope_frequencies
from whorl.encodings.stick_breaking import BrokenStick
from whorl.encodings.two_rotations import TwoRotations
from whorl.encodings.xpos import DecayingTurns
from whorl.pages.figures import biases, grids, positions, rotary
from whorl.pages.figures.drawing import (
    ADDED,
    DISTANCE,
    MODEL,
    WEIGHT,
    Side,
    Subject,
    cells,
    curves,
    random,
    steps,
)
from whorl.reports.chart import Chart
from whorl.reports.formatting import listing

TOKENS = 48
ENDS = (11, 23, 35)  # the tokens of an example that end a sentence, say
SAID = listing(list(map(str, ENDS)))
HEADS, CHANNELS, WIDTH = MODEL.heads, MODEL.head_dim, MODEL.width
KEYS, QUERY = "key", "query"


@singledispatch
def drawn(module: ScoreModule, subject: Subject) -> Chart:
    """Of any score: the logits that it makes, or the weights, where q and k are the same in all tokens."""
    at = _at(module, random(1, TOKENS, WIDTH) if module.sees_hidden else None)
    q, k = (x.expand(1, HEADS, -1, -1) for x in _alike(CHANNELS))
    logits = q @ k.mT
    if module.does("inputs"):
        q, k = module.inputs(q, k, at)
        logits = q @ k.mT
    if module.does("logits"):
        logits = module.logits(logits, q, k, at)
    if module.does("channels"):
        of_q, of_k = module.channels(q, k, at)
        logits = logits + of_q @ of_k.mT
    if module.does("weights"):
        hidden = logits.masked_fill(~_causal(), -torch.inf)
        return _by_key(subject, "weights of tokens that are alike", module.weights(hidden, at)[0, 0], "weight")
    return _by_key(subject, "logits of tokens that are alike", logits[0, 0], "logit")


# Pairs that turn otherwise


@drawn.register
def _mixed_axes(module: MixedAngles, subject: Subject) -> Chart:
    return grids.directions(subject, module)


@drawn.register
def _learned(module: LearnedAngles, subject: Subject) -> Chart:
    start = torch.tensor(module.frequencies, dtype=torch.float64)
    example = start * (0.4 * random(len(start))).double().exp()
    return rotary.moved(subject, module.frequencies, example, "one set for the model")


@drawn.register
def _planes(module: LearnedPlanes, subject: Subject) -> Chart:
    start = module.frequencies()[0].detach()
    example = start * (0.4 * random(len(start), seed=1)).exp()
    return rotary.moved(subject, tuple(start.tolist()), example, "one set for each layer")


@drawn.register
def _mixed(module: FourierMixture, subject: Subject) -> Chart:
    with torch.no_grad():
        cos, _ = module.turning(torch.arange(2 * CHANNELS)[None], None, torch.float32)
    title = "factors of a head's pairs (cosines); half of them carry no position"
    return cells(subject, title, cos[0, 0].T, "pair", "position", "factor", diverging=True)


@drawn.register
def _polar(module: Polar, subject: Subject) -> Chart:
    return rotary.channelwise(subject, module.frequencies)


@drawn.register
def _decaying(module: DecayingTurns, subject: Subject) -> Chart:
    return rotary.decaying(subject, module.rates)


@drawn.register
def _mapped(module: TwoRotations, subject: Subject) -> Chart:
    return positions.mapped(module, subject)


@drawn.register(ChosenPositions)
@drawn.register(FreePositions)
def _chosen(module: ScoreModule, subject: Subject) -> Chart:
    return positions.chosen(module, subject, WIDTH)


@drawn.register
def _accumulated(module: AccumulatedAngles, subject: Subject) -> Chart:
    with torch.no_grad():
        at = torch.arange(2 * TOKENS)[None]
        state = module.tokens(random(1, 2 * TOKENS, WIDTH), at, None, None)
    angles = state[0, :, 0, : -module.rank - 1].unflatten(-1, (HEADS, -1))[:, 0, :6]
    return positions.accumulated(angles, subject)


# Distances


@drawn.register
def _rows(module: RelativeVectors, subject: Subject) -> Chart:
    distances = steps(1, 64)
    of = module.row(torch.tensor(distances).long()).numpy()
    on = listing([{"k": "keys", "q": "queries", "v": "values"}[letter] for letter in module.on])
    of = np.asarray(of) - int(module.row(torch.tensor(0)))
    return biases.told_apart(subject, distances, of, f"a vector each, on {on}")


@drawn.register
def _gated(module: GatedSlopes, subject: Subject) -> Chart:
    """The last query of a text whose keys are alike, with five contents of that query."""
    distances = list(range(129))
    head, lines = HEADS // 2 - 1, []
    for example, along in enumerate((-32.0, -8.0, 0.0, 8.0, 16.0)):
        q = torch.zeros(1, HEADS, 1, CHANNELS)
        q[0, head, 0] = along * torch.nn.functional.normalize(module.v[head], dim=-1)
        at = At(torch.tensor([[128]]), torch.arange(129)[None], None, None)
        of_q, of_k = module.channels(q, torch.zeros(1, HEADS, 129, CHANNELS), at)
        bias = (of_q @ of_k.mT)[0, head, 0].flip(-1).detach().double().numpy()
        lines.append((("gate hardly open", "", "gate of q = 0", "", "gate wide open")[example], bias))
    named = [line for line in lines if line[0]]
    title = f"head {head}, by what the query's content opens"
    return curves(subject, title, DISTANCE, ADDED, distances, named)


@drawn.register(Bowls)
@drawn.register(Parabolas)
def _parabolas(module: ScoreModule, subject: Subject) -> Chart:
    distances = np.arange(-8, 9) / 2
    with torch.no_grad():
        state = module.tokens(6 * random(1, 3, WIDTH), torch.zeros(1, 3).long(), None, None)[0, :, 0].double()
    curved, tilted = state[:, 0], state[:, 1] if state.shape[1] > 1 else torch.zeros(3)
    lines = [
        (f"query {i + 1}", CHANNELS**-0.5 * (float(b) * distances - float(a) * distances**2))
        for i, (a, b) in enumerate(zip(curved, tilted, strict=True))
    ]
    both: Side = ("distance, tokens (below 0: later keys)", "linear")
    return curves(
        subject,
        "one head, for three queries of random content, before training",
        both,
        ADDED,
        distances.tolist(),
        lines,
    )


@drawn.register
def _codes(module: SelectiveCodes, subject: Subject) -> Chart:
    """What each code adds to one logit of a cloud that is turned about x."""
    degrees = list(range(0, 361, 5))
    cloud, content = random(1, 12, 3, seed=4), random(1, 12, WIDTH)
    q, lines = torch.zeros(1, HEADS, 12, CHANNELS), []
    with torch.no_grad():
        for code in SPE().codes.split("@"):
            one = SelectiveCodes(replace(MODEL, bidirectional=True, axes=3), (code,), SPE())
            added = []
            for turn in degrees:
                cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
                about_x = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]])
                points = cloud @ about_x
                state = one.tokens(content, points, None, None).transpose(1, 2)
                at = At(points, points, state, state, None, 1.0)
                added.append(float(one.logits(torch.zeros(1, HEADS, 12, 12), q, q, at)[0, 0, 0, 5]))
            lines.append((code, added))
    x: Side = ("degrees that the cloud is turned about x", "linear")
    return curves(subject, "what each code adds to a logit, before training", x, ADDED, degrees, lines)


@drawn.register
def _adapted(module: AdaptedBias, subject: Subject) -> Chart:
    distances = list(range(0, 257, 2))
    at = At(torch.tensor([[256]]), 256 - torch.tensor([distances]), None, None)
    q = torch.zeros(1, HEADS, 1, CHANNELS)
    lines = []
    with torch.no_grad():
        for logit in (-4.0, 0.0, 4.0):
            s = torch.full((1, HEADS, 1, len(distances)), logit)
            added = module.logits(s, q, q, at) - s
            lines.append((f"logits of {logit:g}", added[0, 0, 0].double().numpy()))
        plain = module.bias(at.query_positions, at.key_positions)[0, 0, 0].double().numpy()
    title = "what is added in a head, before training, by the logits of all heads"
    return curves(
        subject, title, DISTANCE, ADDED, distances, [("the bias alone", plain), *lines], other="the bias alone"
    )


# Gates and weights


@drawn.register
def _forgetting(module: ForgetGates, subject: Subject) -> Chart:
    """Gates that are open but for those of three tokens, which close the one of this head."""
    assert module.sees_hidden
    hidden = torch.zeros(1, TOKENS, WIDTH)
    along = module.weight[0].detach() / module.weight[0].detach().square().sum()
    hidden[0] = 3.5 * along
    hidden[0, list(ENDS)] = -1.5 * along
    with torch.no_grad():
        at = _at(module, hidden)
        q = torch.zeros(1, HEADS, TOKENS, 1)
        of_q, of_k = module.channels(q, q, at)
        kept = (of_q @ of_k.mT)[0, 0].exp()
    return _by_key(subject, f"what is left of a key's weight; tokens {SAID} close the gate", kept, "share left")


@drawn.register
def _householder(module: Householder, subject: Subject) -> Chart:
    """What tokens between query and key make of a product that would be 1."""
    torch.nn.init.normal_(module.up, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        at = _at(module, random(1, TOKENS, WIDTH))._replace(scale=CHANNELS**-0.5)
        q, k = _alike(CHANNELS)
        made = module.logits(None, q.expand(1, HEADS, -1, -1), k.expand(1, HEADS, -1, -1), at)[0, 0]
    gate = " and gates" if module.forgets else ""
    title, high = f"what turns by random content{gate} leave of a product of 1", None if module.forgets else 1.0
    return _by_key(subject, title, made, "product", high, diverging=module.forgets)


@drawn.register
def _counted(module: ContextualPositions, subject: Subject) -> Chart:
    """Counts alone: the table says each position's own number along the first channel of q."""
    with torch.no_grad():
        module.weight.zero_()
        module.weight[:, 0] = torch.arange(len(module.weight))
        q = torch.zeros(1, 1, TOKENS, CHANNELS)
        q[..., 0] = 1.0
        s = torch.full((1, 1, TOKENS, TOKENS), -8.0)
        s[..., list(ENDS)] = 8.0
        at = At(*(2 * (torch.arange(TOKENS)[None],)), None, None, _causal()[None, None])
        counts = (module.logits(s, q, q, at) - s)[0, 0]
    title = f"the position of a key as queries count, who find tokens {SAID} worth counting"
    return _by_key(subject, title, counts, "counted position")


@drawn.register
def _stick(module: BrokenStick, subject: Subject) -> Chart:
    lines = []
    for logit in (-4.0, -2.0, 0.0, 2.0):
        s = torch.full((1, 1, 1, TOKENS + 1), logit)
        at = At(torch.tensor([[TOKENS]]), torch.arange(TOKENS + 1)[None], None, None)
        weights = module.weights(s, at)[0, 0, 0].flip(-1)
        lines.append((f"logits of {logit:g}", weights.double().numpy()[1:]))
    return curves(
        subject, "the weights of keys whose logits are all alike", DISTANCE, WEIGHT, range(1, TOKENS + 1), lines
    )


@drawn.register
def _features(module: FeatureAttention, subject: Subject) -> Chart:
    turned = FeatureAttention(Spectrum(rope_frequencies(10000.0, CHANNELS), CHANNELS), "half")
    q, k = random(1, 1, 1, CHANNELS), random(1, 1, 1, CHANNELS, seed=0).expand(1, 1, 2 * TOKENS, CHANNELS)
    at = At(torch.tensor([[2 * TOKENS - 1]]), torch.arange(2 * TOKENS)[None], None, None)
    lines: Sequence[tuple[str, np.ndarray]] = [
        (name, one.logits(None, q, k, at)[0, 0, 0].flip(-1).double().numpy())
        for name, one in (("rope+linear", turned), ("linear", module))
    ]
    return curves(
        subject, "the weights of tokens that are alike", DISTANCE, WEIGHT, range(2 * TOKENS), lines, levels=((0.0, ""),)
    )


# Shared


def _at(module: ScoreModule, hidden: torch.Tensor | None) -> At:
    """What a score knows of a text's tokens, which are queries and keys."""
    places = biases.placed(module, torch.arange(TOKENS)[None])
    state = module.tokens(hidden, places, None, None).transpose(1, 2) if module.keeps_state else None
    return At(places, places, state, state, _causal()[None, None], 1.0)


def _causal() -> torch.Tensor:
    return torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()


def _alike(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k of tokens that are all the same, whose product is 1."""
    one = torch.nn.functional.normalize(random(channels, seed=3), dim=-1).expand(1, 1, TOKENS, channels)
    return one, one


def _by_key(
    subject: Subject, title: str, table: torch.Tensor, of: str, high: float | None = None, diverging: bool = False
) -> Chart:
    seen = table.masked_fill(~_causal(), torch.nan)
    return cells(subject, title, seen, QUERY, KEYS, of, high=high, diverging=diverging)
