"""What a rotary module does, held against what its config means, with one cause for a difference."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from whorl.diagnosis.meaning import FLOAT32, Sizes, Turning, meant, other_reading, precision, unscaled, unused
from whorl.hosts import OpenHost, head_dim_of
from whorl.hosts.transformers.messages import quiet
from whorl.hosts.transformers.rope_settings import by_layer_type, of_layers, rope_parameters, rope_type, turning_share
from whorl.hosts.transformers.rotary_module import amplitude_of, frequencies_of, positions_for

# The causes, from the most specific one: a difference is put down to the first that explains it.
UNINITIALISED = "uninitialised"
AMPLITUDE = "amplitude"
ROUNDED = "rounded"
MIXED = "mixed"
CHANGED = "changed"
PARTIAL_IGNORED = "partial ignored"
TYPES_IGNORED = "types ignored"
RAMP = "ramp"
IGNORED = "ignored"


@dataclass(frozen=True)
class Reading:
    """One layer type's rotation: what the module does, what it would do if built anew, what the settings mean.

    label    the layer type, or "" where one table serves all layers
    cause    "" when the module does what the settings mean
    note     what was found, in words with a number
    """

    label: str
    settings: dict[str, Any]
    sizes: Sizes
    done: Turning
    rebuilt: Turning | None
    meant: Turning | None
    cause: str
    note: str


def readings(host: OpenHost, config: Any) -> tuple[Reading, ...]:
    """One reading for every table that the rotary module has. Changes nothing that lasts."""
    indices: dict[str, int] = {}
    for index, layer_type in enumerate(host.layer_types):
        if host.turns[index] or host.typed:
            indices.setdefault(layer_type if host.typed else "", index)
    found = []
    for label, index in indices.items():
        settings = of_layers(config, host.layer_types[index], host.typed)
        if settings is None:
            continue  # this type is declared without rotary
        sizes = Sizes(head_dim_of(config, host.attentions[index]), getattr(config, "max_position_embeddings", 0) or 0)
        done, stored = measured(host.rotary, label)
        again, error = _rebuilt(host, config, label)
        meaning, nonsense = None, ""
        try:
            meaning = meant(settings, sizes)
        except ValueError as refused:
            nonsense = str(refused)
        nested = not host.typed and bool(by_layer_type(rope_parameters(config)))
        cause, note = _explained(settings, sizes, done, stored, again, meaning, nested, error)
        if nonsense and not cause:
            note = f"as stock code builds it from settings that no encoding says: {nonsense}"
        found.append(Reading(label, settings, sizes, done, again, meaning, cause, note))
    return tuple(found)


@torch.no_grad()
def measured(rotary: Any, label: str) -> tuple[Turning, torch.Tensor | None]:
    """What the module does between positions 0 and 1, and its buffer. A buffer without frequencies is not run."""
    stored, amplitude = frequencies_of(rotary, label), amplitude_of(rotary, label)
    if stored is not None and not usable(stored):
        values = np.full(stored.numel(), np.nan) if stored.is_meta else stored.double().cpu().numpy()
        return Turning(values, amplitude), stored
    if stored is not None and not stored.numel():  # as a partial_rotary_factor of 0 makes it
        return Turning(np.empty(0), amplitude), stored
    device = None if stored is None else stored.device
    x = torch.zeros(1, 2, 8, dtype=torch.float64, device=device)
    arguments = (label,) if label else ()
    with undisturbed(rotary):
        out = rotary(x, positions_for(rotary, torch.tensor([[0, 1]], device=device)), *arguments)
    if isinstance(out, torch.Tensor):  # complex: cos + i sin
        turned, first = out.angle(), out.abs()
    else:
        turned, first = torch.atan2(out[1].double(), out[0].double()), out[0].double()
    angles: np.ndarray = turned[0, 1].double().cpu().numpy()
    scale = float(first[0, 0].flatten()[0])
    half = len(angles) // 2
    if not isinstance(out, torch.Tensor) and (stored is None or len(angles) != stored.numel()):
        angles = angles[:half] if np.array_equal(angles[:half], angles[half:]) else angles[::2]
    return Turning(angles, scale), stored


def usable(frequencies: torch.Tensor) -> bool:
    """Whether these are frequencies: finite, not negative, no faster than half a turn per token."""
    if frequencies.is_meta:
        return False
    f = frequencies.double()
    return bool(torch.isfinite(f).all() and (f >= 0).all() and (f <= torch.pi).all())


def same(a: Turning, b: Turning, allowed: float) -> bool:
    """Whether two turn the same pairs by the same frequencies."""
    return len(a.frequencies) == len(b.frequencies) and off(a, b) <= allowed


def off(a: Turning, b: Turning) -> float:
    """The largest relative difference of a's frequencies from b's; infinite where they turn different pairs."""
    if len(a.frequencies) != len(b.frequencies) or ((a.frequencies == 0) != (b.frequencies == 0)).any():
        return float("inf")
    turning = b.frequencies != 0
    if not turning.any():
        return 0.0
    return float(np.abs(a.frequencies[turning] / b.frequencies[turning] - 1).max())


def _rebuilt(host: OpenHost, config: Any, label: str) -> tuple[Turning | None, str]:
    """What the family's own code makes of the config as it stands now, or the reason why it makes nothing."""
    try:
        with torch.device("cpu"), quiet():
            return measured(type(host.rotary)(copy.deepcopy(config)), label)[0], ""
    except Exception as error:  # whatever stock code raises, it would raise in a load
        return None, f"{type(error).__name__}: {error}"


