"""A new task of accuracy is one file and one line in the registry: a comparison runs it to its report."""

from __future__ import annotations

from pathlib import Path

from ..adding import Copy

FILE = '''
"""Reversing: a random segment, then the segment backwards. Version 1."""

from dataclasses import replace

from whorl.tasks.generated import SEP, SPECIAL, Generated
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

SYMBOLS = 8


class Reverse(Generated):
    name = evaluation = "reverse"
    title = "Reversing a segment"
    version = 1
    metrics = (replace(TOKEN_ACCURACY, chance=1 / SYMBOLS), EXACT_MATCH)
    shortest = 4
    vocab_size = SPECIAL + SYMBOLS

    def _write(self, rng, ids, labels, training):
        size = (len(ids) - 2) // 2
        segment = SPECIAL + rng.integers(SYMBOLS, size=size)
        ids[1 : 1 + size], ids[1 + size] = segment, SEP
        ids[2 + size : 2 + 2 * size] = labels[2 + size : 2 + 2 * size] = segment[::-1]

    def _facts(self):
        return {"symbols": SYMBOLS}
'''
OPTIONS = "--train-length=16 --lengths=1x,2x --tokens=64 --batch-size=4 --windows=4 --precision=fp32"


def test_a_task_is_one_file_and_one_line(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    copy.add_file("tasks/reverse.py", FILE)
    copy.add_line("tasks/__init__.py", "TASKS", '"reverse": "whorl.tasks.reverse:Reverse",')
    said = copy.run("-m", "whorl", "compare", "rope", "alibi", "--task=reverse", *OPTIONS.split())
    assert "token accuracy, by length" in said
    folder = tmp_path / "runs" / "compare"
    report = (folder / "report.md").read_text()
    for line in (
        "Reversing a segment, trained at 16 tokens, evaluated at up to 32.",
        "## Findings",
        "No encoding learnt the reverse task in range (at least 95 % of the tokens right",
        "Reverse accuracy against length",
        "Token accuracy by length in tokens",
        "| guessing | – | 12.5 % | 12.5 % |",
        "Exact match by length in tokens",
        "Reverse is a synthetic task",
    ):
        assert line in report, line
    assert (folder / "figures" / "reverse.png").stat().st_size > 1000
