"""What `whorl inspect` finds of biases, scores and scales: what they add to logits, and multiply them by.

docs/inspect.md defines every measure.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Added:
    """What biases and scores add to a head's logits beside q.k, which is content.

    moved           the part of its attention that would be elsewhere by content alone
    share           the covariance of what is added with the logit, over a query's keys, in the variance of the logit
    spread          the standard deviation over a query's keys of what is added, in logits
    content_spread  the same of content
    """

    layer: int
    head: int
    moved: float
    share: float
    spread: float
    content_spread: float


@dataclass(frozen=True)
class Gate:
    """The gates by which the keys of a head fade from token to token.

    mean        the mean gate: 1 keeps all, 0 forgets all that came before
    half_life   tokens after which a key's weight has halved, at the mean logarithm of the gates; None: it never has
    below_half  the share of tokens at which more than half is forgotten at once
    """

    layer: int
    head: int
    mean: float
    half_life: float | None
    below_half: float


@dataclass(frozen=True)
class Factor:
    """What scales multiply a head's logits by, at the last query of a window; head: None for all heads alike.

    in_range  of a window of the training length (or of the windows', where they are shorter)
    past      of the windows that were longer; None without such
    learned   what the head has learned of them, by name
    """

    layer: int
    head: int | None
    in_range: float
    past: float | None = None
    learned: dict[str, float] = field(default_factory=dict)