def _explained(
    settings: dict[str, Any],
    sizes: Sizes,
    done: Turning,
    stored: torch.Tensor | None,
    again: Turning | None,
    meaning: Turning | None,
    nested: bool,
    error: str,
) -> tuple[str, str]:
    allowed = precision(settings, meaning)
    meant_so = meaning is not None and same(done, meaning, allowed)
    if not meant_so and _not_frequencies(done, stored, again if meaning is None else meaning):
        return UNINITIALISED, _shown(done)
    if meaning is None:
        if again is None:
            return CHANGED, f"no module can be built from the config as it stands ({error})"
        moved = off(done, again)
        return (CHANGED, _difference(done, again)) if moved > allowed else ("", f"rope type {rope_type(settings)!r}")
    if meant_so:
        if abs(done.amplitude - meaning.amplitude) > 4 * FLOAT32 * meaning.amplitude:
            return AMPLITUDE, f"cos and sin carry {done.amplitude:.6g}, and the settings give {meaning.amplitude:.6g}"
        if again is not None and unused(settings):
            return IGNORED, f"rope type {rope_type(settings)!r} does not use {', '.join(unused(settings))}"
        return "", f"frequencies off by a relative {off(done, meaning):.1e} (float32 allows {allowed:.1e})"
    dtype = _rounded_to(done, stored, meaning)
    if dtype is not None:
        turn = float(np.abs(done.frequencies - meaning.frequencies).max()) * sizes.max_position
        note = f"frequencies off by {off(done, meaning):.2%}, rounded to {dtype}: {turn:.2g} radians"
        return ROUNDED, f"{note} at position {sizes.max_position:,}"
    mixed = _mixed(settings, sizes, done, meaning, allowed)
    if mixed:
        return MIXED, mixed
    if again is None:
        return CHANGED, f"no module can be built from the config as it stands ({error})"
    if not same(done, again, allowed):
        return CHANGED, _difference(done, again)
    whole = {k: v for k, v in settings.items() if k != "partial_rotary_factor"}
    if nested:
        return TYPES_IGNORED, _difference(done, meaning)
    if rope_type(settings) == "yarn" and (side := _side(settings, sizes, meaning)):
        why = f"no pair lies on YaRN's ramp: its paper has all pairs {side}, and stock code turns the ramp around"
        return RAMP, f"{why}; {_difference(done, meaning)}"
    if turning_share(settings) < 1 and (plain := meant(whole, sizes)) is not None and same(done, plain, allowed):
        return PARTIAL_IGNORED, (
            f"{len(done.turning)} pairs turn, and partial_rotary_factor={turning_share(settings):g} means "
            f"{len(meaning.turning)}"
        )
    return IGNORED, _difference(done, meaning)


def _side(settings: dict[str, Any], sizes: Sizes, meaning: Turning) -> str:
    """What YaRN's settings do to all pairs alike, or nothing where they do not."""
    plain = meant(unscaled(settings), sizes)
    assert plain is not None  # the default type is known
    if same(plain, meaning, 4 * FLOAT32):
        return "kept"
    divided = np.allclose(plain.frequencies / meaning.frequencies, plain.frequencies[0] / meaning.frequencies[0])
    return "divided" if divided else ""


def _not_frequencies(done: Turning, stored: torch.Tensor | None, wanted: Turning | None) -> bool:
    """Whether what a module does is no rotation at all, as of a buffer that nobody has filled."""
    if stored is not None and not usable(stored):
        return True
    found = done.frequencies
    if len(found) < 2 or (wanted is not None and len(wanted.turning) == 0):
        return not np.isfinite(found).all()
    return bool((found == found[0]).all() and (wanted is None or (wanted.frequencies != wanted.frequencies[0]).any()))


