"""One contract for every (encoding, family): what is asked of a pair, and which pairs there are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from whorl.encodings import Encoding, Layers, Score, Shape, parse
from whorl.hosts import ENCODERS, FAMILIES

# The encodings of docs/families.md, with small arguments: inputs are 40 tokens and tables of positions have 64 rows.
ENCODINGS = {
    "rope": "rope:base=500",
    "hope": "hope:train_length=16",
    "taper": "taper:train_length=16",
    "learned-rope": "learned-rope:base=500",
    "grape-m": "grape-m:base=500",
    "fope": "fope:train_length=16,base=500",
    "pope": "pope:base=500",
    "liere": "liere:unit=16,block=4",
    "xpos": "xpos:base=500,scale=16",
    "darope": "darope:train_length=16",
    "selective-rope": "selective-rope",
    "repo": "repo:base=500,first=1",
    "p-rope": "p-rope:p=0.5",
    "partial-rope": "partial-rope:fraction=0.5",
    "nope": "nope",
    "sinusoidal": "sinusoidal",
    "learned": "learned:max_positions=64",
    "alibi": "alibi",
    "euclidean-alibi": "euclidean-alibi",
    "t5": "t5",
    "kerple": "kerple",
    "fire": "fire:train_length=16",  # a cache must know the queries' positions past half of it
    "sandwich": "sandwich",
    "cope": "cope:positions=8",
    "shaw": "shaw:reach=4",
    "irpe": "irpe:on=qkv",
    "dape": "dape",
    "path": "path",
    "path-fox": "path-fox",
    "stick-breaking": "stick-breaking",
    "linear": "linear",
    "soft-window": "soft-window:train_length=4",
    "log-n": "log-n:train_length=16",
    "ssmax": "ssmax:train_length=16",
    "llama4-scale": "llama4-scale:floor_scale=8",
    "mistral-scale": "mistral-scale:original=8",
    "head-scale": "head-scale",
    "fox": "fox",
    "grape-a": "grape-a",
    "pape": "pape:parabolas=4",
    "pape-ri": "pape-ri",
    "self-extend": "self-extend:window=8,group=4",
    "rerope": "rerope:window=8",
    "randomized": "rope:base=500+randomized:length=64",
}
# Of positions that no text has: their contract is in tests/hosts/test_points.py.
OF_POINTS = ("spe",)
# Those that go by the grid of an image, in tests/attaching/test_images.py.
ON_GRIDS = (
    "axial-rope",
    "hope-2d",
    "p-rope-2d",
    "mixed-rope",
    "dinov3-rope",
    "liere",
    "sincos-2d",
    "learned-2d",
    "euclidean-alibi",
    "alibi-2d",
    "lookhere",
    "irpe",
    "pape",
    "pape-ri",
)
ROTARY_AND_BIAS = ("rope", "hope", "p-rope", "partial-rope", "alibi", "t5", "kerple", "fire", "sandwich")
COMPOSED = (
    "frequencies:values=0.9@0.1",
    "rope+window:size=8/nope",
    "hope:train_length=16+alibi",
    "rope:base=500+linear",
)
EVERY = (*ENCODINGS.values(), *COMPOSED)

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

# Why a layer of a family cannot have something, by what an encoding does: attaching raises this.
REFUSED = {
    ("falcon", "scale"): "in transformers' attention interface, which .* does not use",
    ("falcon", "score"): "in transformers' attention interface, which .* does not use",
    ("gemma4_text", "state"): "reuses the keys of an earlier layer",
    ("gemma4_text", "by layer"): "reuses the keys of layer",
    ("hunyuan_v1_dense", "as trained"): "normalise them, channel by channel, after its own rotation",
    ("gemma2", "features"): "caps those of its own",
    ("gpt_oss", "softmax"): "has attention sinks in it",
    **{(family, "reposition"): "has no rotary module to hand them out" for family in ("gpt2", "opt", "bert")},
    **{(encoder, "causal"): "encoder|both directions" for encoder in ENCODERS},
}


def parts(encoding: Encoding | str) -> list[Encoding]:
    """The encodings of a composition."""
    encoding = parse(encoding)
    inside = getattr(encoding, "rules", None) or getattr(encoding, "parts", None)
    if inside is None:
        return [encoding]
    return [one for part in inside for one in parts(part)]


@cache
def traits(notation: str) -> frozenset[str]:
    """What an encoding does that some families cannot have: its effects, and what its scores need."""
    found = {"by layer"} if isinstance(parse(notation), Layers) else set()
    for part in parts(notation):
        for effect in part.with_defaults().effects(Shape(16, 4, 64)):
            found.add(type(effect).__name__.lower())
            if isinstance(effect, Score):
                score, softmax = effect.module, effect.module.does("weights")
                flags = {
                    "state": score.keeps_state,
                    "anew": score.scores_anew,
                    "causal": score.causal,
                    "as trained": score.as_trained,
                    "features": score.does("features"),
                }
                found.update(name for name, holds in {**flags, "softmax": softmax}.items() if holds)
        try:
            part.with_defaults().effects(Shape(16, 4, 64, bidirectional=True))
        except ValueError:
            found.add("causal")
    return frozenset(found)


def refused(family: str, encoding: str) -> str | None:
    """The words with which attaching this to the family fails, or None."""
    return next((REFUSED[family, trait] for trait in sorted(traits(encoding)) if (family, trait) in REFUSED), None)


@cache
def refused_here(family: str) -> str | None:
    """Why image models of a family are refused for their layers in this transformers, as DINOv2's in 5.17; or None."""
    import whorl
    from whorl.testing import tiny_image_model

    try:
        whorl.attach(tiny_image_model(family), "axial-rope")
    except ValueError as error:
        if "takes no keyword arguments, by which positions go to its attention" not in str(error):
            raise
        return str(error)
    return None


def held(families: Sequence[str], step: int) -> list[tuple[str, str]]:
    """The pairs that are held to the contract: all, but of encodings that go by content every `step`-th."""
    return [
        (f, e)
        for i, f in enumerate(families)
        for j, e in enumerate(EVERY)
        if refused(f, e) is None and (not _by_content(e) or (i + j) % step == 0)
    ]


def _by_content(encoding: str) -> bool:
    """Or by angles that are learned: by what runs in whorl's attention, and not by biases or a spectrum."""
    return bool({"scale", "score"} & traits(encoding))


CONTENT = tuple(name for name, encoding in ENCODINGS.items() if _by_content(encoding))
PAIRS = held(tuple(FAMILIES), 5)

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
    positions, and what goes by content or multiplies logits, is moved a little from where it starts.
    """
    import whorl
    from whorl.encodings.learned import PositionTable
    from whorl.encodings.scores import ScoreModule
    from whorl.encodings.ssmax import LearnedLogarithm

    generator = torch.Generator().manual_seed(0)
    for effect in whorl.attached(model).effects:
        for parameter in effect.parameters():
            draw = torch.empty_like(parameter).uniform_(0.2, 1.8, generator=generator)
            moved = isinstance(effect, (PositionTable, ScoreModule, LearnedLogarithm))
            parameter.data = parameter + 0.1 * draw if moved else draw
    return model


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max())
