"""How llama.cpp rotates q and k, and how a spectrum is said to it.

llama.cpp turns pair i of the first `width` channels by position x scale x base^(-2i/width) / factor_i, in float32. A
pair that does not rotate has the factor 1e30, as in llama.cpp's own Gemma 4, or is not among the first channels.

With factors, every spectrum can be said. Without them, those whose turning pairs are spaced evenly (each frequency the
one before times the same number): RoPE, HoPE, p-RoPE, partial rotary, PI and NTK are, in `width` channels with a base
of their own; no rotation is a scale of 1e-30. And YaRN of whole heads, by its name, with 32 turns and 1: the keys for
other numbers are read in graphs of other architectures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whorl.attaching.plan import layer_plan
from whorl.attaching.reading import encoding_of
from whorl.encodings import Encoding, Spectrum, Sum
from whorl.encodings.scaled import Scaled
from whorl.encodings.scalings.yarn import NTKByParts
from whorl.encodings.spectrum import rope_frequencies
from whorl.gguf_files.architectures import Architecture
from whorl.gguf_files.layout import head_order
from whorl.gguf_files.positions import LOCAL, SINGLE, STILL, frequencies_of, yarn_frequencies
from whorl.hosts import head_dim_of, known_of, open_host


@dataclass(frozen=True)
class Rotation:
    """The rotation of one kind of layers, as a file says it; base, scaling and factors are float32.

    width    channels that llama.cpp turns, from the first on
    order    for each channel of a head in the file, where it stood in the model
    scaling  by which all frequencies are divided (`rope.scaling.factor`), or under YaRN the slow ones
    original  under YaRN, the length before it (`rope.scaling.original_context_length`)
    factors  by which each is divided besides, one per pair of `width`; None where all are 1
    """

    base: float
    width: int
    order: tuple[int, ...]
    scaling: float = 1.0
    original: int | None = None
    factors: np.ndarray[Any, Any] | None = None

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Radians per token of each pair of the head, float64; those of the first `width` channels come first."""
        if self.original is not None:
            return yarn_frequencies(self.base, self.width, self.scaling, self.original)
        return frequencies_of(self.base, self.width, len(self.order), self.scaling, self.factors)

    @property
    def stands_still(self) -> bool:
        return not any(self.frequencies)


