"""CTranslate2: its converter, then its generator."""

import tempfile
from pathlib import Path

import ctranslate2
import numpy as np
from answering import answer, normalized
from ctranslate2.converters import TransformersConverter


def log_probabilities(model, ids, at):
    with tempfile.TemporaryDirectory(dir=Path(model).parent) as folder:
        converted = TransformersConverter(model).convert(str(Path(folder) / "model"))
        generator = ctranslate2.Generator(converted, device="cpu", compute_type="float32")
        return normalized(np.asarray(generator.forward_batch([ids]))[0, at])


answer(log_probabilities)
