"""Writes docs/found.md, and the table of README.md that says which encoding to take: `python experiments/found.py`.

    claims.py     what papers claim, and what is held against each claim
    evidence.py   comparisons: who is better than whom, with an interval, or why nothing is said
    readings.py   the studies that are no comparisons
    picks.py      which encoding to take for a need

Every number is read from results that are committed, so the page grows as trials land; a test holds it against them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from claiming import Claim, Need
from claims import NEEDS, PAPERS
from evidence import Known, Line, Verdict, ran_on, together
from picks import Pick, pick

from whorl.files import write_atomically
from whorl.reports.formatting import compact, listing, plural

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- found: begin -->\n", "<!-- found: end -->\n"
TAGS = {Verdict.FOR: "For: ", Verdict.AGAINST: "Against: ", Verdict.PARTLY: "In part: "}
ANSWERS = {Verdict.FOR: "Yes", Verdict.AGAINST: "No", Verdict.PARTLY: "In part"}

HEAD = """# What we found

What papers on positional encodings claim, and what is for and against it at the scale of this project: small
models trained from scratch, and two pretrained models of 135 M and 270 M. It indicates what happens and why, and is no
law for a model of billions. `make docs` writes this page from the results that are committed; it grows as trials land
([how they are run](../experiments/README.md)).

**How to read it.** A value is one encoding over another, or over itself in range, from trials of the same seeds on the
same windows: perplexities as a ratio (below 1 is better), shares of right answers in points (above 0 is better); in
brackets the 95 % interval ([statistics](compare.md)), over seeds and windows (or sequences, prompts, tasks of a
ranking) where nothing else is said. `4x` is four times the training length.

- *Over seeds alone*: of trials that have not kept the values of their windows, or of numbers that have none. Such an
  interval takes the text as given and may be too narrow; where windows decide, one over three seeds holds the truth in
  66 % and not in 95. Where some of the seeds have kept theirs, the part of the windows is from these.
- *Not resolved*: the interval holds no difference. A claim that holds here and is not resolved there *holds in part*.
- *One seed: no claim*: another seed could turn it. *Not measured yet*: there is no finished trial.
- That two are alike, or one no better, holds where the whole interval is within a tenth (shares: five points).
- Of tasks with right answers only those seeds count that learnt the task in range; where that is asked, all do.
- The two pretrained models are no seeds: what each of them shows is told, its intervals are over windows, ± is a
  standard error over windows.
