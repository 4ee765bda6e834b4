"""PCFG SET: functions of sequences, nested, by how many there are (1908.08351; 2305.19466). Version 1.

    append swap_first_last A1 B2 C3 , repeat D4  ->  C3 B2 A1 D4 D4

    copy x               x                      append x , y           x y
    reverse x            x backwards            prepend x , y          y x
    shift x              the first word last    remove_first x , y     y
    swap_first_last x    its ends exchanged     remove_second x , y    x
    repeat x             x x
    echo x               x and its last word again

Trees of n functions are drawn: each function uniform over the ten; of the functions below one of two arguments, the
first argument has a uniform share; a sequence without functions has 1 to 5 of 520 words (A1 to Z20). A tree whose
answer has more than `most` words is drawn again. The released data are others, and not as many of each size (training
up to 8 functions, test 9 to 35).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from whorl.encodings.config import require_positive_int
from whorl.tasks.base import Arguments, argument
from whorl.tasks.problems import Answer, Problem, Prompt

Line = list[str]
UNARY: dict[str, Callable[[Line], Line]] = {
    "copy": lambda x: x,
    "reverse": lambda x: x[::-1],
    "shift": lambda x: x[1:] + x[:1],
    "swap_first_last": lambda x: [x[-1], *x[1:-1], x[0]] if len(x) > 1 else x,
    "repeat": lambda x: x + x,
    "echo": lambda x: [*x, x[-1]],
}
BINARY: dict[str, Callable[[Line, Line], Line]] = {
    "append": lambda x, y: x + y,
    "prepend": lambda x, y: y + x,
    "remove_first": lambda x, y: y,
    "remove_second": lambda x, y: x,
}
FUNCTIONS = (*UNARY, *BINARY)
WORDS = tuple(f"{letter}{i}" for letter in ascii_uppercase for i in range(1, 21))
LEAF = 5  # words of a sequence, at most


@dataclass(frozen=True)
class PCFGArguments(Arguments):
    """How long answers may be."""

    name = "pcfg"

    most: int = argument(40, "words of an answer, at most")

    def __post_init__(self) -> None:
        require_positive_int("most", self.most)
        if self.most < LEAF:
            raise ValueError(f"most must be {LEAF} words or more, got {self.most}")


class PCFG(Problem):
    """What n nested functions make of their sequences."""

    name = evaluation = "pcfg"
    title = "Nested functions of sequences"
    version = 1
    takes = PCFGArguments
    unit = "functions"
    smallest = 1
    trained = 8

    def symbols(self) -> Sequence[str]:
        return [*WORDS, *FUNCTIONS, ","]

    def answers(self) -> Sequence[str]:
        return WORDS

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        while True:
            prompt, answer = _tree(rng, size, self.arguments.most)
            if len(answer) <= self.arguments.most:
                return prompt, answer

    def tokens(self, size: int) -> int:
        """As if every function took two arguments, and sequences and answer had as many words as they may."""
        return 3 + size + LEAF * (size + 1) + size + self.arguments.most

    def solve(self, prompt: Prompt) -> Answer:
        answer, rest = _read(list(prompt))
        assert not rest, f"{rest} is left of {prompt}"
        return answer


def _tree(rng: np.random.Generator, functions: int, most: int) -> tuple[Line, Line]:
    """A tree of so many functions in words, and its value.

    Of a value of more than `most` words there is one more than that: what is made of it is no shorter, or without it.
    """
    if functions == 0:
        words = [WORDS[i] for i in rng.integers(len(WORDS), size=rng.integers(1, LEAF + 1))]
        return words, words
    function = FUNCTIONS[rng.integers(len(FUNCTIONS))]
    if function in UNARY:
        prompt, value = _tree(rng, functions - 1, most)
        return [function, *prompt], UNARY[function](value)[: most + 1]
    first = int(rng.integers(functions))
    (a, x), (b, y) = _tree(rng, first, most), _tree(rng, functions - 1 - first, most)
    return [function, *a, ",", *b], BINARY[function](x, y)[: most + 1]


def _read(words: Line) -> tuple[Line, Line]:
    """The value of the tree that words begin with, and the words after it."""
    head, *rest = words
    if head in UNARY:
        value, rest = _read(rest)
        return UNARY[head](value), rest
    if head in BINARY:
        x, rest = _read(rest)
        assert rest[0] == ","
        y, rest = _read(rest[1:])
        return BINARY[head](x, y), rest
    end = words.index(",") if "," in words else len(words)
    return words[:end], words[end:]