def _rounded_to(done: Turning, stored: torch.Tensor | None, meaning: Turning) -> str | None:
    """The low precision whose rounding explains the difference."""
    if stored is None or len(done.frequencies) != len(meaning.frequencies):
        return None
    values, true = stored.double().cpu(), torch.from_numpy(meaning.frequencies)
    for dtype in (torch.bfloat16, torch.float16):
        finfo = torch.finfo(dtype)
        near = (values - true).abs() <= finfo.eps * true + finfo.smallest_normal * finfo.eps
        if near.all() and torch.equal(values.to(dtype).double(), values):
            return str(dtype).removeprefix("torch.")
    return None


def _mixed(settings: dict[str, Any], sizes: Sizes, done: Turning, meaning: Turning, allowed: float) -> str:
    """Words, when the module reads a share of the head in the other way than the settings say."""
    other = other_reading(settings, sizes)
    if other is None:
        return ""
    a, b = done.turning, other.turning
    says = "proportional" if rope_type(settings) == "proportional" else "partial"
    does = "partial" if says == "proportional" else "proportional"
    if len(a) == len(b) and len(a) > 1 and float(np.abs(a / b - 1).max()) <= allowed:
        slowest = f"slowest frequency {a.min():.3g}, and the settings mean {meaning.turning.min():.3g}"
        return f"the settings say {says} and the module does {does}: {slowest}"
    if says == "proportional" and len(done.frequencies) < len(meaning.frequencies) and len(a) == len(meaning.turning):
        pairs = f"{len(done.frequencies)} pairs, and proportional has {len(meaning.frequencies)}"
        return f"the pairs that do not rotate are missing, so that other channels turn together: {pairs}"
    return ""


def _shown(done: Turning) -> str:
    values = ", ".join(f"{f:.3g}" for f in done.frequencies[:3])
    return f"frequencies {values}, ... ({len(done.frequencies)} of them)"


def _difference(done: Turning, other: Turning) -> str:
    if len(done.frequencies) != len(other.frequencies):
        return f"the module turns {len(done.turning)} pairs, and the config means {len(other.turning)}"
    slow = f"slowest frequency {done.frequencies.min():.3g}, and the config means {other.frequencies.min():.3g}"
    return f"frequencies off by {off(done, other):.2%}: {slow}"


@contextmanager
def undisturbed(*modules: Any) -> Iterator[None]:
    """Rotary modules keep what the last length made of them; afterwards they are as they were."""
    kept = []
    for module in modules:
        buffers = {name: (b, b.clone()) for name, b in module._buffers.items() if b is not None}
        state = {k: v for k, v in module.__dict__.items() if not isinstance(v, dict)}
        kept.append((module, buffers, state))
    try:
        yield
    finally:
        for module, buffers, state in kept:
            for name in set(module.__dict__) - set(state):
                if not isinstance(module.__dict__[name], dict):
                    del module.__dict__[name]
            module.__dict__.update(state)
            for name, (buffer, values) in buffers.items():
                with torch.no_grad():
                    buffer.copy_(values)
                module._buffers[name] = buffer


@contextmanager
def rounded_angles(rotary: Any) -> Iterator[None]:
    """While open, each angle of the module's tables is off by 2^-24 of itself, to either side at random: as far as the
    product of a position and a frequency may be rounded in float32."""
    random = torch.Generator().manual_seed(0)

    def round_off(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tables: Any) -> Any:
        _, positions = (p for p in (*args, *kwargs.values()) if isinstance(p, torch.Tensor))  # the first: for a dtype
        ones = [torch.ones_like(p) if p is positions else p for p in args]
        unit = module.forward(*ones, **{k: torch.ones_like(p) if p is positions else p for k, p in kwargs.items()})
        per_token = unit.angle() if isinstance(unit, torch.Tensor) else torch.atan2(unit[1].double(), unit[0].double())
        signs = torch.randint(2, per_token.shape, generator=random).to(per_token.device) * 2 - 1
        of_tokens = positions if positions.dim() == 2 else positions[0]  # M-RoPE: the three are one in a text
        off = of_tokens.double()[..., None] * per_token.double() * 2**-24 * signs
        if isinstance(tables, torch.Tensor):
            return tables * torch.polar(torch.ones_like(off), off).to(tables.dtype)
        cos, sin = (table.double() for table in tables)
        moved = cos * off.cos() - sin * off.sin(), sin * off.cos() + cos * off.sin()
        return tuple(table.to(tables[0].dtype) for table in moved)

    handle = rotary.register_forward_hook(round_off, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
