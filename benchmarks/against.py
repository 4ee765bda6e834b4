"""Is anything slower than it was? Every benchmark of an older commit and of this tree, in turn.

    make bench-against BASE=v0.1.0
    .venv/bin/python benchmarks/against.py v0.1.0 --rounds 5 --only kernels inspection

Each round runs each script once from either tree, which of the two comes first changing from round to round; a tree's
script measures its own code. A row is a case that both have: this tree's time over the older one's in the same round,
the median and how far it goes either way. The yardsticks (a copy, PyTorch's attention, the stock model) are the same
code in both, so that their rows show what the machine does by itself. "slower" is said of a case that is so in every
round, by more than the yardsticks' median differs from 1. Rows go to benchmarks/results/against.csv.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import rows

HERE = Path(__file__).resolve().parents[1]
PLACE = HERE / "build" / "against"
SCRIPTS = ("kernels", "attached", "inspection", "training")
ONE_ROUND = {  # arguments of a script's one round here
    "kernels": ("--rounds", "1"),
    "attached": ("--rounds", "3"),
    "inspection": ("--rounds", "1", "--lengths", "2048", "8192"),
    "training": ("--rounds", "1"),
}
TIMES = {"ms_50": 1, "kernels_ms": 1, "tokens_per_second_50": -1}  # and the power that makes each of them a time
NAMED_BY = ("case", "model", "provider", "encoding", "mode")
YARDSTICKS = (
    "copy", "causal SDPA, no bias", "dense ALiBi, prebuilt, SDPA", "transformers eager", "forward", "8 heads of 64",
    "plain float32 loop, stock rope",
)  # fmt: skip


class Name(NamedTuple):
    words: str
    yardstick: bool


def main() -> None:
    parser = rows.parser(__doc__, rounds=3)
    parser.add_argument("base", metavar="COMMIT", help="the older one")
    parser.add_argument("--only", nargs="+", default=SCRIPTS, choices=SCRIPTS, metavar="SCRIPT")
    options = parser.parse_args()
    commit = git("rev-parse", "--short", options.base)
    trees = {"base": tree(commit), "here": HERE}
    found: dict[Name, dict[str, list[float]]] = {}
    for turn in range(options.rounds):
        for script in options.only:
            for side in list(trees)[:: -1 if turn % 2 else 1]:
                print(f"round {turn + 1} of {options.rounds}: {script}, {side}", flush=True)
                folder = PLACE / "rows" / f"{commit}-{os.getpid()}" / side / str(turn)
                run(trees[side], script, folder, options.threads)
                for name, milliseconds in times(folder, script):
                    found.setdefault(name, {}).setdefault(side, []).append(milliseconds)
    show(found, {**rows.facts(), "base": commit}, options.results / "against.csv")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def tree(commit: str) -> Path:
    """The files of a commit, made once."""
    path = PLACE / commit
    if not path.exists():
        git("worktree", "prune")
        git("worktree", "add", "--detach", str(path), commit)
    return path


def run(where: Path, script: str, folder: Path, threads: int) -> None:
    """A script of a tree, on the code of that tree. What it prints is kept beside its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, f"benchmarks/{script}.py", *ONE_ROUND[script]]
    command += ["--threads", str(threads), "--results", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(where / "src")}
    with (folder / f"{script}.txt").open("w") as log:
        subprocess.run(command, cwd=where, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)


def times(folder: Path, script: str) -> Iterator[tuple[Name, float]]:
    """(names of a row, something that grows with its time)."""
    for path in folder.glob(f"{script}*.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for column, power in TIMES.items():
                    if row.get(column):
                        said = (script, *filter(None, map(row.get, NAMED_BY)))
                        yield Name(" · ".join(said), row.get("provider") in YARDSTICKS), float(row[column]) ** power


def show(found: dict[Name, dict[str, list[float]]], facts: dict[str, Any], path: Path) -> None:
    both = {name: sides for name, sides in found.items() if len(sides) == 2}
    ratios = {name: rows.ratios(sides["here"], sides["base"]) for name, sides in both.items()}
    noise = [abs(ratio["ratio_50"] - 1) for name, ratio in ratios.items() if name.yardstick]
    limit = 1 + (median(noise) if noise else 0)
    print(
        f"\nthis tree over {facts['base']}; the yardsticks, the same code in both, differ by {limit - 1:.3f} (median)"
    )
    made = []
    for name, ratio in ratios.items():
        slower = ratio["ratio_least"] > limit and not name.yardstick
        span = f"({ratio['ratio_least']:.2f} to {ratio['ratio_most']:.2f})"
        print(f"  {name.words:96} {ratio['ratio_50']:6.3f} {span} {'slower' if slower else ''}")
        made.append({**facts, "case": name.words, **ratio, "slower": slower})
    rows.write(path, made, same=["base", "case"])


if __name__ == "__main__":
    main()
