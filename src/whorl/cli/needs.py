"""What a command needs beyond whorl's own dependencies is said before it starts, not when it comes to it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from whorl.cli import early
from whorl.extras import require
from whorl.gguf_files.header import gguf_at
from whorl.runtimes import get

ALWAYS = {
    "compare": ("compare",),
    "inspect": ("reports",),
    "evaluate": ("reports",),
    "extend": ("reports",),
    "convert": ("compare",),
}


def checked(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """The command, which first raises MissingExtraError where an extra that it or its options need is missing, and
    ValueError for what can be refused at once (`early`)."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        require(f"whorl {name}", *ALWAYS.get(name, ()))
        for option, extra in _of(options):
            require(option, extra)
        early.check(name, options)
        command(**options)

    return run


def _of(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The options that need an extra of their own, with its name."""
    text = str(options.get("text") or "")
    if text.startswith("hf:") or text.endswith(".parquet"):
        yield f"--text {text}", "hub"
    for runtime in options.get("runtime") or ():  # a list, so that two are seen
        if extra := get(runtime).extra:
            yield f"--runtime {runtime}", extra
    for model in (*(options.get("models") or ()), options.get("model"), options.get("tokenizer")):
        if model and gguf_at(model) is not None:
            yield model, "gguf"
    for option in ("tune", "stream_layers"):
        if options.get(option):
            yield f"--{option.replace('_', '-')}", "compare"
    if options.get("ray"):
        yield "--ray", "ray"
    if options.get("lora"):
        yield "--lora", "peft"
    if options.get("figure"):
        yield "--figure", "reports"
