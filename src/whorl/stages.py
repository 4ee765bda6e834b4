"""How it is told what begins, and how much of it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

EVERY = 60.0  # seconds after which there is a line, whatever was done

Update = Callable[[int, int], None]  # done, of how many
Stage = Callable[[str], Update]  # of a name


def unheard(done: int, of: int) -> None:
    """An update that nobody is told of."""


def silent(name: str) -> Update:
    """A stage that nobody is told of."""
    return unheard


@dataclass
class Lines:
    """When a line is due in a file: at what is told first, at every tenth part, and once a minute."""

    last: tuple[int, float] | None = None  # tenths that were done, and when

    def due(self, done: int, of: int, now: float) -> bool:
        """now: in seconds. A line that is due counts as said."""
        tenth = done * 10 // max(1, of)
        if self.last is not None and tenth == self.last[0] and now - self.last[1] < EVERY:
            return False
        self.last = (tenth, now)
        return True


def counted(update: Update, of: int) -> Callable[[int], None]:
    """What is told of more that is done, for what is told of all that is."""
    done = 0
    update(done, of)

    def more(count: int) -> None:
        nonlocal done
        done += count
        update(done, of)

    return more
