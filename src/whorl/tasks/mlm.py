"""Masked language modelling (BERT, arXiv 1810.04805, section 3.1), and a test of word order. Version 1.

The text, its tokenizer and its held-out documents are the language task's; a tokenizer without a mask token gets one.

Training: windows of `train_length` tokens, as the language task draws them. 15 % of the tokens of a window are targets,
but never the one that begins a document. Of them 80 % are replaced by the mask, 10 % by any token, drawn at random,
and 10 % stay. Which these are depends on the seed and the number of the example, so every encoding sees the same.

Evaluation: every window lies within one held-out document and holds max(lengths) tokens. The targets are 15 % of the
`tail` tokens in its middle, at least two; no two windows share a token that may be one. At length l the model reads the
l tokens around that middle, so that the targets are the same at every length and only the context grows, to both sides.
15 % of the tokens around are masked as well, or a longer context would be one of fewer masks; all are masks here, none
is replaced or left. `masked` is exp of the targets' mean negative log-likelihood, `masked_accuracy` the share of them
that have the highest logit.

Word order: two targets beside one another, tokens a at place i and b at place j, may also be read as b, a. The model
reads both masked, together with all else, and `word_order` is the share of pairs whose true order it finds likelier:

    log p_i(a) + log p_j(b)  >  log p_i(b) + log p_j(a)

A tie counts half. (Pairs of one token twice are not asked.) A model that does not know where a token stands gives the
same distribution at both places, because the same is read there: a tie, always, whatever it knows of words. So a bag
of words has one half exactly. `TIE` is what float32 sums may leave of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from whorl.data.losses import batch_logits
from whorl.results.trial import Row
from whorl.tasks.base import IGNORED, Example, Progress, TaskSettings, Words
from whorl.tasks.language import Language
from whorl.tasks.metrics import MASKED, MASKED_ACCURACY, WORD_ORDER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASK = "<|mask|>"
SHARE = 0.15  # of the tokens that are targets
REPLACED, KEPT = 0.1, 0.1  # of the targets, in training
TRAINING, EVALUATION, VALIDATION = 0, 1, 2  # keep them apart under every seed
TIE = 1e-3  # nats


class Masked(NamedTuple):
    """Windows as a model reads them, int64 [windows, length], the places of their targets in ascending order and the
    tokens that belong there, int64 [windows, targets]."""

    ids: torch.Tensor
    places: torch.Tensor
    tokens: torch.Tensor


class MaskedLanguage(Language):
    """The language task's text, with tokens masked. Raises ValueError for a text or lengths that give no data."""

    name = evaluation = "mlm"
    title = "Masked language modelling"
    version = 1
    metrics = (MASKED, MASKED_ACCURACY, WORD_ORDER)
    body = "encoder"

    @classmethod
    def words(cls) -> Words:
        return Words(
            measure="Masked-token perplexity",
            samples="windows",
            caption="The same masked tokens, among the {config.tail} in the middle of every window, with more context "
            "around them. Word order: of two masked tokens, which stands where; what knows no positions has half.",
            table="perplexity of the same masked tokens, by context length",
            reading="Masked-token perplexity is measured on the same target tokens at every length: 15 % of the "
            "{config.tail} tokens in the middle of the same windows, with more context on both sides. So the value at "
            "{at} is also what one gets by simply dropping the far context.",
            caveats=(
                "Word order is asked of neighbouring masked tokens, some six tokens apart. What is far above one "
                "half knows positions; it need not know all of them: a bias that is the same to both sides tells "
                "near from far, and not before from after.",
            ),
        )

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        if settings.tail < 2:
            raise ValueError(f"tail={settings.tail} holds no two tokens whose order could be asked for; try --tail 64")

    def _tokenizer(self, train: list[str]) -> PreTrainedTokenizerBase:
        tokenizer = super()._tokenizer(train)
        if tokenizer.mask_token_id is None:
            tokenizer.add_special_tokens({"mask_token": MASK})
        self.mask_token_id = int(tokenizer.mask_token_id)
        return tokenizer

    def unigram(self) -> tuple[Row, ...]:
        """A row per length, all alike: the targets' perplexity under a model that knows how often each token occurs in
        the training documents (one more than counted) and nothing else."""
        nll = self._unigram_losses(self.evaluation_set(self.windows.shape[1]).tokens)
        perplexity = float(nll.mean().exp())
        return tuple(Row(length, {"masked": perplexity}) for length in self.settings.lengths)

    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        return _MaskedWindows(self, super().training_set(seed, examples), TRAINING, seed)

    def validation_set(self) -> Dataset[Example]:
        return _MaskedWindows(self, super().validation_set(), VALIDATION, self.settings.data_seed)

    def masked_example(self, ids: torch.Tensor, rng: np.random.Generator) -> Example:
        """A training window with its targets, most of them hidden."""
        places = self._draw(rng, ids, max(1, round(SHARE * len(ids))))
        labels = torch.full_like(ids, IGNORED)
        labels[places] = ids[places]
        fate = rng.random(len(places))
        drawn = torch.from_numpy(rng.integers(self.vocab_size, size=len(places)))
        read = torch.where(torch.from_numpy(fate < REPLACED), drawn, self.mask_token_id)
        ids[places] = torch.where(torch.from_numpy(fate >= 1 - KEPT), ids[places], read)
        return {"input_ids": ids, "labels": labels}

    def evaluation_set(self, length: int) -> Masked:
        """The windows at a length; what is masked in them depends on (data_seed, the window's number) only."""
        longest, tail = self.windows.shape[1], self.settings.tail
        first, start = (longest - length) // 2, (longest - tail) // 2
        places, ids = [], self.windows.clone()
        for i, window in enumerate(self.windows):
            rng = np.random.default_rng((EVALUATION, self.settings.data_seed, i))
            targets = self._draw(rng, window[start : start + tail], max(2, round(SHARE * tail))) + start
            around = self._draw(rng, window, round(SHARE * longest))
            outside = (around < start) | (around >= start + tail)
            places.append(targets)
            ids[i, torch.cat([targets, around[outside]])] = self.mask_token_id
        at = torch.stack(places)
        return Masked(ids[:, first : first + length], at - first, self.windows.gather(1, at))

    def evaluate(
        self,
        model: torch.nn.Module,
        length: int,
        batch_tokens: int = 16384,
        progress: Progress | None = None,
    ) -> Row:
        """The row of masked, masked_accuracy and word_order.

        `tokens` counts the targets; `stderr` is the standard error of `masked` over windows (delta method; nan for one
        window), `samples` are the windows' own values, nats per target.
        """
        if not self.settings.tail < length <= self.windows.shape[1]:
            raise ValueError(
                f"masked tokens at {length} tokens cannot be had from windows of {self.windows.shape[1]} with targets "
                f"among {self.settings.tail}; try one of {list(self.settings.lengths)}"
            )
        ids, places, tokens = self.evaluation_set(length)
        found: list[torch.Tensor] = []
        left = places[..., None]
        for logits in batch_logits(model, ids, self.vocab_size, batch_tokens, progress):
            at, left = left.tensor_split([len(logits)])
            found.append(logits.take_along_dim(at.to(logits.device), 1).float().cpu())
        logits = torch.cat(found)
        nll = cross_entropy(logits.mT, tokens, reduction="none").double()
        accuracy = order = math.nan
        if logits.isfinite().all():
            accuracy, order = float((logits.argmax(-1) == tokens).double().mean()), word_order(logits, tokens)
        return self._row(length, nll, {"masked_accuracy": accuracy, "word_order": order})

    def _draw(self, rng: np.random.Generator, ids: torch.Tensor, count: int) -> torch.Tensor:
        """So many different places of a window, ascending; the tokens that begin documents stay."""
        free = np.flatnonzero(ids.numpy() != self.bos_token_id)
        return torch.from_numpy(np.sort(rng.permutation(free)[:count]))

    def _content(self) -> Iterator[bytes | memoryview]:
        yield str(self.mask_token_id).encode()
        yield from super()._content()


