"""What every host answers, of whichever library its models are: `whorl.attaching` joins an encoding to this.

layers          the modules that attend, and what each lets an encoding do
positions       how many axes they have
rotation seam   the module that makes tables of positions, and the function by which layers turn q and k
logit seam      where biases go in, and by which implementation the layers attend
table           positions added to the embedding: a table of the host's own, or the input of the first layer
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import nn

from whorl.encodings import Shape


@dataclass(frozen=True)
class Rotation:
    """How a host's rotation function is called and what it does.

    name     the global of the attention's code that it is called by
    call     "pair": f(q, k, cos, sin, unsqueeze_dim); "single": f(x, cos, sin, unsqueeze_dim) for q and k in turn;
             "complex": f(q, k, frequencies) with heads in dimension 2
    layout   "half": channels i and i + width/2 turn together; "interleaved": 2i and 2i + 1
    free     channels past the tables pass through, so any width up to the whole head may turn
    """

    name: str
    call: str
    layout: str
    free: bool


@dataclass(frozen=True, kw_only=True)
class Host(ABC):
    """A model with its seams found: the modules themselves, and what they let an encoding do."""

    model: Any
    base: Any  # the part of it that holds the layers
    known: bool  # a family of the list, under the contract tests

    attentions: tuple[nn.Module, ...]  # per layer
    shapes: tuple[Shape, ...]  # per layer; head_dim is the width that the host lets turn
    layer_types: tuple[str, ...]  # per layer
    windows: tuple[int | None, ...]  # per layer: the keys at distances below this are seen (the host's own window)
    turns: tuple[bool, ...]  # per layer: whether the host turns q and k in it

    axes: int = 1  # of a position, as the host gives it to its layers: the tokens of a text stand in a row

    rotary: Any
    rotation: Rotation | None
    typed: bool  # the rotary module computes tables by layer type

    biases: str  # where biases go in: "interface" or "mask"

    position_table: Any
    first_layer: nn.Module

    @property
    @abstractmethod
    def table_rows(self) -> int | None:
        """The positions that the host's own table has; None without one."""

    @property
    @abstractmethod
    def attending(self) -> Any:
        """The part whose attention implementation these layers read: of a model of several parts, the text's alone."""

    @property
    @abstractmethod
    def attention(self) -> str | None:
        """The name of the implementation by which its layers attend: "sdpa", "eager", "whorl", ..."""

    @abstractmethod
    def set_attention(self, implementation: str | None) -> None:
        """Sets how this host attends. What else the model holds keeps its own."""
