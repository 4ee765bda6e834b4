"""SCAN: commands to actions, by the number of actions (1711.00350; split as in 2305.19466). Version 1.

    jump around left after walk twice  ->  I_WALK I_WALK I_TURN_LEFT I_JUMP ... (ten actions)

The grammar makes all 20,910 commands, each with one right sequence of actions (Lake and Baroni, figures 6 and 7):

    C -> S | S and S | S after S          after: the second is done first
    S -> V | V twice | V thrice
    V -> U | U left | U opposite left | U around left, and right; U -> walk, look, run, jump, turn
         (turn never without a direction; opposite turns twice, and around is four times a turn and the action)

Split at N actions, the training length: trained on are the commands of at most N, but for a tenth of them, which the
evaluation within N asks for. Past N the evaluation asks for all others. `split=md` has N = 25, as in the paper on
length generalization; `split=len` has 22, as the data set's own split by length. An evaluation at n has commands of
exactly n actions, each once and at most `windows` of them. There are not commands of every length: none has 23, say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from whorl.encodings.config import choices
from whorl.tasks.base import Arguments, Example, NothingLeft, TaskSettings, argument
from whorl.tasks.graded import EVALUATION, VALIDATION, Examples
from whorl.tasks.problems import Answer, Problem, Prompt

VERBS = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP"}
TURNS = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
TIMES = {"": 1, "twice": 2, "thrice": 3}
SPLITS = {"md": 25, "len": 22}
HELD_OUT = 0.1  # of the commands within the training length
Pair = tuple[tuple[str, ...], tuple[str, ...]]


@cache
def pairs() -> tuple[Pair, ...]:
    """Every command with its actions, in words."""
    phrases = [
        ((*command, times) if times else command, actions * count)
        for command, actions in _phrases()
        for times, count in TIMES.items()
    ]
    both = [
        ((*a, joint, *b), doing + then if joint == "and" else then + doing)
        for joint in ("and", "after")
        for a, doing in phrases
        for b, then in phrases
    ]
    return (*phrases, *both)


def _phrases() -> Iterator[Pair]:
    """V of the grammar."""
    for verb, does in {**{verb: (action,) for verb, action in VERBS.items()}, "turn": ()}.items():
        if does:
            yield (verb,), does
        for side, turn in TURNS.items():
            yield (verb, side), (turn, *does)
            yield (verb, "opposite", side), (turn, turn, *does)
            yield (verb, "around", side), (turn, *does) * 4


@cache
def lengths() -> tuple[int, ...]:
    """The numbers of actions that there are."""
    return tuple(sorted({len(actions) for _, actions in pairs()}))


@dataclass(frozen=True)
class ScanArguments(Arguments):
    """Where the split is."""

    name = "scan"

    split: str = argument("md", "md (trained at up to 25 actions), len (22)")

    def __post_init__(self) -> None:
        choices("split", self.split, tuple(SPLITS))


class Scan(Problem):
    """Actions of commands."""

    name = evaluation = "scan"
    title = "Commands to actions"
    version = 1
    takes = ScanArguments
    unit = "actions"
    smallest = 1
    trained = SPLITS["md"]

    @classmethod
    def default_length(cls, given: Mapping[str, Any]) -> int:
        return SPLITS[given.get("split", "md")]

    @classmethod
    def default_lengths(cls, given: Mapping[str, Any], train_length: int) -> tuple[str, ...]:
        """Three within the training length, and every one past it."""
        within = [n for n in lengths() if n <= train_length]
        return tuple(map(str, [*within[::-7][2::-1], *lengths()[len(within) :]]))

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        missing = [length for length in settings.lengths if length not in lengths()]
        if missing:
            raise ValueError(
                f"no command of the scan task has {missing[0]} actions; try {', '.join(map(str, lengths()))}"
            )

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        within = [pair for pair in pairs() if len(pair[1]) <= settings.train_length]
        order = np.random.default_rng((EVALUATION, settings.data_seed)).permutation(len(within))
        held_out = round(HELD_OUT * len(within))
        self.trained_on = [within[i] for i in order[held_out:]]
        self.asked_for = [within[i] for i in order[:held_out]]
        self.asked_for += [pair for pair in pairs() if len(pair[1]) > settings.train_length]

    def symbols(self) -> Sequence[str]:
        return [*VERBS, "turn", *TURNS, "opposite", "around", "twice", "thrice", "and", "after", *self.answers()]

    def answers(self) -> Sequence[str]:
        return [*VERBS.values(), *TURNS.values()]

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        there = [pair for pair in pairs() if len(pair[1]) == size]
        return there[rng.integers(len(there))]

    def training_problem(self, rng: np.random.Generator) -> tuple[Prompt, Answer]:
        return self.trained_on[rng.integers(len(self.trained_on))]

    def evaluation_problems(self, size: int) -> list[tuple[Prompt, Answer]]:
        there = [pair for pair in self.asked_for if len(pair[1]) == size]
        order = np.random.default_rng((EVALUATION, self.settings.data_seed, size)).permutation(len(there))
        return [there[i] for i in order[: self.settings.windows]]

    def validation_set(self) -> Dataset[Example]:
        """Commands that are held out within the training length, and that the evaluation leaves."""
        asked = {pair for n in self.settings.lengths for pair in self.evaluation_problems(n)}
        left = [pair for pair in self.asked_for if len(pair[1]) <= self.settings.train_length and pair not in asked]
        if not left:
            raise NothingLeft(
                "the evaluation asks for every command that is held out within the training length, and leaves none to "
                "validate on; try fewer --windows"
            )
        order = np.random.default_rng((VALIDATION, self.settings.data_seed)).permutation(len(left))
        return Examples(min(self.settings.windows, len(left)), lambda i: self.written(left[order[i]]))

    def tokens(self, size: int) -> int:
        return max(len(self.sequence(*pair)[0]) for pair in pairs() if len(pair[1]) <= size)

    def solve(self, prompt: Prompt) -> Answer:
        for joint in ("and", "after"):
            if joint in prompt:
                place = list(prompt).index(joint)
                done = [self.solve(prompt[:place]), self.solve(prompt[place + 1 :])]
                return [action for part in (done if joint == "and" else done[::-1]) for action in part]
        if prompt[-1] in TIMES:
            return [*self.solve(prompt[:-1])] * TIMES[prompt[-1]]
        does = [VERBS[prompt[0]]] if prompt[0] in VERBS else []
        turn = [TURNS[prompt[-1]]] if prompt[-1] in TURNS else []
        if "around" in prompt:
            return [*turn, *does] * 4
        return [*turn * (2 if "opposite" in prompt else 1), *does]
