"""docs/runtimes.md, made of the table of engines: `python -m tests.runtimes.table` writes it anew."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from whorl.runtimes.engines import ENGINES, UNKNOWN, Verdict, verdict
from whorl.runtimes.facts import FACTS, SCALED
from whorl.runtimes.ran import ran
from whorl.runtimes.spelled import KINDS

PATH = Path(__file__).parents[2] / "docs" / "runtimes.md"
TYPED = ("part", "sliding base", "sliding scaled", "table")  # kinds that a Llama does not have

HEAD = """# Engines and encodings

Made by `python -m tests.runtimes.table` from `whorl.runtimes.facts` and `whorl.runtimes.ran`, which
`whorl export --for ENGINE` asks before it writes; a test checks that this page is current. Of what whorl writes
(`save_pretrained`, `extend`, `convert`, `export`):

- **right**: the engine's logits are the model's
- **refuses**: it stops, and so nothing wrong comes out
- **wrong**: it runs another model in silence. `--for` refuses that, and names who carries the encoding
- **?**: nobody has run or read it; `--for` says so, and writes

*run*: the engine was run, by `make test-runtimes` (its rows stand last) or by hand on tiny random models of the family.
*read*: it stands so in the engine's source.

## A Llama

"""

FAMILIES = """
## By family

The first row that names the engine, the family (or every family) and the encoding holds. What no row names is not
known. A run below goes before it.

"""

RAN = """
## Runs

`make test-runtimes` exports a model in each encoding, runs the same tokens in each engine, at far positions too, and
compares log-probabilities with whorl's own in float32. *control*: how far plain RoPE with the same weights is off (of
plain RoPE: the base 10,000).

"""


def cell(found: Verdict) -> str:
    if found.result == UNKNOWN:
        return "?"
    word = f"**{found.result}**" if found.result == "wrong" else found.result
    return f"{word}, {found.how}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    """The whole page."""
    named = [f"{engine.title} ({engine.version})" for engine in ENGINES.values()]
    llama = [
        [words, *(cell(verdict(name, "llama", (kind.partition(":")[0], kind))) for name in ENGINES)]
        for kind, words in KINDS.items()
        if kind not in TYPED
    ]
    facts = [
        [
            ENGINES[fact.engine].title,
            ", ".join(fact.families) or "every family",
            _kinds(fact.kinds),
            f"**{fact.result}**" if fact.result == "wrong" else fact.result,
            fact.how,
            fact.why,
        ]
        for fact in FACTS
    ]
    text = HEAD + table(["encoding", *named], llama)
    text += FAMILIES + table(["engine", "families", "encodings", "result", "how", "why"], facts)
    runs = sorted(ran(), key=lambda row: (row.model, row.engine, row.version))
    for model, rows in groupby(runs, key=lambda row: row.model):
        text += f"{RAN if RAN not in text else chr(10)}On {model}:\n\n"
        text += table(
            ["engine", "encoding", "result", "off", "control", "date"],
            [
                [f"{r.engine} {r.version}", f"`{r.encoding}`", r.result, _number(r.off), _number(r.control_off), r.date]
                for r in rows
            ],
        )
    return text


def _kinds(kinds: tuple[str, ...]) -> str:
    if not set(SCALED) <= set(kinds):
        return ", ".join(kinds) or "every encoding"
    return ", ".join([*(kind for kind in kinds if kind not in SCALED), "HoPE, p-RoPE and every scaling"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
