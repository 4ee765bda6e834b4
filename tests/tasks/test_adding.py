"""A new task of accuracy is one file and one line in the registry: a comparison runs it to its report."""

from __future__ import annotations

from pathlib import Path

from ..adding import Copy

FILE = '''
"""Mirroring: a random segment, then the segment backwards. Version 1."""

from dataclasses import replace

import numpy as np

from whorl.tasks.generated import SEP, SPECIAL, Generated
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

SYMBOLS = 8


class Mirror(Generated):
    name = evaluation = "mirror"
    title = "Mirroring a segment"
    version = 1
    metrics = (replace(TOKEN_ACCURACY, chance=1 / SYMBOLS), EXACT_MATCH)
    shortest = 4
    vocab_size = SPECIAL + SYMBOLS
    guesses = np.arange(SPECIAL, SPECIAL + SYMBOLS)

    def _write(self, rng, ids, labels, training):
        size = (len(ids) - 2) // 2
        segment = SPECIAL + rng.integers(SYMBOLS, size=size)
        ids[1 : 1 + size], ids[1 + size] = segment, SEP
        ids[2 + size : 2 + 2 * size] = labels[2 + size : 2 + 2 * size] = segment[::-1]

    def oracle(self, ids):
        solved, size = ids.copy(), (len(ids) - 2) // 2
        solved[2 + size : 2 + 2 * size] = ids[size:0:-1]
        return solved

    def _facts(self):
        return {"symbols": SYMBOLS}
'''
OPTIONS = "--train-length=16 --lengths=1x,2x --tokens=64 --batch-size=4 --windows=4 --precision=fp32"


def test_a_task_is_one_file_and_one_line(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    copy.add_file("tasks/mirror.py", FILE)
    copy.add_line("tasks/__init__.py", "TASKS", '"mirror": "whorl.tasks.mirror:Mirror",')
    said = copy.run("-m", "whorl", "compare", "rope", "alibi", "--task=mirror", *OPTIONS.split())
    assert "token accuracy, by length" in said
    folder = tmp_path / "runs" / "compare"
    report = (folder / "report.md").read_text()
    for line in (
        "Mirroring a segment, trained at 16 tokens, evaluated at up to 32.",
        "## Findings",
        "No encoding learnt the mirror task in range (at least 95 % of the tokens right",
        "Mirror accuracy against length",
        "Token accuracy by length in tokens",
        "| guessing | – | 12.5 % | 12.5 % |",
        "Exact match by length in tokens",
        "Mirror is a synthetic task",
    ):
        assert line in report, line
    assert (folder / "figures" / "mirror.png").stat().st_size > 1000
