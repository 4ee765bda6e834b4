"""What engines did with files that whorl wrote: the rows of `ran.json`, which `make test-runtimes` writes.

A row is one engine in one version, one encoding on one model, and what came out:

engine       a name of `whorl.runtimes.engines.ENGINES`
encoding     in whorl's notation, as it was attached ("rope:base=100000", "hope:train_length=2048")
model        what it was attached to, for people; `family` is the config's model_type
result       right: the logits are the model's own. refuses: the engine stops and says so. wrong: neither
off          the largest absolute difference from the model's own logits; None where the engine refuses
control_off  the same of the control, plain RoPE with the same weights: what `off` would be if the encoding were dropped
why          the engine's own words, where it refuses
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from whorl.files import read_json, write_json

PATH = Path(__file__).with_name("ran.json")
RESULTS = ("right", "refuses", "wrong")


@dataclass(frozen=True)
class Run:
    """One row; the module says what its fields are. Raises ValueError for a row that no run can have had."""

    engine: str
    version: str
    encoding: str
    result: str
    off: float | None
    control_off: float | None
    date: str
    model: str
    family: str = "llama"
    how: str = "run"
    why: str = ""

    def __post_init__(self) -> None:
        if self.result not in RESULTS or self.how != "run":
            raise ValueError(f"a run was {' or '.join(RESULTS)}, got {self.result!r} ({self.how!r})")
        if (self.off is None) != (self.result == "refuses"):
            raise ValueError(f"{self.engine}, {self.encoding}: off is {self.off} of what is {self.result}")
        for off in (self.off, self.control_off):
            if off is not None and not (math.isfinite(off) and off >= 0):
                raise ValueError(f"{self.engine}, {self.encoding}: a difference of logits is {off}")


def ran(path: Path = PATH) -> list[Run]:
    """The rows of a file, none where there is no file. Raises ValueError, with the path, for one that is damaged."""
    if not path.exists():
        return []
    names = {field.name for field in fields(Run)}
    rows = read_json(path)
    try:
        return [Run(**{key: value for key, value in row.items() if key in names}) for row in rows]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the rows of runs: {error}") from error


def keep(rows: Iterable[Run], path: Path = PATH) -> None:
    """Writes rows into the file. Those of the same engine and version, model and encoding are replaced; the others
    stay."""
    kept = {(row.engine, row.version, row.family, row.model, row.encoding): row for row in (*ran(path), *rows)}
    write_json(path, [asdict(kept[key]) for key in sorted(kept)])


def forget(versions: Mapping[str, Collection[str]], path: Path = PATH) -> None:
    """Takes away the rows of other versions of these engines: (engine: the versions that are run now)."""
    found = ran(path)
    left = [row for row in found if row.version in versions.get(row.engine, [row.version])]
    if left != found:
        write_json(path, [asdict(row) for row in left])
