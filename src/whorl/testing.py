"""What a test of an encoding or a kernel needs: inputs, tiny models, and tolerances that are derived, not typed.

Public, so that others can test their own encodings the way whorl tests its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from whorl.hosts.transformers.tiny import OVERRIDES, SIZES, peaked, tiny_image_model, tiny_model
from whorl.numerics import logits_and_budget, max_error

__all__ = [
    "OVERRIDES",
    "SIZES",
    "error_budget",
    "logits_and_budget",
    "max_error",
    "peaked",
    "tiny_image_model",
    "tiny_model",
]


def error_budget(
    function: Callable[..., torch.Tensor], arguments: tuple[torch.Tensor, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, float]:
    """The float64 truth of `function(*arguments)` and the error that an implementation in `dtype` may have.

    The budget is twice the error that the same function makes in `dtype`, plus one rounding of the largest value: the
    tolerance rule of CONTRIBUTING.md.
    """
    truth = function(*(a.double() for a in arguments))
    same_precision = function(*(a.to(dtype) for a in arguments))
    rounding = torch.finfo(dtype).eps * float(truth.abs().max())
    return truth, 2 * max_error(same_precision, truth) + rounding