def wanted(spectrum: Spectrum, rotation: Rotation) -> tuple[float, ...]:
    """The frequencies that the file should say, in its order: those of the model's pairs."""
    pairs = len(spectrum.frequencies)
    said = [spectrum.frequencies[c] for c in rotation.order[: rotation.width] if c < pairs]
    return (*said, *(0.0,) * (spectrum.head_dim // 2 - len(said)))


def rotation_of(
    spectrum: Spectrum, architecture: Architecture, base: float, by_parts: NTKByParts | None = None
) -> Rotation | str:
    """The spectrum as this architecture has it, or why it cannot be said.

    base: what the model names; where factors are written any would do. by_parts: the scaling that made the spectrum.
    """
    head_dim, pairs, turning = spectrum.head_dim, len(spectrum.frequencies), spectrum.turning
    if architecture.factors:
        rotation = _with_factors(spectrum, architecture, float(np.float32(base)))
    elif not turning:
        still = float(np.float32(STILL))
        rotation = Rotation(float(np.float32(base)), head_dim, tuple(range(head_dim)), scaling=still)
    elif 2 * len(turning) < head_dim and not architecture.partial:
        return (
            f"turns {len(turning)} of {head_dim // 2} pairs, and {architecture.prose} turns all: it reads no "
            "rope_freqs.weight, and stops where rope.dimension_count is less than a head"
        )
    elif (scaled := _as_yarn(spectrum, architecture, base, by_parts)) is not None:
        rotation = scaled
    else:
        order = head_order(head_dim, pairs, turning, architecture.layout)
        fitted = _evenly([spectrum.frequencies[i] for i in turning], base ** (len(turning) / pairs))
        if fitted is None:
            return (
                f"has frequencies that are not spaced evenly, and {architecture.prose} reads no rope_freqs.weight, "
                f"which would say them{'' if architecture.local else '; of YaRN, it has that of 32 turns and 1'}"
            )
        rotation = Rotation(fitted[0], 2 * len(turning), order, scaling=fitted[1])
    if spectrum.amplitude != 1 and spectrum.width != rotation.width:
        return (
            f"scales {spectrum.width} of {head_dim} channels by {spectrum.amplitude:g}; rope.scaling.attn_factor "
            f"scales the {rotation.width} that llama.cpp turns"
        )
    return rotation


def _with_factors(spectrum: Spectrum, architecture: Architecture, base: float) -> Rotation:
    """Any spectrum: the base's own frequencies over the whole head, each divided."""
    head_dim, pairs = spectrum.head_dim, len(spectrum.frequencies)
    every = spectrum.frequencies + (0.0,) * (head_dim // 2 - pairs)
    own = rope_frequencies(base, head_dim)
    factors = np.array([min(f0 / f, STILL) if f > 0 else STILL for f0, f in zip(own, every, strict=True)])
    factors = factors.astype(np.float32)
    plain = bool(np.all(np.abs(factors - 1) <= 2**-23))  # a base that float32 cannot hold gives such
    in_pairs = pairs or head_dim // 2
    order = head_order(head_dim, in_pairs, range(in_pairs), architecture.layout)
    return Rotation(base, head_dim, order, factors=None if plain else factors)


def _as_yarn(
    spectrum: Spectrum, architecture: Architecture, base: float, by_parts: NTKByParts | None
) -> Rotation | None:
    """The spectrum by llama.cpp's own YaRN, where that is it. Layers with a window would be in the way: they have the
    amplitude of the file, and not that of YaRN."""
    if by_parts is None or by_parts.original is None or architecture.local or by_parts.factor == 1:
        return None
    head_dim, factor = spectrum.head_dim, float(np.float32(by_parts.factor))
    said = Rotation(
        float(np.float32(base)), head_dim, tuple(range(head_dim)), scaling=factor, original=int(by_parts.original)
    )
    same = len(said.frequencies) == len(spectrum.frequencies) and all(
        abs(a - b) <= SINGLE * b for a, b in zip(said.frequencies, spectrum.frequencies, strict=True)
    )
    return said if same else None


def _evenly(frequencies: list[float], named: float) -> tuple[float, float] | None:
    """(base, scaling) with which they are base^(-i/n) / scaling, n of them; None where none gives them.

    The base that the model names is tried first, then what the first and the last of them say.
    """
    count, first, last = len(frequencies), frequencies[0], frequencies[-1]
    bases = [named, *([(first / last) ** (count / (count - 1))] if count > 1 and last < first else [])]
    scaling = 1.0 if math.isclose(first, 1.0, rel_tol=SINGLE) else float(np.float32(1 / first))
    for base in (float(np.float32(one)) for one in bases):
        said = [f / scaling for f in rope_frequencies(base, 2 * count)]
        if all(abs(a - b) <= SINGLE * b for a, b in zip(said, frequencies, strict=True)):
            return base, scaling
    return None


@dataclass(frozen=True)
class Said:
    """A model's encoding as an architecture has it.

    rotations  by layer type; under "" the one of all layers, where the architecture knows no types
    kinds      of each layer, its key in `rotations`
    wanted     of each layer, the frequencies that the file should say, in the file's order of pairs
    """

    encoding: Encoding
    rotations: dict[str, Rotation]
    kinds: tuple[str, ...]
    wanted: tuple[tuple[float, ...], ...]
    amplitude: float

    @property
    def main(self) -> Rotation:
        """The one that `rope.freq_base` is of: of the layers without a window, where there are any."""
        return next(one for kind, one in sorted(self.rotations.items(), key=lambda item: item[0] == LOCAL))

    @property
    def place(self) -> str:
        """The entries that say the frequencies."""
        entries = ["rope.freq_base"]
        entries += ["rope.freq_base_swa"] if LOCAL in self.rotations else []
        entries += ["rope.dimension_count"] if self.main.width < len(self.main.order) else []
        entries += ["rope.scaling.factor"] if self.main.scaling != 1 else []
        entries += ["rope_freqs.weight"] if self.main.factors is not None else []
        return " and ".join(entries)


def said_of(model: Any, architecture: Architecture) -> Said | str:
    """How llama.cpp says the model's encoding, or why it cannot. Asks no weight.

    It rotates q and k, by one spectrum for all layers or by one per layer type, and positions go in nowhere else.
    """
    host, encoding, prose = open_host(model), encoding_of(model), architecture.prose
    each = [encoding.for_layer(index, layer_type) for index, layer_type in enumerate(host.layer_types)]
    for one in each:
        for part in one.parts if isinstance(one, Sum) else (one,):
            if getattr(part, "length_dependent", False):
                return f"the frequencies of {part} depend on the length of the context, and {prose} has one list"
    plan = layer_plan(host, encoding)
    if plan.add is not None:
        return f"{encoding} adds to the embedding, and {prose} rotates q and k and does nothing else"
    if any(seam.biases for seam in plan.layers):
        return f"{encoding} adds a bias to attention logits (a window is one), for which {prose} has no place"
    if any(seam.scales or seam.scores for seam in plan.layers):
        return f"{encoding} changes attention by lengths or content, for which {prose} has no place"
    kinds = tuple(layer_type if architecture.local else "" for layer_type in host.layer_types)
    rotations: dict[str, Rotation] = {}
    spectra: dict[str, Spectrum] = {}
    for kind in dict.fromkeys(kinds):
        where = f" in layers of type {kind}" if kind else ""
        mine = {seam.spectrum: i for i, (seam, own) in enumerate(zip(plan.layers, kinds, strict=True)) if own == kind}
        if len(mine) > 1:
            return f"{encoding} has layers with {len(mine)} spectra{where}, and {prose} has one for all of them"
        ((spectrum, index),) = mine.items()
        assert spectrum.head_dim == head_dim_of(model.config, host.attentions[index])
        base = _base(each[index]) or known_of(host, index).base or 10000.0
        rotation = rotation_of(spectrum, architecture, base, _by_parts(each[index]))
        if isinstance(rotation, str):
            return f"{encoding} {rotation}{where}"
        rotations[kind], spectra[kind] = rotation, spectrum
    if (reason := _apart(rotations, spectra, architecture)) is not None:
        return f"{encoding} {reason}"
    widths = {one.width for one in rotations.values() if not one.stands_still}
    if len(widths) == 1:  # what does not rotate does so at no width
        rotations = {
            kind: replace(one, width=min(widths)) if one.stands_still else one for kind, one in rotations.items()
        }
    wanted_of = {kind: wanted(spectra[kind], one) for kind, one in rotations.items()}
    return Said(encoding, rotations, kinds, tuple(wanted_of[kind] for kind in kinds), spectrum.amplitude)


def _apart(rotations: dict[str, Rotation], spectra: dict[str, Spectrum], architecture: Architecture) -> str | None:
    """What layers of one type have and those of another cannot have beside it, or None."""
    amplitudes = {kind: spectrum.amplitude for kind, spectrum in spectra.items()}
    if len(set(amplitudes.values())) > 1:
        told = " and ".join(f"{amplitude:g} ({kind})" for kind, amplitude in amplitudes.items())
        return f"scales heads by {told}, and rope.scaling.attn_factor is of all layers"
    if (local := rotations.get(LOCAL)) is not None and local.scaling != 1:
        does = "turns nothing" if local.stands_still else f"divides frequencies by {local.scaling:g}"
        return (
            f"{does} in layers of type {LOCAL}, for which {architecture.prose} has a base alone "
            "(rope.freq_base_swa); rope.scaling.factor is of the other layers"
        )
    turning = {kind: len(spectra[kind].turning) for kind, one in rotations.items() if not one.stands_still}
    if len(set(turning.values())) > 1:
        told = " and ".join(f"{count} pairs ({kind})" for kind, count in turning.items())
        return (
            f"turns {told}, and {architecture.prose} turns the same number in all layers (one rope.dimension_count, no "
            "rope_freqs.weight); it has p-rope with one p for all of them, and no rotation in the full layers"
        )
    return None


def _base(encoding: Encoding) -> float | None:
    """The base that an encoding of one layer names, if it does."""
    for one in getattr(encoding, "parts", ()) or (encoding,):
        base = getattr(getattr(one, "inner", one), "base", None)
        if isinstance(base, int | float):
            return float(base)
    return None


def _by_parts(encoding: Encoding) -> NTKByParts | None:
    """The scaling by parts (YaRN is one) that an encoding of one layer ends with, if it does."""
    for one in getattr(encoding, "parts", ()) or (encoding,):
        if isinstance(one, Scaled) and isinstance(last := one.settled[-1], NTKByParts):
            return last
    return None
