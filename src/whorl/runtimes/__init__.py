"""HAND ON: a model and its encoding for runtimes that do not know whorl. A new runtime adds one file and one line here.

exporting.py         export(): refuses, writes, reads back, and only then gives the folder its name
base.py              what a runtime answers
hf.py                stock transformers
gguf.py              llama.cpp; gguf_tokenizers.py, and gguf_reading.py, which reads such a file back
engines.py           which engine carries which encoding; spelled.py: what a config says, by kinds; facts.py: what was
                     run by hand or read; ran.py: what engines did, run by run
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whorl.registry import look_up

if TYPE_CHECKING:
    from whorl.runtimes.base import Runtime

RUNTIMES = {
    "hf": "whorl.runtimes.hf:HF",
    "gguf": "whorl.runtimes.gguf:GGUF",
}

__all__ = ["RUNTIMES", "get"]


def get(name: str) -> type[Runtime]:
    """The class of a runtime's name. Raises ValueError with a suggestion when there is none."""
    return look_up("runtime", name, RUNTIMES, "docs/export.md says what each can say")
