"""Every sentence of an inspection's report, read back and held against its arrays and its JSON.

    python -m tests.inspection.sentences DIR        the report that `whorl inspect --out DIR` wrote

Nothing here calls what wrote the sentences: numbers are computed anew, from the arrays where they have them and from
the JSON's parts elsewhere. A sentence that is not known here is an error, as is one that says another number.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.inspection import told_of_layers, told_of_shapes
from tests.inspection.told import KNOWN, Wrong, check
from whorl.results.inspection import Inspection

__all__ = ["KNOWN", "Wrong", "check", "sentences", "told_of_layers", "told_of_shapes"]


def sentences(m: Inspection) -> list[str]:
    from whorl.reports.inspection import findings

    return [str(finding) for finding in findings(m)]


def main() -> int:
    wrong = 0
    m = Inspection.load(Path(sys.argv[1]))
    for told in sentences(m):
        try:
            check(m, told)
            print("holds:", told)
        except Wrong as error:
            wrong += 1
            print("WRONG:", error)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
