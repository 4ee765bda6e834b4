"""Healing: SmolLM2 under each cut trained on, and the untouched model on the same tokens in the same order.

It is what `whorl convert --heal` does (`whorl.conversion.converting.train_on`), with one control for both cuts, and
losses by position instead of those of a window's last tokens. Trained weights are kept beside the stages' files.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reading import FILES, documents, load_model, losses
from safetensors.torch import load_file, save_file

import whorl
from whorl.conversion.converting import Healing, language, train_on
from whorl.data.windows import cut_windows, spread, window_ends
from whorl.files import write_atomically
from whorl.tasks.language import Language

HEALED = ("hope:train_length=8192", "rope", "p-rope:p=0.75")
"""In the order in which they are trained; rope is the control."""
HEALING = Healing(tokens=16 * 2048, train_length=2048, batch_size=1, learning_rate=2e-4, precision="bf16")
HEALED_WINDOWS = (4096, 8)
"""Tokens, and windows of each text, on which losses are taken before and after."""
HEALED_ROUND = 2  # windows that every model is measured on before the next ones
HEALED_EDGES = (1, 512, 1024, 2048, 3072, 4096)
"""Positions between which losses are means; training never saw one from 2,048 on."""


def healing_task(models: Path, out: Path, name: str) -> Language:
    """The code to heal on, with a tenth of its files held out. The source file that the standard library has `prose` in
    is left out: prose is held out whole."""
    path = out / "healed-on.jsonl"
    if not path.exists():
        prose = Path(pydoc_data.topics.__file__).read_text()
        kept = [json.dumps({"text": text}) for text in documents("code") if text != prose]
        write_atomically(path, "\n".join(kept).encode())
    return language(str(path), str(models / FILES[name]), HEALING.train_length, (HEALED_WINDOWS[0],), 1, 1024)


def heldout_windows(task: Language, first: int) -> torch.Tensor:
    """Disjoint windows of held-out files, evenly spread, with the token `first` in the place of each one's first."""
    length, count = HEALED_WINDOWS
    found = cut_windows(task.heldout, spread(window_ends(task.heldout, length, length), count), length)
    found[:, 0] = first
    return found


def healed_model(
    models: Path, out: Path, name: str, encoding: str, task: Language, update: Callable[[int, int], None]
) -> tuple[Any, dict[str, Any]]:
    """The model that was trained under an encoding, and its training; trained now where that is not done, from the
    newest checkpoint that a killed run left."""
    folder = out / f"healed-{name}-{encoding.partition(':')[0]}"
    weights, record = folder / "trained.safetensors", folder / "training.json"
    model = load_model(models, name)
    whorl.attach(model, encoding)
    trained = dict(model.named_parameters())
    if record.exists():
        with torch.no_grad():
            for key, tensor in load_file(weights).items():
                trained[key].copy_(tensor)
        return model.eval(), json.loads(record.read_text())
    start = time.perf_counter()
    curve = train_on(model, task, HEALING, folder / "checkpoints", update, [])
    seconds = time.perf_counter() - start  # of the last run alone, where one was killed
    save_file({key: tensor.detach() for key, tensor in trained.items()}, weights)
    found = {
        "tokens": HEALING.tokens,
        "steps": HEALING.recipe().steps,
        "learning_rate": HEALING.learning_rate,
        "batch_size": HEALING.batch_size,
        "train_length": HEALING.train_length,
        "precision": HEALING.precision,
        "seed": HEALING.seed,
        "seconds": round(seconds, 1),
        "loss": [round(step.loss, 4) for step in curve],
    }
    write_atomically(record, json.dumps(found).encode())
    return model.eval(), found


def by_span(model: Any, ids: torch.Tensor) -> np.ndarray[Any, Any]:
    """Mean losses between HEALED_EDGES, [windows, spans], of the model in bfloat16."""
    found = losses(model.to(torch.bfloat16), ids)
    return np.stack([found[:, a - 1 : b - 1].mean(1) for a, b in pairwise(HEALED_EDGES)], 1)