def word_order(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    """The share of pairs whose true order is the likelier one, ties counted half; NaN where no pair is asked."""
    likelier = true_over_other_order(logits, tokens)
    return float(torch.where(likelier.abs() <= TIE, 0.5, (likelier > 0).double()).mean())


def true_over_other_order(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """By how many nats the true order of two neighbouring targets is likelier than the other, for every pair of
    different tokens.

    logits [windows, targets, vocab] at the targets, which read the mask; tokens [windows, targets] that belong there.
    """
    pairs = tokens.shape[1] // 2
    (i, j), (a, b) = ((one[:, : 2 * pairs : 2], one[:, 1 : 2 * pairs : 2]) for one in (logits, tokens[..., None]))
    more = i.take_along_dim(a, 2) - i.take_along_dim(b, 2) - j.take_along_dim(a, 2) + j.take_along_dim(b, 2)
    return more[a != b].double()


class _MaskedWindows(Dataset[Example]):
    """The language task's windows, masked by these seeds and their number."""

    def __init__(self, task: MaskedLanguage, windows: Dataset[Example], *seeds: int) -> None:
        self.task, self.windows, self.seeds = task, windows, seeds

    def __len__(self) -> int:
        return len(self.windows)  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> Example:
        ids = self.windows[i]["input_ids"]
        return self.task.masked_example(ids, np.random.default_rng((*self.seeds, i)))
