"""Two tiers: `make test` runs what is essential, `make test-full` the rest. A bare pytest runs both.

`@pytest.mark.full` is for a test of the second tier. `@pytest.mark.matrix` is for one with many cases: as many are
essential as show every value of every parameter `times` times (a tuple's values one by one: of ("llama", "hope") the
family and the encoding), and the rest are of the second tier.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import pytest


def covering(cases: Sequence[tuple[Hashable, ...]], times: int) -> set[int]:
    """Where cases stand that hold each value of each column `times` times, or as often as it occurs. Few, and mixed."""
    columns = [[(at, value) for at, value in enumerate(case)] for case in cases]
    occurs = Counter(value for case in columns for value in case)
    held: Counter[tuple[int, Hashable]] = Counter()
    chosen: set[int] = set()

    def gain(at: int) -> tuple[int, int]:
        lacking = sum(held[value] < min(times, occurs[value]) for value in columns[at])
        return lacking, -sum(held[value] for value in columns[at])

    while left := [at for at in range(len(cases)) if at not in chosen]:
        best = max(left, key=gain)  # the first of the best: the same in every run
        if gain(best)[0] == 0:
            break
        chosen.add(best)
        held.update(columns[best])
    return chosen


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the cases of a matrix that are of the second tier, before -m chooses."""
    tests = defaultdict(list)
    for item in items:
        if item.get_closest_marker("matrix"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        times = cases[0].get_closest_marker("matrix").kwargs.get("times", 1)
        few = covering([_values(case) for case in cases], times)
        for at, case in enumerate(cases):
            if at not in few:
                case.add_marker(pytest.mark.full)


def _values(item: pytest.Item) -> tuple[str, ...]:
    parameters = sorted(item.callspec.params.items())  # type: ignore[attr-defined]
    return tuple(repr(part) for _, value in parameters for part in (value if isinstance(value, tuple) else (value,)))
