"""Checks by the loss on a text: the declared rotation must read it better than the one it is mistaken for.

A model that reads the text under neither (its loss is above the entropy of single tokens of that text) says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from whorl.comparison.tasks.language import token_losses
from whorl.diagnosis.meaning import Sizes, share
from whorl.diagnosis.reading import MIXED, other_reading, settings_of
from whorl.diagnosis.result import PASS, Answer, NotApplicable, judged
from whorl.diagnosis.settings import _of_cause
from whorl.diagnosis.subject import Subject
from whorl.encodings import Spectrum
from whorl.hosts import head_dim_of
from whorl.inspection.watching import Layer, layers_of, watching
from whorl.ops import rotate, rotation_tables

STANDARD_ERRORS = 3.0
WINDOW, WINDOWS = 256, 8
ENOUGH = 100_000  # characters of a text: more than the windows take

Other = Callable[[Layer], tuple[tuple[float, ...], str] | None]  # other frequencies and layout, for one layer

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
    found = torch.as_tensor(ids).long()
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

    def other(layer: Layer) -> tuple[tuple[float, ...], str] | None:
        return layer.frequencies, "interleaved" if layer.layout == "half" else "half"

    return _judged_by_loss(subject, "the other layout", other)


def proportional(subject: Subject) -> Answer:
    """A share of the head that turns: exponent over the whole head or over the share's own width."""
    if subject.encoding is not None:
        raise NotApplicable(f"whorl attached {subject.encoding}, which says which of the two it is")
    if all(share(r.settings) >= 1 for r in subject.readings):
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


def _other_share(subject: Subject, layer: Layer) -> tuple[tuple[float, ...], str] | None:
    settings, _ = settings_of(subject.config, subject.host.layer_types[layer.index], subject.host.typed)
    sizes = Sizes(head_dim_of(subject.config, subject.host.attentions[layer.index]), subject.context or 0)
    found = None if settings is None else other_reading(settings, sizes)
    return None if found is None else (tuple(found.frequencies.tolist()), layer.layout)


def _judged_by_loss(subject: Subject, what: str, other: Other) -> Answer:
    """Fails where the other rotation reads the text better, by three standard errors over tokens."""
    text = subject.text
    if text is None:
        raise NotApplicable("needs a text (--text, or a tokenizer beside the model)")
    if subject.headless:
        raise NotApplicable(f"{type(subject.host.model).__name__} has no language head, and gives no loss")
    try:
        if not any(layer.turns for layer in layers_of(subject.runs.model)):
            raise NotApplicable("no layer turns")
    except ValueError as error:
        raise NotApplicable(str(error)) from error
    own = _losses(subject, text, None)
    swapped = _losses(subject, text, other)
    change = (swapped - own).flatten().double()
    mean, stderr = float(change.mean()), float(change.std() / math.sqrt(change.numel()))
    shown = f"loss {own.mean():.3f}, {swapped.mean():.3f} under {what} (difference {mean:+.3f} ± {stderr:.3f})"
    unigram = _entropy(text)
    if min(float(own.mean()), float(swapped.mean())) > unigram:
        raise NotApplicable(
            f"{shown}: above {unigram:.3f}, the entropy of single tokens; the model does not read this text"
        )
    if abs(mean) <= STANDARD_ERRORS * stderr:
        raise NotApplicable(f"{shown}: too close to tell; give a longer text")
    return judged(mean > 0, shown)


def _entropy(text: torch.Tensor) -> float:
    """Nats per token of the text's own token counts: what a model reaches that knows them and no context."""
    share = text.flatten().unique(return_counts=True)[1].double() / text.numel()
    return float(-(share * share.log()).sum())


@torch.no_grad()
def _losses(subject: Subject, text: torch.Tensor, other: Other | None) -> torch.Tensor:
    """Nats per token, [windows, tokens - 1], as the model is or under another rotation."""
    r, found = subject.runs, []
    for batch in text.to(r.ids.device).split(2):
        with nullcontext() if other is None else watching(r.model, edit=_turned_otherwise(other)):
            found.append(token_losses(r(batch), batch).cpu())
    return torch.cat(found)


def _turned_otherwise(other: Other) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """An edit (see `whorl.inspection.watching`): q and k turned back, and turned again by the other rotation."""

    def edit(
        layer: Layer, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = other(layer)
        if wanted is None or not layer.turns:
            return q, k
        tables = rotation_tables(Spectrum(layer.frequencies, q.shape[-1]), positions, q.dtype)
        back, keys = rotate(q, k, tables._replace(sin=-tables.sin), layout=layer.layout)
        assert keys is not None
        frequencies, laid = wanted
        turned, again = rotate(
            back, keys, rotation_tables(Spectrum(frequencies, q.shape[-1]), positions, q.dtype), layout=laid
        )
        assert again is not None
        return turned, again

    return edit
