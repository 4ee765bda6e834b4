"""A new task of accuracy is one file and one line in the registry: a comparison runs it to its report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import whorl

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
LINE = '    "reverse": "whorl.tasks.reverse:Reverse",\n'
OPTIONS = "--train-length=16 --lengths=1x,2x --tokens=64 --batch-size=4 --windows=4 --precision=fp32"


def test_a_task_is_one_file_and_one_line(tmp_path: Path) -> None:
    package = tmp_path / "src" / "whorl"
    shutil.copytree(Path(whorl.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "tasks" / "reverse.py").write_text(FILE.lstrip())
    registry = package / "tasks" / "__init__.py"
    last = '    "recall": "whorl.tasks.recall:Recall",\n'
    assert last in registry.read_text()
    registry.write_text(registry.read_text().replace(last, last + LINE))

    command = [sys.executable, "-m", "whorl", "compare", "rope", "alibi", "--task=reverse", *OPTIONS.split()]
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "token accuracy, by length" in done.stdout
    folder = tmp_path / "runs" / "compare"
    report = (folder / "report.md").read_text()
    for said in (
        "Reversing a segment, trained at 16 tokens, evaluated at up to 32.",
        "## Findings",
        "No encoding learnt the reverse task in range (at least 95 % of the tokens right",
        "Reverse accuracy against length",
        "Token accuracy by length in tokens",
        "| guessing | – | 12.5 % | 12.5 % |",
        "Exact match by length in tokens",
        "Reverse is a synthetic task",
    ):
        assert said in report, said
    assert (folder / "figures" / "reverse.png").stat().st_size > 1000
