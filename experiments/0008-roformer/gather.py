"""Copies what the comparisons of `study.py` have written so far into this folder: `python gather.py DIR`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
KEPT = ("results.json", "report.md", "report.html", "figures")


def main(runs: Path) -> None:
    for results in sorted(runs.glob("*/results.json")):
        here = HERE / results.parent.name
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        for name in KEPT:
            there = results.parent / name
            if there.is_dir():
                shutil.copytree(there, here / name)
            else:
                shutil.copy2(there, here / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