"""

TRAINED = """**What was trained.** The comparisons have {trials}: models of {sizes} parameters,
trained at {lengths}, {devices}.
Those of one comparison have the same data and settings on every machine; its report says what ran where.
"""

NEEDS_ABOUT = """Of encodings with all of their seeds the best, and those within a tenth of it (five points) of which no
difference from the best is resolved; where `rope` is among many, it is named alone, since everything reads it. Of the
others nothing is claimed. Studies of one task and the same settings are read together: values are over the seeds that
all of their encodings have. `A then B` is a model that was trained with A and is read with B: after training with A,
`whorl.attach(model, B)`, which keeps what both have learned.
"""
FEW = 4  # encodings to choose from
SHOWN = 3  # encodings that are named ahead and behind; the others stand in a table
EVERY_CLAIM = "Each claim of the papers, with its numbers and what is against it: [what we found](docs/found.md).\n"


def texts(root: Path) -> dict[Path, str]:
    """The page, and README.md with its table."""
    known = Known(root)
    readme = root / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        root / "docs" / "found.md": page(known),
        readme: f"{before}{BEGIN}{short(known)}{END}{after}",
    }


def page(known: Known) -> str:
    """docs/found.md."""
    picked = _picked(known)
    told = [
        HEAD,
        *_trained(known),
        "## Which encoding should I use?\n",
        _needs(picked, known),
        _all_of(picked),
        "## The questions\n",
        _questions(known),
    ]
    for paper in PAPERS:
        rows = [_row(claim, known) for claim in paper.claims]
        told.append(f"## {paper.title}\n\n{paper.about}\n\n{_table(('claim', 'here', 'for and against'), rows)}")
    return "\n".join(told).replace("](experiments/", "](../experiments/").replace("](benchmarks/", "](../benchmarks/")


def short(known: Known) -> str:
    """What README.md has of it."""
    rows = [(need.name, _take(picks), "<br>".join(_short(picks))) for need, picks in _picked(known)]
    asked = "".join(f"- {claim.question} {_said(claim, known)}{_first(claim, known)}\n" for claim in _asked())
    return f"{NEEDS_ABOUT}\n{_table(('to', 'take', 'by'), rows)}\n{asked}\n{EVERY_CLAIM}"


def _trained(known: Known) -> list[str]:
    """The sizes, lengths and machines of the trials that the page can draw on; nothing where there are none."""
    parts = {part for paper in PAPERS for claim in paper.claims for one in claim.evidence for part in one.comparisons}
    parts |= {part for need in NEEDS for several in need.parts.values() for part in several}
    found = [c for part in sorted(parts) if (c := known.comparison(part)) is not None]
    if not found:
        return []
    ran = {trial.id: ran_on(c, trial.id) for c in found for trial in c.trials}  # studies share trials
    devices = Counter(ran.values())
    sizes = sorted({c.config.parameters for c in found})
    units = dict.fromkeys(c.unit for c in found)
    at = {unit: sorted({c.train_length for c in found if c.unit == unit}) for unit in units}
    lengths = listing([f"{listing([f'{n:,}' for n in each])} {unit}" for unit, each in at.items()])
    return [
        TRAINED.format(
            trials=plural(len(ran), "trial"),
            sizes=f"{compact(sizes[0])} to {compact(sizes[-1])}" if len(sizes) > 1 else compact(sizes[0]),
            lengths=lengths,
            devices=listing([f"{count:,} on {device}" for device, count in devices.most_common()]),
        )
    ]


def _picked(known: Known) -> list[tuple[Need, list[Pick]]]:
    return [(need, [pick(known, task, need, most=SHOWN) for task in need.parts]) for need in NEEDS]


def _needs(picked: Sequence[tuple[Need, list[Pick]]], known: Known) -> str:
    rows = []
    for need, picks in picked:
        told = [one.words if len(picks) == 1 else f"*{one.task}*: {one.words}" for one in picks]
        rows.append((need.name, _take(picks), "<br>".join([*told, *_beside(need, known)])))
    return f"{NEEDS_ABOUT}\n{_table(('to', 'take', 'by'), rows)}"


def _all_of(picked: Sequence[tuple[Need, list[Pick]]]) -> str:
    """A table of every encoding for each need and task."""
    told = ["### Every encoding\n"]
    for need, picks in picked:
        for one in picks:
            if one.every:
                named = need.name if len(picks) == 1 else f"{need.name}: {one.task}"
                table = _table(("encoding", "value", "said of it"), list(one.every))
                told.append(f"<details><summary>To {named} ({one.measured})</summary>\n\n{table}\n</details>\n")
    return "\n".join(told) if len(told) > 1 else ""


def _beside(need: Need, known: Known) -> list[str]:
    return [line.words for one in need.beside if (line := one.line(known)).verdict is not Verdict.MISSING]


def _take(picks: list[Pick]) -> str:
    told = [(one.task, _taken(one.best)) for one in picks if one.best]
    if not told:
        return Verdict.MISSING if all(str(Verdict.MISSING) in one.words for one in picks) else "no claim yet"
    return "<br>".join(names if len(picks) == 1 else f"{task}: {names}" for task, names in told)


def _taken(best: Sequence[str]) -> str:
    """Those that are best, or one of them where they are too many to choose from."""
    if "rope" in best and len(best) > FEW:
        if best[0] == "rope":
            return f"`rope`, which everything reads: no difference of {len(best) - 1} others from it is resolved"
        told = f"no difference from the best, `{best[0]}`, is resolved, nor is that of {len(best) - 2} others"
        return f"`rope`, which everything reads: {told}"
    return listing([f"`{name}`" for name in best])


def _short(picks: list[Pick]) -> list[str]:
    """What is measured, a line each, and what is not."""
    missing = [one.task for one in picks if str(Verdict.MISSING) in one.words]
    if len(missing) == len(picks) == 1:
        return [picks[0].words]
    told = [one.words if len(picks) == 1 else f"{one.task}: {one.words}" for one in picks if one.task not in missing]
    return [*told, *([f"{Verdict.MISSING}: {listing(missing)}"] if missing else [])]


def _questions(known: Known) -> str:
    rows = [(claim.question, _said(claim, known), _told(claim, known)) for claim in _asked()]
    return _table(("question", "answer", "by"), rows)


def _asked() -> list[Claim]:
    return [claim for paper in PAPERS for claim in paper.claims if claim.question]


def _said(claim: Claim, known: Known) -> str:
    """The answer to its question."""
    said = _verdict(claim, known)
    return f"**{ANSWERS[said]}**" if said in ANSWERS else str(said)


def _first(claim: Claim, known: Known) -> str:
    """The first of the lines that say what all of them do, where they decide."""
    lines, said = _lines(claim, known), _verdict(claim, known)
    return next((f": {line.words}" for line in lines if line.verdict is said), "") if said in ANSWERS else ""


def _row(claim: Claim, known: Known) -> tuple[str, str, str]:
    said = _verdict(claim, known)
    shown = f"**{said}**" if said in TAGS else str(said)
    return f"{claim.says} ({claim.source})", shown, _told(claim, known)


def _told(claim: Claim, known: Known) -> str:
    told = (f"{TAGS.get(line.verdict, '')}{line.words}" for line in _lines(claim, known))
    return "<br>".join(dict.fromkeys(told))  # what is not measured yet is said once


def _verdict(claim: Claim, known: Known) -> Verdict:
    found = [line.verdict for line in _lines(claim, known)]
    undecided = [verdict for verdict in found if verdict not in TAGS]
    return together(undecided if claim.whole and undecided else found)


def _lines(claim: Claim, known: Known) -> list[Line]:
    return [one.line(known) for one in claim.evidence]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(args: Sequence[str] | None = None) -> None:
    """Takes no argument but --help."""
    form = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=form).parse_args(args)
    for path, text in texts(ROOT).items():
        write_atomically(path, text)


if __name__ == "__main__":
    main()
