"""How it is told what begins, how much of it is done, and how long it was worked on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

EVERY = 60.0  # seconds after which there is a line, whatever was done
PAUSE = 300.0  # seconds that a step may take, however short those before it were

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


@dataclass
class Worked:
    """Seconds of work on steps that take about as long as one another, without those in which it was stopped: a step of
    more than `PAUSE` and of ten times what those before it took counts as one of these. The first five count in full.

    A process that is stopped (Ctrl+Z, a queue that lends the machine to others) does not know it; its clock goes on.

    now    in seconds: when the last step was over
    first  the step at which work began
    """

    now: float
    first: int
    seconds: float = 0.0
    step: int = field(init=False)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=20), init=False)

    def __post_init__(self) -> None:
        self.step = self.first

    def at(self, now: float, step: int) -> float:
        """So many steps are over. Returns the seconds of a pause, 0 where there was none."""
        steps = step - self.step
        if steps <= 0:
            return 0.0
        took, usual = now - self.now, median(self.recent) * steps if len(self.recent) >= 5 else math.inf
        pause = took - usual if took > max(PAUSE, 10 * usual) else 0.0
        self.seconds += took - pause
        self.now, self.step = now, step
        self.recent.append(took / steps)  # of a pause too: where all steps begin to take as long, they are none
        return pause

    @property
    def per_step(self) -> float | None:
        return self.seconds / (self.step - self.first) if self.step > self.first else None

    def so_far(self, now: float) -> float:
        """Seconds of work, all since the last step among them."""
        return self.seconds + now - self.now


def counted(update: Update, of: int) -> Callable[[int], None]:
    """What is told of more that is done, for what is told of all that is."""
    done = 0
    update(done, of)

    def more(count: int) -> None:
        nonlocal done
        done += count
        update(done, of)

    return more
