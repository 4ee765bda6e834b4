"""The random numbers of a process are its owner's: what whorl seeds for itself, it puts back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def put_back() -> Iterator[None]:
    """Python's, numpy's and torch's global generators (of the devices in use) are afterwards as they were.

    A context, or a decorator: `@put_back()`.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
