"""What encodings and scalings are as configs: frozen dataclasses with a notation, a JSON form and checks.

A field `of_host` is an argument that a host can fill: unset (None) until it is given or filled by what is `Known`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Known:
    """What a host, or a run, says of the arguments that are left unset; None where it says nothing.

    base          the rotary base of the host's own encoding, before any scaling
    train_length  tokens that the model is trained at
    fraction      the share of `Shape.head_dim` that the host's own encoding turns, where that is less than all of it
    part          the same, and 1 where the host turns a part of its heads and lets no other channels turn (Phi)
    third         a third of its layers, rounded down
    layers        how many it has
    grid          rows and columns of patches of the images that the model is trained at
    reach         the largest coordinate of the points that it is trained at
    """

    base: float | None = None
    train_length: int | None = None
    fraction: float | None = None
    part: float | None = None
    third: int | None = None
    layers: int | None = None
    grid: tuple[int, int] | None = None
    reach: float | None = None

    @property
    def span(self) -> float | None:
        """The largest coordinate of any position in training: that of points, of the last patch along a grid's longer
        side, or of the last token; None where it is not known, or 0."""
        if self.reach is not None:
            return self.reach
        side = self.train_length if self.grid is None else max(self.grid)
        return None if side is None or side < 2 else float(side - 1)


def of_host(default: float | None = None, known: str | None = None) -> Any:
    """The field of an argument that a host can fill: unset (None) until it is given.

    default: the registry's, where nothing fills it; None where there is none. known: which of `Known` fills it, by
    default the one of the field's own name.
    """
    return dataclasses.field(default=None, metadata={"of_host": known, "default": default})


def added(default: Any) -> Any:
    """The field of an argument that came later than its encoding: at its default it is left out of the JSON form, which
    is then what it was, and with it all that is known by it (a finished trial, say)."""
    return dataclasses.field(default=default, metadata={"added": True})


@dataclass(frozen=True)
class Config:
    """Base of encodings and scalings. Subclasses are frozen dataclasses whose fields are the paper's arguments.

    Equal configs say the same, and a config can be a dictionary key.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    example: ClassVar[str]  # in the notation; where there is none, one is made up of the argument that lacks

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """The config with these arguments. Raises ValueError for one that it does not have, and for one that lacks."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in arguments:
            if key not in fields:
                takes = f"it takes {', '.join(fields)}" if fields else "it takes none"
                raise ValueError(f"{cls.name} has no argument {key!r}; {takes}")
        for key, field in fields.items():
            if field.default is dataclasses.MISSING and key not in arguments:
                raise ValueError(f"{cls.name} needs {key}; try {getattr(cls, 'example', f'{cls.name}:{key}=256')}")
        return cls(**arguments)

    def filled(self, known: Known) -> Self:
        """The same config with the arguments that are unset taken from `known`, where it says them."""
        return self.with_values({f.name: known_as(f, known) for f in self.unset()})

    def argument(self, name: str) -> Any:
        """An argument's value, or the registry's default where it is unset (outside of any model)."""
        value = getattr(self, name)
        field = next(f for f in dataclasses.fields(self) if f.name == name)
        return field.metadata.get("default") if value is None else value

    def needed(self, name: str, what: str, example: Any) -> Any:
        """An argument's value. Raises ValueError where it is unset, which says what it is, and an example of it."""
        if (value := getattr(self, name)) is None:
            raise ValueError(
                f"{self.name} needs {what}, and none was given; try {type(self).__name__}({name}={example}), or "
                f"{self.name}:{name}={format_value(example)} on the command line"
            )
        return value

    def unset(self) -> list[dataclasses.Field[Any]]:
        """The fields that a host can fill and nothing has filled."""
        return [f for f in dataclasses.fields(self) if "of_host" in f.metadata and getattr(self, f.name) is None]

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """The same config with other arguments; one that is None stays as it was."""
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, **given) if given else self

    def __str__(self) -> str:
        """The command line's notation, e.g. `p-rope:p=0.5` or `yarn:factor=4`; `whorl.encodings.parse` reads it."""
        given = [
            f"{f.name}={format_value(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (":" + ",".join(given) if given else "")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: {"name": ..., argument: value, ...}; `whorl.encodings.from_dict` reads it back.

        An argument that is unset is left out, and one that was `added` and is at its default.
        """
        silent = self.unset() + [
            f for f in dataclasses.fields(self) if "added" in f.metadata and getattr(self, f.name) == f.default
        ]
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f not in silent}
        return {"name": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def known_as(field: dataclasses.Field[Any], known: Known) -> Any:
    """What fills the argument of this field (see `of_host`), or None."""
    return getattr(known, field.metadata["of_host"] or field.name)


def format_value(value: object) -> str:
    """A number, word or list as the notation writes it: `10000`, `0.5`, `5e5`, `log`, `1@0.1@0.01` (never a `+`)."""
    if isinstance(value, tuple):
        return "@".join(map(format_value, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value).replace("e+", "e")
    return str(value)


def number_list(argument: str, value: object, example: str) -> tuple[float, ...]:
    """A list of numbers, or one: in Python, in JSON or in the notation (1@0.5@4, the form of `example`).

    Raises ValueError for anything else.
    """
    if isinstance(value, str):
        try:
            return tuple(float(number) for number in value.split("@"))
        except ValueError:
            raise ValueError(f"{argument} must be numbers joined by '@' ({example}), got {value!r}") from None
    numbers = value if isinstance(value, list | tuple) else (value,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, Real):
            raise ValueError(f"{argument} must be a list of numbers, got {value!r}")
    try:
        return tuple(map(float, numbers))
    except OverflowError:
        raise ValueError(f"{argument} must be numbers that a float holds, and one has hundreds of digits") from None


def check_base(base: float) -> None:
    """Refuses a rotary or sinusoidal base that gives no spectrum."""
    require_number("base", base)
    if not (math.isfinite(base) and base > 1):
        raise ValueError(f"base must be a finite number above 1, got {base}; RoPE's is 10000")


def check_flag(argument: str, value: object) -> bool:
    """True or False, which the notation writes true and false. Raises ValueError for anything else."""
    found = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError(f"{argument} must be true or false, got {value!r}")
    return found


def require_number(argument: str, value: object) -> None:
    """Refuses what is not a real number (True is not one), or a whole one past what a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{argument} must be a number, got {value!r}")
    if isinstance(value, int) and value.bit_length() > 1000:
        raise ValueError(f"{argument} must be a number of at most 300 digits, got one of {len(str(abs(value)))}")


def require_positive(argument: str, value: object, unit: str) -> None:
    """Refuses what is not a finite number above 0; `unit` says in the message what it counts."""
    require_number(argument, value)
    if not 0 < value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{argument} must be finite and above 0 ({unit}), got {value}")


def require_positive_int(argument: str, value: object, hint: str = "") -> None:
    """Refuses what is not a whole number of at least 1, or is past what a float holds."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{argument} must be a whole number of at least 1, got {value!r}{hint}")
    require_number(argument, value)


def choices(argument: str, value: object, allowed: Sequence[str]) -> None:
    """Refuses a word that is not in `allowed`."""
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
