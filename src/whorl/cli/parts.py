"""An option that takes several values: `--lengths 1x,2x`."""

from __future__ import annotations


def parts(text: str) -> list[str]:
    """What commas part, without spaces around it; nothing for what is empty."""
    return [part.strip() for part in text.split(",") if part.strip()]
