"""What a runtime answers: whether it can say a model, how it is written, and what comes out when that is read.

`export` asks in this order, writes into a folder that has no name yet, and keeps it only if the check holds.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self


@dataclass(frozen=True)
class Written:
    """What a runtime has written: where, which encoding, and in words what became of the tokenizer.

    note: what whoever hands it on to another program has to know; empty where that is nothing.
    """

    folder: Path
    encoding: str
    tokenizer: str
    note: str = ""


@dataclass(frozen=True)
class Check:
    """What was read back and compared with the model, how far off it is, and how much of that rounding explains.

    compared: in words that go on with "differ by", as "loaded by stock transformers: logits".
    """

    compared: str
    off: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.off <= self.allowed

    def __str__(self) -> str:
        return f"{self.compared} differ by {self.off:.2g}; rounding explains up to {self.allowed:.2g}"


@dataclass(frozen=True)
class Runtime(ABC):
    """Base of every runtime. Subclasses are frozen dataclasses whose fields are the options of what they write.

    name    in `RUNTIMES`
    title   the program, for people
    extra   of whorl's extras, the one that it needs (`whorl.extras`), if any
    """

    name: ClassVar[str]
    title: ClassVar[str]
    extra: ClassVar[str | None] = None

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Self:
        """The runtime with these options. Raises ValueError for one that it does not have."""
        known = [field.name for field in dataclasses.fields(cls)]
        for option, value in options.items():
            if option not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise ValueError(f"the runtime {cls.name} has no option {option}={value!r}; {takes}")
        return cls(**options)

    @abstractmethod
    def refuse(self, model: Any) -> str | None:
        """Why the runtime cannot have this model, with what to try; None where it can. Writes nothing."""

    @abstractmethod
    def write(self, model: Any, folder: Path, tokenizer: Any) -> Written:
        """Writes the model, and its tokenizer where there is one, into an empty folder.

        Raises ValueError for what comes out only when every weight is seen.
        """

    @abstractmethod
    def check(self, model: Any, written: Written) -> Check:
        """Reads what was written as the runtime would and compares it with the model, which is left as it was.

        Raises ValueError where it cannot be compared at all.
        """
