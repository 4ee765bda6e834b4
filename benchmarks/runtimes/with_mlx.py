"""mlx-lm on the CPU."""

from pathlib import Path

import mlx.core as mx
from answering import answer, normalized
from mlx_lm.utils import load_model


def log_probabilities(model, ids, at):
    mx.set_default_device(mx.cpu)
    loaded, _ = load_model(Path(model))
    return normalized(loaded(mx.array([ids]))[0, mx.array(at)])


answer(log_probabilities)
