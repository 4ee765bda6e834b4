"""Which implementations there are, beside the reference. A new one is one file in `impl/` and one line here.

An implementation is a module with

missing(problem)   the reason, in words, why it cannot do what is asked; None if it can
run(problem, ...)  does it. A rotation is given tensors beside the problem (tensors, out, cos, sin: lists of q and k,
                   and the tables) and writes to `out`, which may be the tensors; an attention returns its output

An attention may also have

takes_factor       True where `run` multiplies by the problem's factor: to others q comes multiplied
again(problem)     for one query without gradients, dropout, sinks and scores: a function that gives the output for
                   other q, k and v that lie as the problem's do, for as long as nothing else changes; or None
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from whorl.ops.derivatives import INSTEAD


class Row(NamedTuple):
    module: str
    device: str | None  # the kind of device on which "auto" takes it; None for any. By name it runs wherever it can


class Implementations(dict[str, Any]):
    """The modules of one operation by name, imported when first asked for; in the order in which "auto" tries them.

    Then comes the reference, which always can and stands in no row.
    """

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows = rows
        self.names = ("auto", "reference", *rows)
        self.tried_on: dict[str, list[tuple[str, Any]]] = {}  # what "auto" tries, by kind of device

    def __missing__(self, name: str) -> Any:
        return self.setdefault(name, import_module(self.rows[name].module))

    def _try_on(self, device: str) -> list[tuple[str, Any]]:
        tried = [(name, self[name]) for name, row in self.rows.items() if row.device in (None, device)]
        return self.tried_on.setdefault(device, tried)

    def chosen(self, asked: str, problem: Any, followed: str | None) -> str:
        """The name of what will run. Raises ValueError for a name that is not one, or that cannot run, and why.

        followed: None, or what PyTorch does with these tensors that only its own operations, the reference's, follow
        """
        if asked == "auto":
            if followed is None:
                for name, module in self.tried_on.get(problem.device) or self._try_on(problem.device):
                    if module.missing(problem) is None:
                        return name
            return "reference"
        self.check(asked)
        if asked != "reference" and (why := followed or self[asked].missing(problem)) is not None:
            raise ValueError(f"impl={asked!r} cannot run here: {why}; {INSTEAD}")
        return asked

    def check(self, asked: str, where: str = "") -> None:
        """Raises ValueError for a name that is not one; where: what gave it."""
        if asked not in self.names:
            raise ValueError(f"impl must be one of {', '.join(self.names)}, got {asked!r}{where}")


ROTATIONS = Implementations(
    {
        "cpu": Row("whorl.ops.impl.cpu", "cpu"),
        "triton": Row("whorl.ops.impl.triton", "cuda"),
    }
)
ATTENTIONS = Implementations(
    {
        "cpu": Row("whorl.ops.impl.cpu_attention", "cpu"),
        "fused": Row("whorl.ops.impl.fused", "cuda"),
        "flex": Row("whorl.ops.impl.flex", "cuda"),
        "decode": Row("whorl.ops.impl.decode", None),
        "blocked": Row("whorl.ops.impl.blocked", None),
        "linear": Row("whorl.ops.impl.linear", None),
        "householder": Row("whorl.ops.impl.householder", "cpu"),
        "rows": Row("whorl.ops.impl.rows", None),
    }
)
