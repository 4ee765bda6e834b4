"""What a stock rotary module holds: the frequencies of a layer type, and what cos and sin are multiplied by.

A module with one table for all layers has `inv_freq`, one with tables by layer type `full_attention_inv_freq`, ....
Where frequencies change with the length, `original_inv_freq` is what it was built with.
"""

from __future__ import annotations

from typing import Any

import torch

from whorl.encodings import Spectrum


def frequencies_of(rotary: Any, layer_type: str, name: str = "inv_freq") -> torch.Tensor | None:
    """The buffer of this name for a layer type, or of all; None where the module has none."""
    found = getattr(rotary, f"{_prefix(rotary, layer_type)}{name}", None)
    return found if isinstance(found, torch.Tensor) else None


def amplitude_of(rotary: Any, layer_type: str) -> float:
    """What the module multiplies cos and sin by."""
    return float(getattr(rotary, f"{_prefix(rotary, layer_type)}attention_scaling", 1.0))


def stock_width(rotary: Any, layer_type: str) -> int | None:
    """Channels in the pairs that a stock rotary module turns, whatever its frequencies are; None where it has none."""
    frequencies = frequencies_of(rotary, layer_type)
    return None if frequencies is None else 2 * len(frequencies)


def stock_spectrum(rotary: Any, layer_type: str, head_dim: int) -> Spectrum | None:
    """The spectrum that a stock rotary module has for a layer type, from its buffers; None where it has none.

    `head_dim` is the head's full width; the module's own may be less of it. Raises ValueError where they are no
    frequencies: NaN, infinite or below zero, as buffers are before they are filled.
    """
    frequencies, amplitude = frequencies_of(rotary, layer_type), amplitude_of(rotary, layer_type)
    if frequencies is None:
        return None
    if frequencies.device.type == "meta":
        frequencies = torch.ones_like(frequencies, device="cpu")
    values = tuple(frequencies.double().tolist())
    try:
        return Spectrum(values, max(head_dim, 2 * len(values)), amplitude)
    except ValueError as error:
        shown = ", ".join(f"{value:.3g}" for value in values[:4])
        raise ValueError(
            f"the {type(rotary).__name__} of this model holds {_prefix(rotary, layer_type)}inv_freq = {shown}, ... and "
            f"an amplitude of {amplitude:g}, and {error}; whorl.doctor(model), or `whorl doctor DIR`, says what they "
            "should be"
        ) from error


def positions_for(rotary: Any, positions: torch.Tensor) -> torch.Tensor:
    """Positions [batch, tokens] of a text as a rotary module takes them: that of M-RoPE, three times."""
    return positions.expand(3, -1, -1) if hasattr(rotary, "mrope_section") else positions


def axes_of_pairs(rotary: Any) -> tuple[int, ...]:
    """Which of three positions (time, row, column) each pair of channels goes by, asked of the rotary module's own code
    for putting together a table of those of each. Raises ValueError for sections that are not of these pairs."""
    pairs = rotary.inv_freq.shape[0]
    with torch.device("cpu"):
        numbers = torch.arange(3).view(3, 1, 1, 1).expand(3, 1, 1, pairs).clone()
        try:
            found = rotary.recomposition_frequencies(numbers).flatten()[:pairs].tolist()
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"mrope_section {rotary.mrope_section} does not share out the {pairs} pairs of channels that a head of "
                f"this {type(rotary).__name__} has among time, rows and columns"
            ) from error
    return tuple(found)


def _prefix(rotary: Any, layer_type: str) -> str:
    """What the names of a layer type's buffers begin with; nothing in a module with one table."""
    return f"{layer_type}_" if hasattr(rotary, f"{layer_type}_inv_freq") else ""
