"""RoFormer's rotary positions under linear attention, and in an encoder: `python study.py --out DIR [--seeds 0,1]`.

Each of `RUNS` is a comparison in DIR/NAME. A trial that is finished there is not run again, and a killed one goes on
from its newest checkpoint. All of the first seed comes before the second. `gather.py` copies the results from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import whorl

RUNS = {
    "decoders": ("language", ("rope", "linear", "rope+linear")),
    "encoders": ("mlm", ("rope", "learned", "sinusoidal", "nope", "alibi")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the comparisons")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", choices=RUNS)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for last in range(len(seeds)):
        for name, (task, encodings) in RUNS.items():
            if options.only in (None, name):
                whorl.compare(encodings, task=task, seeds=seeds[: last + 1], out=options.out / name)


if __name__ == "__main__":
    main()
