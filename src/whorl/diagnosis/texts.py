"""Checks by the loss on a text: the declared rotation must read it better than the one it is mistaken for.

A model that reads the text under neither (its loss is above the entropy of single tokens of that text) says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from statistics import NormalDist
from typing import Any, NamedTuple

import torch

from whorl.checking import shown
from whorl.data.losses import entropy_of_counts, token_losses
from whorl.diagnosis.answers import Answer, NotApplicable, NotAsked, judged
from whorl.diagnosis.meaning import Sizes, other_reading
from whorl.diagnosis.reading import MIXED
from whorl.diagnosis.settings import _of_cause
from whorl.diagnosis.subject import Subject
from whorl.encodings import Spectrum
from whorl.hosts import head_dim_of
from whorl.hosts.transformers.rope_settings import of_layers, turning_share
from whorl.ops import rotate, rotation_tables
from whorl.results.diagnosis import PASS
from whorl.watching import Layer, layers_of, watching

CONFIDENCE = 0.99
WINDOW, WINDOWS = 256, 8
FEW, SHORTEST = 8, 32  # windows that an interval needs, and tokens that they are not cut below
ENOUGH = 100_000  # characters of a text: more than the windows take


class Turned(NamedTuple):
    """A rotation: radians per token for each pair, how the pairs lie, and what cos and sin are multiplied by."""

    frequencies: tuple[float, ...]
    layout: str
    amplitude: float


Other = Callable[[Layer], Turned | None]  # another rotation for one layer; None leaves it its own

TEXT = """\
Once upon a time, there was a little girl named Lily. She lived in a small house with her mom and her dad. Lily \
had a red ball, and she loved to play with it in the garden. One day, the ball rolled under a big tree. Lily \
looked and looked, but she could not see it. She was very sad. Then a little dog came to her. "Why are you sad?" \
asked the dog. "I lost my red ball," said Lily. The dog ran to the big tree and found the ball. Lily was so \
happy. She said, "Thank you, little dog!" They played with the ball all day. When the sun went down, Lily went \
home with her new friend. Her mom smiled and said, "You can keep the dog." Lily gave the dog a big hug. From \
that day on, they were best friends.

One day, a boy named Tim went to the park with his mom. He saw a big slide and wanted to go up. He was a little \
scared, but his mom held his hand. "You can do it," she said. Tim went up and up, and then he went down very \
fast. It was so much fun! He wanted to do it again and again. Then it started to rain. Tim and his mom ran to \
the car. They were all wet, and they laughed and laughed. At home, his mom made him some hot soup. Tim was warm \
and happy. He said, "I love the park, and I love you, mom." Then he went to bed and had a good dream about the \
big slide.
"""


def windows(ids: Any, length: int | None, vocabulary: int) -> torch.Tensor:
    """Token ids [windows, tokens]: given so, or cut from one row. Raises ValueError for what is no such thing."""
    try:
        found = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"text_ids must be token ids, got {shown(ids)}; try tokenizer(text, return_tensors='pt').input_ids"
        ) from error
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"text_ids must be whole numbers, got {str(found.dtype).removeprefix('torch.')}")
    found = found.long()
    if found.ndim == 1:
        size = min(WINDOW, len(found), length or WINDOW)
        found = found[: len(found) // size * size].view(-1, size) if size else found.view(0, 0)
    if found.ndim != 2 or found.shape[1] < 2 or not len(found):
        raise ValueError(
            f"text_ids must be [tokens] or [windows, tokens] with two tokens or more, got {list(found.shape)}"
        )
    if not 0 <= int(found.min()) <= int(found.max()) < vocabulary:
        raise ValueError(
            f"text_ids go from {int(found.min())} to {int(found.max())}, and the model has {vocabulary} tokens; encode "
            "the text with the model's own tokenizer"
        )
    return found[:WINDOWS, : length or None]


def layout(subject: Subject) -> Answer:
    """Channels paired in halves, or as neighbours: the loss under the declared pairing and under the other one."""

    def other(layer: Layer) -> Turned:
        return Turned(layer.frequencies, "interleaved" if layer.layout == "half" else "half", layer.amplitude)

    return _judged_by_loss(subject, "the other layout", other)


def proportional(subject: Subject) -> Answer:
    """A share of the head that turns: exponent over the whole head or over the share's own width."""
    if subject.encoding is not None:
        raise NotApplicable(f"whorl attached {subject.encoding}, which says which of the two it is")
    if all(turning_share(r.settings) >= 1 for r in subject.readings):
        raise NotApplicable("whole heads turn")
    answer = _of_cause(subject, MIXED)
    if answer.status != PASS or subject.text is None:
        return answer
    try:
        by_loss = _judged_by_loss(subject, "the other reading", lambda layer: _other_share(subject, layer))
    except NotApplicable as reason:
        return Answer(PASS, f"{answer.measured}; by loss: {reason}")
    return Answer(
        by_loss.status, f"{answer.measured}; {by_loss.measured}" if by_loss.status == PASS else by_loss.measured
    )


