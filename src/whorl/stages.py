"""How it is told what begins, and how much of it is done."""

from __future__ import annotations

from collections.abc import Callable

Update = Callable[[int, int], None]  # done, of how many
Stage = Callable[[str], Update]  # of a name


def unheard(done: int, of: int) -> None:
    """An update that nobody is told of."""


def silent(name: str) -> Update:
    """A stage that nobody is told of."""
    return unheard


def counted(update: Update, of: int) -> Callable[[int], None]:
    """What is told of more that is done, for what is told of all that is."""
    done = 0
    update(done, of)

    def more(count: int) -> None:
        nonlocal done
        done += count
        update(done, of)

    return more
