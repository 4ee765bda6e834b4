"""How a result is written as JSON and read back: frozen dataclasses whose fields say what a file must hold.

A field's name is its key (less a last underscore, as in `from_`). What stands in a file for a type:

    int, float, str, bool      themselves, whole numbers up to 64 bits; null for a float is a value that is not finite,
                               which JSON has none of: NaN
    X | None                   null
    tuple[X, ...]              a list
    dict[str, X], dict[int, X] an object
    a dataclass                an object of its fields
    Any                        what JSON says

A field that has its default is left out. One field of a class may take all keys that no other has:
`field(default_factory=dict, metadata=REST)`.

A file may have keys that a class does not know: they are passed over. Whoever adds one that a reader must know, or
changes what one means, raises the class's `schema`; a file of a higher one is refused. A file of a lower one (0 where
it says none, as those before there were schemas) goes through the class's `upgraded` first.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, KeysView
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from whorl.checking import shown
from whorl.files import read_json, write_json

SCHEMA = "schema"
REST = {"rest": True}
LARGEST = (1 << 64) - 1
T = TypeVar("T")
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


class Result:
    """A kind of result that is a file of its own. `schema` goes up with what its readers must know."""

    schema: ClassVar[int]

    def to_json(self) -> dict[str, Any]:
        return {SCHEMA: self.schema, **as_json(self)}

    @classmethod
    def from_json(cls, value: Any, where: str = "the result") -> Self:
        """The result of a JSON value; `where` says in errors what holds it, as a file's path.

        Raises ValueError for a schema that is newer than this, and, naming the key, for what has not the form.
        """
        if not isinstance(value, dict):
            raise ValueError(f"{where} is no {cls.__name__}: it holds {shown(value)}")
        found = value.get(SCHEMA, 0)
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise damaged(where, f"its {SCHEMA} must be a whole number, got {shown(found)}")
        if found > cls.schema:
            raise ValueError(
                f"{where} was written by a later version of whorl (schema {found}; this one reads up to {cls.schema}); "
                "install a newer whorl to read it"
            )
        if found < cls.schema:
            try:
                value = cls.upgraded(value, found)
            except (KeyError, TypeError, AttributeError) as error:
                raise damaged(where, f"it is no {cls.__name__} of schema {found} ({error!r})") from None
        return parsed(cls, value, where)

    @classmethod
    def upgraded(cls, value: dict[str, Any], schema: int) -> dict[str, Any]:
        """What a file of a lower schema says, in the words of this one. KeyError and TypeError: it is none."""
        return value

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ValueError that names the file, as `from_json` does."""
        return cls.from_json(read_json(path), str(path))


class Keyed(Result):
    """A result that is also read by key, as a dict is: `result["key"]`, `"key" in result`, `dict(result)`."""

    def by_key(self) -> dict[str, Any]:
        """What is found under which key: as JSON has it."""
        return self.to_json()

    def __getitem__(self, key: str) -> Any:
        return self.by_key()[key]

    def __contains__(self, key: object) -> bool:
        return key in self.by_key()

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_key())

    def keys(self) -> KeysView[str]:
        return self.by_key().keys()

    def get(self, key: str, default: Any = None) -> Any:
        return self.by_key().get(key, default)


def parsed(kind: type[T], value: Any, where: str = "the result") -> T:
    """A dataclass that is no file of its own. Raises ValueError, naming the key, for what has not its form."""
    try:
        return _read(kind, value, "")
    except _Wrong as error:
        raise damaged(where, str(error)) from None


def damaged(where: str, why: str) -> ValueError:
    """The error for a file that does not hold what it should."""
    return ValueError(f"{where} is damaged, {why}; restore it, or delete it")


def as_json(value: Any) -> Any:
    """A value of the types above as JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if not is_dataclass(value):
        return value
    found: dict[str, Any] = {}
    for own in fields(value):
        item = getattr(value, own.name)
        if own.metadata.get("rest"):
            found |= as_json(item)
        elif not _is_default(own, item):
            found[_key_of(own)] = as_json(item)
    return found


class _Wrong(Exception):
    """What a key holds is not of its form; the message names the key."""


def _object(kind: Any, value: dict[str, Any], at: str) -> Any:
    """The dataclass of an object, whose place in its file is `at`."""
    given, found = dict(value), {}
    types_of, own = _types(kind), fields(kind)
    for one in own:
        if one.metadata.get("rest"):
            continue
        name = _key_of(one)
        key = f"{at}.{name}" if at else name
        if name in given:
            found[one.name] = _read(types_of[one.name], given.pop(name), key)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise _Wrong(f"it has no {key}")
    for one in own:
        if one.metadata.get("rest"):
            given.pop(SCHEMA, None)
            found[one.name] = _read(types_of[one.name], given, at)
    try:
        return kind(**found)
    except ValueError as error:  # of a class's own checks
        raise _Wrong(f"{at or 'it'}: {error}") from error


def _read(kind: Any, value: Any, at: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, at)
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_read(arguments[0], item, f"{at}[{i}]") for i, item in enumerate(value))
        raise _Wrong(f"its {at} must be a list, got {shown(value)}")
    if origin is dict or is_dataclass(kind):
        if not isinstance(value, dict):
            raise _Wrong(f"{f'its {at}' if at else 'it'} must be an object, got {shown(value)}")
        if origin is not dict:
            return _object(kind, value, at)
        return {_key(arguments[0], k, at): _read(arguments[1], v, f"{at}.{k}".lstrip(".")) for k, v in value.items()}
    if kind is float and value is None:
        return math.nan
    if not _fits(kind, value):
        raise _Wrong(f"its {at} must be {KINDS[kind]}, got {shown(value)}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise _Wrong(f"its {at} must be {KINDS[kind]}, got a whole one of more than 64 bits")
    if kind is not float:
        return value
    return float(value) if math.isfinite(value) else math.nan


def _one_of(kinds: tuple[Any, ...], value: Any, at: str) -> Any:
    """The first of several types that a value fits; what the last one misses is said."""
    if value is None and types.NoneType in kinds:
        return None
    *others, last = (kind for kind in kinds if kind is not types.NoneType)
    for kind in others:
        try:
            return _read(kind, value, at)
        except _Wrong:
            continue
    return _read(last, value, at)


def _fits(kind: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _key(kind: Any, key: str, at: str) -> Any:
    if kind is not int:
        return key
    try:
        return int(key)
    except ValueError:
        raise _Wrong(f"its {at} has the key {key!r}, which is no whole number") from None


def _key_of(own: Field[Any]) -> str:
    return own.name.removesuffix("_")


def _is_default(own: Field[Any], value: Any) -> bool:
    if own.default_factory is not MISSING:
        return bool(value == own.default_factory())
    return own.default is not MISSING and (value is own.default or bool(value == own.default))


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
