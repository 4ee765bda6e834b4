"""A probe: something that is asked of a model at a length, without training it; and the text that all of them read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from whorl.data.tokens import first_of, ids_known
from whorl.results.evaluation import Position
from whorl.results.trial import Row

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Material:
    """What probes are made of.

    tokenizer  the model's own
    windows    of text, token ids [windows, tokens], each as long as the longest length that is asked for
    sequences  how many a probe makes that writes its own
    tail       target tokens at the end of a window
    seed       of what is drawn
    """

    tokenizer: Any
    windows: torch.Tensor
    sequences: int
    tail: int
    seed: int
    known: np.ndarray = field(init=False)  # the different tokens of the text, without special ones, in ascending order

    def __post_init__(self) -> None:
        known = np.setdiff1d(self.windows.numpy(), self.tokenizer.all_special_ids)
        object.__setattr__(self, "known", known)

    @property
    def first(self) -> list[int]:
        """What a sequence begins with: bos, for a tokenizer that has one."""
        return first_of(self.tokenizer)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text that a probe writes, without special ones. Raises ValueError for one that has none."""
        return ids_known(self.tokenizer, text)

    def text(self, sequence: int) -> list[int]:
        """A window of the text, without special tokens; sequences take the windows in turn."""
        window = self.windows[sequence % len(self.windows)].numpy()
        found: list[int] = window[~np.isin(window, self.tokenizer.all_special_ids)].tolist()
        return found

    def filler(self, sequence: int, tokens: int) -> list[int]:
        """The first tokens of a sequence's window: the same at every length, as far as it goes."""
        found = self.text(sequence)[:tokens]
        if len(found) < tokens:
            raise ValueError(f"the text has {tokens - len(found):,} special tokens in a window, which are no filler")
        return found

    def random(self, name: str, sequence: int) -> np.random.Generator:
        """Numbers of one sequence of a probe, the same at every length."""
        return np.random.default_rng((self.seed, sequence, *name.encode()))


@dataclass(frozen=True)
class Measured:
    """A probe's row at a length; of loss also what it is by position."""

    row: Row
    positions: tuple[Position, ...] = ()


class Probe(ABC):
    """Asked of a decoder in eval mode. `version` goes up with every change that can change a number.

    What its rows have is in `whorl.results.evaluation.ABOUT`, the telling value first.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    def __init__(self, material: Material) -> None:
        self.material = material

    @property
    @abstractmethod
    def steps(self) -> int:
        """Windows or sequences of a row."""

    @abstractmethod
    def measure(self, model: Any, length: int, progress: Progress) -> Measured:
        """The row at so many tokens; progress is told of how many more windows or sequences are done.

        Raises ValueError for a length at which it cannot be asked, and which the model does not reach.
        """
