"""A page for each encoding, made of what its file, a tiny model and committed results say: `python -m whorl.pages`.

reading.py    what an encoding's file says: citation, formula, what it does, its arguments
facts.py      what is found by asking: what it goes with, learns, keeps in a cache
table.py      which families take it, from docs/families.md; measured.py: what committed comparisons say of it
page.py       all of it as one page, as Markdown and as data
figures/      its figure: a module for each kind of effect
pages.json    the pages as data, which `whorl list NAME` shows without importing PyTorch
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEPT = Path(__file__).with_name("pages.json")


def kept() -> dict[str, Any]:
    """The pages as data, by the encodings' names."""
    found: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return found
