"""The header of a GGUF file (versions 2 and 3, little-endian): keys with their values, and a table of tensors.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The gguf package reads it too, in 20 seconds for a vocabulary
of 262,144 tokens, where this takes one.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ALIGNMENT = 32  # bytes, unless general.alignment says otherwise
MODEL_FILES = ("config.json", "adapter_config.json", "result.json", "*.safetensors", "*.bin")


@dataclass(frozen=True)
class Stored:
    """A tensor of the file: its shape as torch has it, its ggml type, and the byte at which it begins."""

    shape: tuple[int, ...]
    kind: int
    at: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself: every key with its value, and its tensors by name."""

    path: Path
    said: dict[str, Any]
    tensors: dict[str, Stored]

    @property
    def architecture(self) -> str:
        return str(self.said["general.architecture"])

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture, as `get("context_length")` for `llama.context_length`."""
        return self.said.get(f"{self.architecture}.{key}", default)


def gguf_at(where: Any) -> Path | None:
    """The GGUF file that a name means: the file itself, or the one in a folder that holds no other model. Else None.

    Raises ValueError for a folder that holds several and no other model, and for a file of that kind that is not there.
    """
    path = Path(str(where))
    if path.suffix.lower() == ".gguf" and not path.exists():
        raise ValueError(f"there is no file {path}")
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" or _begins(path) == MAGIC else None
    if not path.is_dir() or any(any(path.glob(pattern)) for pattern in MODEL_FILES):
        return None
    found = sorted(p for p in path.iterdir() if p.suffix.lower() == ".gguf" and p.is_file())
    if len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} GGUF files: name one, {' or '.join(map(str, found))}")
    return found[0] if found else None


def read_header(path: Path) -> Header:
    """Raises ValueError for what is no whole GGUF file of a version that is known."""
    try:
        if not path.stat().st_size:
            raise ValueError(f"cannot read {path}: it is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parsed(path, data)
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise ValueError(f"cannot read {path}: its header ends early or is damaged ({error})") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC))
    except OSError:
        return b""


def _parsed(path: Path, data: Any) -> Header:
    if data[:4] != MAGIC:
        raise ValueError(f"cannot read {path}: it does not begin with the letters GGUF")
    place = _Place(data, 4)
    (version,) = place.numbers("I")
    if version not in VERSIONS:
        raise ValueError(f"cannot read {path}: GGUF version {version}; little-endian files of version 2 and 3 are read")
    tensor_count, key_count = place.numbers("QQ")
    said: dict[str, Any] = {}
    for _ in range(key_count):
        key = place.string()
        said[key] = place.value(*place.numbers("I"))
    table = {}
    for _ in range(tensor_count):
        name = place.string()
        (dimensions,) = place.numbers("I")
        shape = place.numbers(f"{dimensions}Q")  # innermost first
        kind, offset = place.numbers("IQ")
        table[name] = (tuple(reversed(shape)), kind, offset)
    if not isinstance(said.get("general.architecture"), str):
        raise ValueError(f"cannot read {path}: it does not say general.architecture")
    if said.get("split.count", 1) > 1:
        raise ValueError(f"{path} is one of {said['split.count']} parts; join them with llama-gguf-split --merge first")
    step = said.get("general.alignment", ALIGNMENT)
    start = -(-place.at // step) * step
    tensors = {n: Stored(shape, kind, start + offset) for n, (shape, kind, offset) in table.items()}
    for name, tensor in tensors.items():  # of the last, `read_tensor` knows how long it is
        if tensor.at > len(data):
            raise ValueError(f"{path} ends before {name} does: it is not whole")
    return Header(path, said, tensors)


class _Place:
    """A place in the file, which moves on with everything that is read."""

    def __init__(self, data: Any, at: int) -> None:
        self.data, self.at = data, at

    def numbers(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{form}")
        if self.at + size > len(self.data):
            raise struct.error(f"{size} bytes more at byte {self.at} of {len(self.data)}")
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += size
        return found

    def string(self) -> str:
        (length,) = self.numbers("Q")
        text = self.data[self.at : self.at + length]
        if len(text) != length:
            raise struct.error(f"a text of {length} bytes at byte {self.at}")
        self.at += length
        return text.decode("utf-8")

    def value(self, kind: int) -> Any:
        """A number, a text or a list of either."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, count = self.numbers("IQ")
            if inner in NUMBERS:
                return list(self.numbers(f"{count}{NUMBERS[inner]}"))
            read: Callable[[], Any] = self.string if inner == STRING else lambda: self.value(inner)
            return [read() for _ in range(count)]
        if kind not in NUMBERS:
            raise struct.error(f"a value of the unknown type {kind}")
        return self.numbers(NUMBERS[kind])[0]
