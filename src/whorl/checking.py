"""What arguments mean in all commands alike, and which of them make no sense: asked before any work.

One name means one thing everywhere (`train_length`, `windows`, `seed`, ...), so its range stands here once.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`."""

    least: int
    most: int
    what: str

    def fits(self, value: Any) -> bool:
        """Whether this is such a number (True is none)."""
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number from {self.least:,} to {self.most:,} ({self.what})"


@dataclass(frozen=True)
class Real:
    """A finite number from `least` to `most`, without the ends that are open."""

    least: float
    most: float
    what: str
    above: bool = False  # the least itself is none
    below: bool = False  # the most itself is none

    def fits(self, value: Any) -> bool:
        """Whether this is such a number (True is none)."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return False
        return (self.least < value if self.above else self.least <= value) and (
            value < self.most if self.below else value <= self.most
        )

    def __str__(self) -> str:
        low = f"above {self.least:g}" if self.above else f"of at least {self.least:g}"
        high = f"below {self.most:g}" if self.below else f"at most {self.most:g}"
        return f"a number {low} and {high} ({self.what})"


TRIALS = 8  # that are named, at most
LENGTH, TOKENS, COUNT = 1 << 31, 10**15, 10**6
RANGES: dict[str, Whole | Real] = {
    "train_length": Whole(1, LENGTH, "tokens"),
    "length": Whole(1, LENGTH, "tokens per window"),
    "to": Whole(1, LENGTH, "tokens"),
    "tail": Whole(1, LENGTH, "target tokens per window"),
    "images": Whole(1, COUNT, "images"),
    "windows": Whole(1, COUNT, "windows of text"),
    "sequences": Whole(1, COUNT, "sequences"),
    "random_windows": Whole(0, COUNT, "windows of random tokens"),
    "batch_size": Whole(1, COUNT, "sequences per step"),
    "tokens": Whole(1, TOKENS, "tokens of training"),
    "heal": Whole(1, TOKENS, "tokens of training"),
    "tune": Whole(0, TOKENS, "tokens of training"),
    "lora": Whole(0, 1 << 16, "an adapter's rank"),
    "reach": Whole(1, COUNT, "times the training length"),
    "seed": Whole(0, (1 << 32) - 1, "a seed"),
    "snapshots": Whole(0, 10**4, "snapshots of a training"),
    "jobs": Whole(1, 1 << 12, "trials at a time"),
    "head_dim": Whole(2, 1 << 12, "channels per head"),
    "pairs": Whole(1, 1 << 16, "channel pairs per head"),
    "learning_rate": Real(0, 1e3, "a learning rate", above=True),
    "weight_decay": Real(0, 1e3, "AdamW's weight decay"),
    "warmup": Real(0, 1, "a share of the steps", below=True),
    "tolerance": Real(0, 1e3, "nats"),
    "minutes": Real(0, 1e6, "minutes; 0 sets no limit"),
    "gradual": Real(0, 1, "a share of the healing", below=True),
}


def check_numbers(**arguments: Any) -> None:
    """Raises ValueError for a number outside of its range in `RANGES`; None is one that was not given.

    >>> check_numbers(train_length=-4)
    ValueError: train-length must be a whole number from 1 to 2,147,483,648 (tokens), got -4
    """
    for name, value in arguments.items():
        if value is not None and not RANGES[name].fits(value):
            raise ValueError(f"{name.replace('_', '-')} must be {RANGES[name]}, got {value!r}")


def check_lengths(lengths: Iterable[Any], trained: int, unit: str = "tokens") -> tuple[int, ...]:
    """Lengths, given as numbers or as multiples of the training length, ascending, each once.

    Raises ValueError for what is neither.

    >>> check_lengths(["1x", "1.5x", 300], 100)
    (100, 150, 300)
    """
    found = set()
    for length in lengths:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(x?)", str(length))
        value = 0 if match is None else float(match[1]) * (trained if match[2] else 1)
        if value > LENGTH and match is not None and match[2]:
            raise ValueError(
                f"{length} of a training length of {trained:,} is more than {LENGTH:,}; give shorter --lengths"
            )
        if not 1 <= value <= LENGTH or value != int(value):
            raise ValueError(
                f"cannot read the length {length!r}; write {unit} (512) or multiples of the training length (4x)"
            )
        found.add(int(value))
    return tuple(sorted(found))


def check_keywords(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError, with what may have been meant, for a keyword that a function does not have."""
    names = list(known)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "it has none that is like it"
            raise ValueError(f"{function} has no argument {name!r}; {hint} (known: {', '.join(names)})")


def check_list(name: str, value: Any, example: str) -> list[Any]:
    """The items of a list (or of another iterable) as a list. Raises ValueError for a single value, and for text.

    >>> check_list("encodings", "rope", '["rope"]')
    ValueError: encodings must be a list, got 'rope'; try ["rope"]
    """
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list, got {shown(value)}; try {example}")
    return list(value)


def check_ids(name: str, ids: Any, vocabulary: int) -> None:
    """Raises ValueError for token ids (a tensor or an array) that a model of so many tokens does not have."""
    least, most = int(ids.min()), int(ids.max())
    if not 0 <= least <= most < vocabulary:
        raise ValueError(
            f"{name} hold ids from {least} to {most}, and the model has {vocabulary} tokens; "
            "encode the text with the model's own tokenizer"
        )


def check_path(name: str, value: Any, wanted: str = "a path") -> str:
    """A path (or name) as text. Raises ValueError for what is neither text nor a path."""
    if not isinstance(value, str | os.PathLike) or isinstance(value, bytes):
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    found = os.fspath(value)
    if not found or "\0" in found:
        raise ValueError(f"{name} must be {wanted}, got {found!r}")
    return found


def check_there(name: str) -> None:
    """Raises ValueError for a model's name that can only be a path, and where there is nothing; for none too."""
    give = "give a model's directory, a .gguf file, a hub name, or a trial's folder"
    if not name.strip():
        raise ValueError(f"no model is named {name!r}; {give}")
    others = trials_beside(name)
    if not os.path.exists(name) and (others or name.startswith((".", "/")) or name.count("/") > 1):
        raise ValueError(f"there is nothing at {name}; {others or give}")


def trials_beside(name: str | os.PathLike[str]) -> str:
    """Where a name is of a comparison's folder of trials, those that are finished, in words, first the likeliest to
    have been meant; nothing for other names."""
    folder, asked = os.path.split(os.fspath(name).rstrip("/"))
    if os.path.basename(folder) != "trials" or not os.path.isdir(folder):
        return ""
    found = sorted(one for one in os.listdir(folder) if os.path.exists(os.path.join(folder, one, "result.json")))
    likely = [one for one in found if one.startswith(asked)] or difflib.get_close_matches(asked, found)
    ordered = [*likely, *(one for one in found if one not in likely)]
    return f"the finished trials there are {few(ordered, TRIALS)}" if found else "no trial there is finished"


def few(names: Sequence[str], most: int = 3) -> str:
    """The first of some names in a message, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(value: Any) -> str:
    """A value in a message: short ones as they are, of others what they are."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value)
    if value is None or (len(text) <= 60 and isinstance(value, str | bytes | int | float | list | tuple | dict)):
        return text
    kind = f"{'an' if type(value).__name__[0] in 'AEIOUaeiou' else 'a'} {type(value).__name__}"
    return f"{kind} ({text[:40]}...)" if isinstance(value, str) else kind
