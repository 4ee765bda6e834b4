"""How whorl prints: names of models, folders and encodings are text, never markup, whatever brackets they hold."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text


def console(**options: Any) -> Console:
    """A rich console that reads no markup and wraps no line that is not in a table. (Styles: `said`.)"""
    return Console(**{"highlight": False, "soft_wrap": True, "markup": False, "emoji": False, **options})


def said(*parts: str | tuple[str, str]) -> Text:
    """Text in which (words, style) pairs have a style: said("kept: ", ("yarn", "bold"))."""
    return Text.assemble(*parts)
