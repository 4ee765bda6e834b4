"""Conversions by name: what a paper says of an encoding to swap to and of the training after it.

A recipe sets what is not given; `whorl convert --to NAME` takes its name in the place of an encoding's.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings import Encoding, parse


@dataclass(frozen=True)
class Settings:
    """The encoding, in the notation, and the training that heals the swap: see `converting.Healing`.

    tokens  of the healing; None where it has to be given
    says    what the recipe does, in words; empty: it is none, but an encoding that was named
    """

    to: str
    tokens: int | None = None
    batch_size: int = 32
    learning_rate: float = 5e-4
    says: str = ""


RECIPES = {
    # Gelberg et al., ICLR 2026, arXiv 2512.12167: SmolLM-360M without QK norms (appendices C and D.3, and the official
    # configs). The temperature is the one that fits best after such a healing, 1 + 0.103 ln(s).
    "drope": Settings(
        to="nope+log-n:slope=0.103",
        tokens=30_000 * 512 * 2048,
        batch_size=512,
        learning_rate=3e-4,
        says="drope (2512.12167): no layer turns any more, training goes on at the length it had, and past it logits "
        "are multiplied by 1 + 0.103 ln(keys / length)",
    ),
}


def settings_of(to: str | Encoding) -> Settings:
    """The recipe of this name, or the usual settings for an encoding. Raises ValueError for what is neither."""
    return RECIPES[to] if isinstance(to, str) and to in RECIPES else Settings(str(parse(to)))