def _other_share(subject: Subject, layer: Layer) -> Turned | None:
    settings = of_layers(subject.config, subject.host.layer_types[layer.index], subject.host.typed)
    sizes = Sizes(head_dim_of(subject.config, subject.host.attentions[layer.index]), subject.context or 0)
    found = None if settings is None else other_reading(settings, sizes)
    return None if found is None else Turned(tuple(found.frequencies.tolist()), layer.layout, layer.amplitude)


def require_text(subject: Subject) -> torch.Tensor:
    """The text, of a model that gives a loss on it and whose q and k can be turned otherwise.

    Raises NotAsked without a text, NotApplicable for another model.
    """
    if subject.encoding is None and subject.host.rotary is None:
        raise NotApplicable("no layer turns by fixed frequencies")
    if subject.headless:
        raise NotApplicable(f"{type(subject.host.model).__name__} has no language head, and gives no loss")
    try:
        if not any(layer.turns for layer in layers_of(subject.runs.model)):
            raise NotApplicable("no layer turns by fixed frequencies")
    except ValueError as error:
        raise NotApplicable(str(error)) from error
    if subject.text is None:
        raise NotAsked("the weights alone do not say; give a text with --text (text_ids)")
    return subject.text


def _judged_by_loss(subject: Subject, what: str, other: Other) -> Answer:
    """Fails where the other rotation reads the text better, beyond the interval over windows."""
    text = cut(require_text(subject), FEW)
    own, swapped = (losses(subject, text, way).mean(1).double() for way in (None, other))
    mean, half = interval(swapped - own)
    shown = f"loss {own.mean():.3f}, {swapped.mean():.3f} under {what} (difference {mean:+.3f} ± {half:.3f})"
    unigram = entropy_of_counts(text)
    if min(float(own.mean()), float(swapped.mean())) > unigram:
        raise NotApplicable(
            f"{shown}: above {unigram:.3f}, the entropy of single tokens; the model does not read this text"
        )
    if not abs(mean) > half:
        raise NotApplicable(f"{shown}: too close to tell; give a longer text")
    return judged(mean > 0, shown)


def cut(text: torch.Tensor, wanted: int) -> torch.Tensor:
    """Windows halved until there are as many as wanted, or too short to halve: an interval over windows needs some."""
    while len(text) < wanted and text.shape[1] >= 2 * SHORTEST:
        half = text.shape[1] // 2
        text = torch.cat([text[:, :half], text[:, half : 2 * half]])
    return text


def interval(differences: torch.Tensor) -> tuple[float, float]:
    """The mean of differences [windows] and half the width of its interval; infinite for fewer than three."""
    count = len(differences)
    if count < 3:
        return float(differences.mean()), math.inf
    return float(differences.mean()), _quantile(count - 1) * float(differences.std()) / math.sqrt(count)


def _quantile(freedom: int) -> float:
    """Student's t for a two-sided interval (Abramowitz and Stegun 26.7.5; from 3 degrees on within 4 %, and larger than
    the normal's)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**i for i, term in enumerate(terms))


@torch.no_grad()
def losses(subject: Subject, text: torch.Tensor, other: Other | None) -> torch.Tensor:
    """Nats per token, [windows, tokens - 1], as the model is or under another rotation."""
    r, found = subject.runs, []
    with nullcontext() if other is None else watching(r.model, edit=_turned_otherwise(other)):
        for batch in text.to(r.ids.device).split(2):
            found.append(token_losses(r(batch), batch).cpu())
    return torch.cat(found)


def _turned_otherwise(other: Other) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """An edit (see `whorl.watching`): q and k turned back, and turned again by the other rotation."""

    def edit(
        layer: Layer, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = other(layer)
        if wanted is None or not layer.turns:
            return q, k
        tables = rotation_tables(Spectrum(layer.frequencies, q.shape[-1]), positions, q.dtype)
        back, keys = rotate(q, k, tables._replace(sin=-tables.sin), layout=layer.layout)
        assert keys is not None
        spectrum = Spectrum(wanted.frequencies, q.shape[-1], wanted.amplitude / layer.amplitude)
        turned, again = rotate(back, keys, rotation_tables(spectrum, positions, q.dtype), layout=wanted.layout)
        assert again is not None
        return turned, again

    return edit
