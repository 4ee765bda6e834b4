"""What whorl needs beyond torch, transformers, safetensors and numpy, asked for at the start of what needs it.

Attaching, saving and loading need nothing more, but for GGUF files. pyproject.toml has the versions.
"""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {  # each with the modules that it brings
    "cli": ("rich", "typer"),
    "reports": ("matplotlib",),
    "compare": ("accelerate", "matplotlib", "rich", "tokenizers"),
    "images": ("PIL", "matplotlib"),
    "hub": ("datasets", "pyarrow"),
    "gguf": ("gguf",),
    "peft": ("peft",),
    "timm": ("timm",),
    "ray": ("ray",),
    "lm-eval": ("lm_eval",),
}


class MissingExtraError(ImportError, ValueError):
    """Packages that are not installed; the message says what needs them and what to type."""


def require(what: str, *extras: str) -> None:
    """Raises MissingExtraError where something of these extras is not installed. Nothing is imported."""
    lacking = {extra: [name for name in EXTRAS[extra] if find_spec(name) is None] for extra in extras}
    lacking = {extra: names for extra, names in lacking.items() if names}
    if lacking:
        *others, last = sorted({name for names in lacking.values() for name in names})
        named = f"{', '.join(others)} and {last}, which are" if others else f"{last}, which is"
        raise MissingExtraError(f"{what} needs {named} not installed; try pip install 'whorl[{','.join(lacking)}]'")
