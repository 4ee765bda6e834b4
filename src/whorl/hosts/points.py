"""Models that hold `whorl.points.PointAttention` modules, whoever wrote them: their layers are handed coordinates.

There is no rotation of their own and no embedding of positions: what rotates q and k does so in the attention, and what
adds to an embedding is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from whorl.encodings import Add, Effect, Shape, Spectrum
from whorl.hosts.protocol import Calls, Host
from whorl.points.attention import ATTENDS, PointAttention


def _attends_by(attention: Any) -> str:
    return str(attention.attends)


CALLS = Calls(rotation="", positions="coordinates", mask="real", attends_by=_attends_by)


@dataclass(frozen=True, kw_only=True)
class PointHost(Host):
    """See `whorl.hosts.Host`."""

    def refuses(self, effect: Effect) -> str | None:
        if isinstance(effect, Add):
            return (
                f"adds to an embedding of positions, and {self.named} has none: its points differ by what its "
                "attention is told of them; try spe, pape-ri or euclidean-alibi"
            )
        return None

    def rebound(self, index: int, rotate: Callable[..., Any]) -> Callable[..., Any]:
        raise AssertionError("it has no rotation")

    def has_sinks(self, index: int) -> bool:
        return self.attentions[index].sinks is not None

    @property
    def attention(self) -> str:
        return str(self.attentions[0].attends)

    def set_attention(self, implementation: str | None) -> None:
        for attention in self.attentions:
            vars(attention)["attends"] = implementation

    def carry(self, implementation: str, attend: Callable[..., Any]) -> None:
        ATTENDS[implementation] = attend

    def own_spectrum(self, index: int) -> Spectrum | None:
        return None


def _attentions(model: Any) -> tuple[PointAttention, ...]:
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return tuple(module for module in modules if isinstance(module, PointAttention))


def has(model: Any) -> bool:
    return bool(_attentions(model))


def open_model(model: Any) -> PointHost:
    """Raises ValueError where attentions differ in the axes of their positions."""
    found = _attentions(model)
    axes = {attention.axes for attention in found}
    if len(axes) > 1:
        raise ValueError(
            f"the attentions of a {type(model).__name__} take positions of {sorted(axes)} axes; give all the same"
        )
    return PointHost(
        model=model,
        base=model,
        known=True,
        attentions=found,
        shapes=tuple(Shape(a.head_dim, a.heads, a.width, bidirectional=True) for a in found),
        layer_types=("points",) * len(found),
        windows=(None,) * len(found),
        turns=(False,) * len(found),
        calls=CALLS,
        axes=axes.pop(),
        rotary=None,
        rotation=None,
        typed=False,
        biases="interface",
        position_table=None,
        first_layer=found[0],
    )


def bases_of(model: Any) -> list[Any]:
    return [model]
