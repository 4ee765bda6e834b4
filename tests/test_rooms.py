"""The house: which room may import which, no circle, no module that is too long.

Imports are read from the source, those in functions too, and not those for type checkers alone. Registries name their
modules in strings, and strings are no imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import whorl

SRC = Path(whorl.__file__).parent
REPO = Path(__file__).resolve().parents[1]

# From the ground up. A module imports from its own room and from those in lines above; rooms of one line are strangers.
# Reports are below the verbs, which write them; `testing` is for tests, and nothing imports it.
FLOORS = (
    "whorl checking console extras files hub locking notation numerics randomness stages",
    "devices outputs provenance registry",
    "encodings",
    "ops theory",
    "points",
    "hosts",
    "gguf_files",
    "finite",
    "attaching",
    "data results",
    "tasks",
    "training",
    "sources watching",
    "reports",
    "inspection comparison conversion diagnosis evaluation runtimes",
    "pages",
    "cli testing",
    "__main__",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}

LONGEST = 500  # lines; C excepted

Arrow = tuple[str, str]


def arrows(package: Path, lazy: Mapping[str, str] = {}) -> set[Arrow]:
    """(importer, imported) for the modules of a package, without its name; the package itself goes by it.

    lazy: names of the package and the modules that they come from when they are first used.
    """
    top = package.name
    modules = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or top] = path
    lazily = {name: module.removeprefix(f"{top}.") for name, module in lazy.items()}

    def named(dotted: str) -> Iterator[str]:
        """The module that whorl.a.b or whorl.a.name leads to."""
        inner = dotted.removeprefix(f"{top}.")
        if dotted == top or dotted.startswith(f"{top}."):
            owner = inner.rpartition(".")[0] or top
            yield inner if inner in modules else lazily.get(inner, owner)

    def imported(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            children = list(node.orelse)
        else:
            children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from named(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                yield from named(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == top:
            yield from named(f"{top}.{node.attr}")
        for child in children:
            yield from imported(child)

    return {
        (module, other)
        for module, path in modules.items()
        for other in imported(ast.parse(path.read_text(encoding="utf-8")))
        if other != module
    }


def against_the_floors(found: set[Arrow]) -> set[Arrow]:
    """Those that lead to a room that is not below."""
    rooms = {arrow: tuple(module.partition(".")[0] for module in arrow) for arrow in found}
    return {arrow for arrow, (own, other) in rooms.items() if own != other and FLOOR[own] <= FLOOR[other]}


def in_circles(found: set[Arrow]) -> set[Arrow]:
    """Those from whose end their beginning can be reached."""
    after: dict[str, set[str]] = {}
    for importer, other in found:
        after.setdefault(importer, set()).add(other)

    def reached(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for other in after.get(waiting.pop(), set()) - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    below = {module: reached(module) for module in after}
    return {(importer, other) for importer, other in found if importer in below.get(other, set())}


def test_arrows_point_down_and_close_no_circle() -> None:
    found = arrows(SRC, whorl._EXPORTS)
    assert len(found) > 300, "the graph was read"
    homeless = {room for arrow in found for room in (module.partition(".")[0] for module in arrow)} - FLOOR.keys()
    assert not homeless, f"give {sorted(homeless)} a place in FLOORS"
    wrong = sorted(against_the_floors(found) | in_circles(found))
    assert not wrong, f"{wrong} import what is not below them (FLOORS), or in a circle: move what they need down"


def test_operations_know_what_turns_and_no_encoding() -> None:
    """Of encodings, a spectrum and its cos and sin, of which rotary ones are made, what a score can be asked, or a bias
    that goes by runs of distance, in the rows of a grid too, and the products of turns that tokens make one after the
    other."""
    found = {other for importer, other in arrows(SRC) if importer.startswith("ops.")}
    assert {other for other in found if other.startswith("encodings")} == {
        "encodings.spectrum",
        "encodings.turns",
        "encodings.scores",
        "encodings.householder",
        "encodings.by_run",
        "encodings.grid",
    }


def test_a_wrong_arrow_is_seen_wherever_it_hides(tmp_path: Path) -> None:
    sources = {
        "__init__": "",
        "ops": "def f():\n    if True:\n        from whorl.hosts.opening import g",
        "hosts/__init__": "",
        "hosts/opening": "import whorl\ndef g():\n    return whorl.attach",
        "attaching/joining": "from whorl.attaching import saving",
        "attaching/saving": "class A:\n    def f(self):\n        import whorl.attaching.reading",
        "attaching/reading": "from whorl.attaching.joining import attach",
        "inspection": "from whorl.comparison import x\nfrom whorl.reports import y\nfrom whorl import __version__",
        "comparison": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import whorl.testing\nimport torch",
        "reports": "from whorl.inspection import *",
        "testing": "from whorl.cli import x",
        "cli": "",
    }
    for name, text in sources.items():
        path = tmp_path / "whorl" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = arrows(tmp_path / "whorl", {"attach": "whorl.attaching.joining"})
    assert against_the_floors(found) == {
        ("ops", "hosts.opening"),
        ("hosts.opening", "attaching.joining"),
        ("inspection", "comparison"),
        ("reports", "inspection"),
        ("testing", "cli"),
    }
    circle = ["attaching.joining", "attaching.saving", "attaching.reading", "attaching.joining"]
    assert in_circles(found) == {
        *pairwise(circle),
        ("inspection", "reports"),
        ("reports", "inspection"),
    }
    assert ("inspection", "whorl") in found
    assert not any(importer == "comparison" for importer, _ in found)


def test_no_file_is_longer_than_a_person_reads() -> None:
    files = [p for room in ("src", "tests", "benchmarks", "docs", "experiments") for p in (REPO / room).rglob("*")]
    lines = {
        p.relative_to(REPO).as_posix(): len(p.read_text(encoding="utf-8").splitlines())
        for p in files
        if p.suffix in (".py", ".js", ".css", ".md") and p.is_file()
    }
    assert len(lines) > 300, "the files were read"
    long = sorted(name for name, count in lines.items() if count > LONGEST)
    assert not long, f"over {LONGEST} lines: {long}; split them by purpose"
