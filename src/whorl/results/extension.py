"""What `whorl extend` and `whorl convert` measure and write beside the weights: extension.json and conversion.json.

Losses are in nats per token, lengths in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from whorl.checking import check_numbers, shown
from whorl.results.schema import Result
from whorl.results.showing import Shown
from whorl.results.training import Step

EXTENSION, CONVERSION = "extension.json", "conversion.json"
TUNED = ", tuned"  # after the name of a method whose model was then trained at the new length


@dataclass(frozen=True)
class Method:
    """One method on the text: its loss at positions below the training length, and at the last quarter of the new one.

    whole_context  whether every layer reads as far as it does in the untouched model, which a window takes from it
    """

    method: str
    encoding: str
    in_range: float
    past: float
    whole_context: bool


@dataclass(frozen=True)
class Needle:
    """How a number that is stated at some depth of a text of some length is found again, means over several numbers.

    found    the share whose every token is the model's first choice
    loss     of the number
    without  the same where the number is not stated: what a guess costs; a loss near it means nothing was retrieved
    entropy  of attention at the tokens of the answer, nats, mean over layers and heads
    """

    length: int
    depth: float
    found: float
    loss: float
    without: float
    entropy: float


@dataclass(frozen=True, repr=False)
class Extension(Result, Shown):
    """A checkpoint at a longer context: what was tried, the untouched model first, and the method that was kept.

    from_                the model, by name
    windows              of text that was measured on: how many, and their tokens
    layers_as_they_were  those that see no further than the training length
    loads                what loads the folder that was written, in words
    """

    schema: ClassVar[int] = 1

    from_: str
    train_length: int
    to: int
    text: str
    windows: tuple[int, ...]
    method: str
    encoding: str
    layers_as_they_were: tuple[int, ...]
    tried: tuple[Method, ...]
    loads: str
    needle: tuple[Needle, ...] | None = None

    def __post_init__(self) -> None:
        check_numbers(train_length=self.train_length, to=self.to)
        tried = [row.method for row in self.tried]
        if self.method not in tried:
            raise ValueError(f"method {shown(self.method)} is none of those that were tried ({', '.join(tried)})")

    @classmethod
    def upgraded(cls, value: dict[str, Any], schema: int) -> dict[str, Any]:
        """The first versions did not say which layers stay as they were (none), nor that a window takes context."""
        tried = value.get("tried")
        if isinstance(tried, list):
            tried = [
                {"whole_context": not str(row.get("method")).startswith("window"), **row}
                if isinstance(row, dict)
                else row
                for row in tried
            ]
        return {"layers_as_they_were": [], **value, "tried": tried}

    @property
    def best(self) -> Method:
        """The one that was kept."""
        return next(row for row in reversed(self.tried) if row.method == self.method)

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        rows = [
            (f"{row.method} (kept)" if row is self.best else row.method, f"{row.in_range:.3f}", f"{row.past:.3f}")
            for row in self.tried
        ]
        return (f"{self.from_}, nats per token", "in range", f"last quarter, to {self.to:,}"), rows

    def records(self) -> list[dict[str, Any]]:
        return [vars(row) | {"kept": row is self.best} for row in self.tried]


@dataclass(frozen=True)
class Within:
    """Layers that were converted although no new distance reaches them; the notation that leaves them as they are."""

    layers: tuple[int, ...]
    leave: str | None


SMALL = 0.01  # nats per token

Losses = dict[int, float | None]
"""By length; None where a learned table ends before it."""


@dataclass(frozen=True, repr=False)
class Conversion(Result, Shown):
    """A checkpoint whose encoding was swapped and which was healed by training on.

    model             by name, where it has one; from_ and to are its encodings
    filled            which arguments of the new one the model's config filled, in words; empty: none
    before            losses of the untouched model; swapped, healed: of the converted one, before and after the healing
    control           of the untouched model, trained alike; None without one, or where it diverged (control_diverged)
    tokens            of the healing, from learning_rate down, the pairs stilled over the share `gradual` of it
    train_length_from where the training length comes from, in words
    loads             what loads the folder that was written, in words
    """

    schema: ClassVar[int] = 1

    from_: str
    to: str
    tokens: int
    within: Within | None
    filled: str
    before: Losses
    swapped: Losses
    curve: tuple[Step, ...]
    healed: Losses
    control: Losses | None
    text: str
    train_length: int
    learning_rate: float
    gradual: float
    control_curve: tuple[Step, ...] = ()
    control_diverged: str | None = None
    model: str = ""
    train_length_from: str = ""
    loads: str = ""

    def __post_init__(self) -> None:
        check_numbers(train_length=self.train_length)
        for name, losses in self.measured().items():
            if list(losses) != list(self.before):
                lengths = ", ".join(map(str, losses)) or "none"
                raise ValueError(
                    f"{name} must have the lengths of before ({', '.join(map(str, self.before))}), got {lengths}"
                )

    @classmethod
    def upgraded(cls, value: dict[str, Any], schema: int) -> dict[str, Any]:
        """The first versions filled no argument, and did not ask which layers see new distances."""
        return {"within": None, "filled": "", **value}

    def measured(self) -> dict[str, Losses]:
        """The losses by what they are of, in the order of the work."""
        found = {"before": self.before, "swapped": self.swapped, "healed": self.healed}
        return found if self.control is None else found | {"untouched, trained alike": self.control}

    def hurt_by_healing(self) -> list[int]:
        """The lengths at which the loss is higher after the healing than before it, by more than `SMALL`."""
        both = ((n, self.swapped[n], healed) for n, healed in self.healed.items())
        return [
            n for n, swapped, healed in both if swapped is not None and healed is not None and healed > swapped + SMALL
        ]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        rows = [
            (name, *("out of reach" if loss is None else f"{loss:.3f}" for loss in losses.values()))
            for name, losses in self.measured().items()
        ]
        to = self.to if len(self.to) <= 40 else f"{self.to[:37]}..."
        return (f"to {to}, nats per token", *(f"{n:,} tokens" for n in self.before)), rows

    def records(self) -> list[dict[str, Any]]:
        return [
            {"of": name, "length": length, "loss": loss}
            for name, losses in self.measured().items()
            for length, loss in losses.items()
        ]
