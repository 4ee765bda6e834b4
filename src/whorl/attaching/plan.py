"""What each layer of a host will do under an encoding: worked out, and refused, before the model is touched."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from whorl.attaching.fitting import (
    check_added,
    check_axis,
    check_grid,
    check_in_interface,
    check_repositions,
    check_score,
    form_on_grids,
)
from whorl.attaching.off_grid import fit_to_grid
from whorl.attaching.parallel import heads_here, heads_share, is_here, refuse_shares
from whorl.attaching.seams import LayerSeam, Term
from whorl.attaching.turns import rebound
from whorl.encodings import Encoding, Layers, Scaled, Spectrum
from whorl.encodings.effects import Add, Bias, Effect, Reposition, Rotate, Scale, Score, Shape
from whorl.encodings.grid import PLACES
from whorl.encodings.learned import PositionTable
from whorl.encodings.scores import ScoreModule
from whorl.encodings.window import Window
from whorl.hosts import Host
from whorl.hosts.transformers import compat
from whorl.ops.axes import axis_of


@dataclass
class Plan:
    """What each layer will do. Everything that can go wrong is worked out here, before the model is touched."""

    spectra: dict[str | None, list[Spectrum]]  # distinct ones, by layer type where the rotary module goes by type
    layers: list[LayerSeam]
    add: nn.Module | None
    modules: list[nn.Module]
    needs_interface: bool
    does: tuple[Any, ...]  # by layer: what turns it, and the encodings besides. Equal where encodings do the same

    @property
    def places(self) -> bool:
        """Whether anything goes by positions: in a model without a causal mask, they alone tell any order."""
        return self.add is not None or any(s.spectrum.turning or s.biases or s.scores for s in self.layers)

    def unseen(self, axes: int) -> list[int]:
        """Which of so many axes of a position nothing goes by."""
        seen: set[int] = set(range(axes)) if getattr(self.add, "axis", None) == "grid" else set()
        for layer in self.layers:
            seen |= {axis for along in layer.spectrum.by_axis for axis, frequency in enumerate(along) if frequency}
            for module in (*layer.biases, *layer.scores):
                axis = axis_of(module, axes)
                seen |= {axis} if isinstance(axis, int) else set(range(axes)) if axis == "all" else set()
        return sorted({*range(axes)} - seen)


@dataclass
class Placed:
    """The effects on one layer, each at its place: this is where effects are told apart, and nowhere else."""

    spectrum: Spectrum
    scaled: Scaled | None = None
    biases: list[nn.Module] = field(default_factory=list)
    add: nn.Module | None = None
    scales: list[nn.Module] = field(default_factory=list)
    scores: list[ScoreModule] = field(default_factory=list)
    reposition: nn.Module | None = None  # what all the others see positions through

    def place(self, effect: Effect, part: Encoding, host: Host, index: int) -> None:
        """Takes in an effect of `part` on a layer. Raises ValueError where the host has no place for it."""
        if (why := host.refuses(effect)) is not None:
            raise ValueError(f"{part} {why}")
        match effect:
            case Rotate():
                _check_axes(effect.spectrum, part, host)
                self.spectrum = effect.spectrum
                self.scaled = part if isinstance(part, Scaled) and part.length_dependent else None
            case Bias():
                check_axis(effect.module, part, host)
                self.biases.append(effect.module)
            case Add():
                check_added(effect.module, part, host)
                self.add = effect.module
            case Scale():
                check_in_interface(part, host)
                check_axis(effect.module, part, host)
                self.scales.append(effect.module)
            case Score():
                check_score(effect.module, part, host, index)
                self.scores.append(effect.module)
            case Reposition():
                self.reposition = effect.module
            case _:
                raise ValueError(
                    f"{part} has the effect {type(effect).__name__}, and {type(host.model).__name__} has no place for "
                    "one; it takes those that `whorl.encodings.effects` names"
                )


def layer_plan(host: Host, encoding: Encoding, seed: int = 0) -> Plan:
    """What each layer of a host will do under an encoding. Raises ValueError where it cannot; touches nothing.

    seed: of what the encoding draws at random to start from, in each layer by itself.
    """
    by_type: dict[str | None, list[Spectrum]] = {}
    seams: list[LayerSeam] = []
    does: list[tuple[Any, ...]] = []
    modules: list[nn.Module] = []
    add: nn.Module | None = None
    shared: dict[Any, tuple[Any, ...]] = {}
    repositions: list[nn.Module | None] = []
    for index, shape in enumerate(host.shapes):
        of_layer = encoding.for_layer(index, host.layer_types[index])
        placed = Placed(Spectrum((), shape.head_dim))
        made: list[Term] = []
        # A layer that the host declares position-free stays so, unless it is named.
        still = host.rotary is not None and not host.turns[index] and not isinstance(encoding, Layers)
        terms = getattr(of_layer, "parts", (of_layer,)) if still else of_layer.terms
        for part in terms:
            if _window_is_the_hosts(host, index, part):
                continue
            if still and "rotate" in part.kinds:
                continue
            check_grid(part, host)
            # Most modules depend on the heads and the width, and layers of another head dim share them.
            by_head_dim = {"rotate", "score"} & set(part.kinds)
            sizes = shape if by_head_dim else replace(shape, head_dim=0, channels=0)
            key = (part, None if "positions" in part.kinds else sizes)
            effects = shared.get(key)
            if effects is None:
                effects = part.effects(replace(shape, layer=index, seed=seed, axes=host.axes))
                modules += [module for effect in effects for module in effect.modules]
                if all(effect.shared for effect in effects):
                    shared[key] = effects
            made.append((part, tuple(module for effect in effects for module in effect.modules)))
            for effect in effects:
                placed.place(effect, part, host, index)
        spectrum, scaled, biases = placed.spectrum, placed.scaled, placed.biases
        add = add if placed.add is None else placed.add
        repositions.append(placed.reposition)
        if scaled is not None:
            _check_by_length(host, index, scaled)
        late = scaled is not None or (not host.turns[index] and bool(spectrum.turning))
        by_host = not late or host.patches is not None  # tables of images are made once, wherever layers turn
        early = spectrum if by_host else Spectrum((), shape.head_dim)
        if host.pair_axes and early.frequencies:
            early = replace(early, axes=host.pair_axes[: len(early.frequencies)])
        spectra = by_type.setdefault(host.layer_types[index] if host.typed else None, [])
        if early not in spectra:
            spectra.append(early)
        others = (p for p in terms if _more_than_a_spectrum(p, shape))
        turns = spectrum if spectrum.turning or spectrum.amplitude != 1 else None
        does.append((turns, scaled, *(p for p in others if not _window_is_the_hosts(host, index, p))))
        rotation = host.rotation
        seams.append(
            LayerSeam(
                index=index,
                encoding=of_layer,
                terms=tuple(made),
                table=spectra.index(early),
                spectrum=spectrum,
                scaled=scaled,
                late=late,
                layout=shape.layout,
                call="pair" if rotation is None else rotation.call,
                biases=tuple(biases),
                scales=tuple(placed.scales),
                scores=tuple(placed.scores),
                in_mask=bool(biases) and host.biases == "mask",
                in_interface=False,
                impl="auto",
                attention="auto",
                forward=rebound(host, index),
                calls=host.calls,
                bidirectional=shape.bidirectional,
            )
        )
    own_table = host.embed if host.position_table is None else host.position_table
    with compat.brought(None if add is None else own_table):
        if isinstance(add, PositionTable) and host.table_vectors is not None:
            _start_from_the_hosts_table(add, host.table_vectors)
        if host.reads_images:
            fit_to_grid(host, add, seams)
    _check_shared_keys(host, seams)
    _check_shared_modules(host, seams)
    share = heads_share(host.model)
    for seam, attention, shape in zip(seams, host.attentions, host.shapes, strict=True):
        if share is not None and seam.biases:
            seam.biases = heads_here(seam.biases, attention, shape.heads, share, encoding)
        if share is not None and (seam.scales or seam.scores):
            refuse_shares(attention, share, encoding)
    needs_interface = any((s.biases and not s.in_mask) or s.late or s.scales or s.scores for s in seams)
    for seam in seams:
        seam.in_interface = needs_interface
    check_repositions(host, encoding, repositions, any(seam.scaled is not None for seam in seams))
    return Plan(by_type, seams, add, modules, needs_interface, tuple(does))


def _check_shared_modules(host: Host, seams: list[LayerSeam]) -> None:
    """Raises ValueError where layers that have one attention module between them would have encodings of their own."""
    first: dict[int, LayerSeam] = {}
    for seam, attention in zip(seams, host.attentions, strict=True):
        other = first.setdefault(id(attention), seam)
        own, its = ([p for _, ms in one.terms for m in ms for p in m.parameters()] for one in (seam, other))
        if seam.encoding != other.encoding or [*map(id, own)] != [*map(id, its)]:
            raise ValueError(
                f"layers {other.index} and {seam.index} of this {type(host.model).__name__} are one attention module, "
                f"which {other.encoding} and {seam.encoding} cannot both have, each with what it learns; give these "
                "layers one encoding that learns nothing of its own in each (rope, hope, alibi, t5), or copies of the "
                "module"
            )


def _more_than_a_spectrum(part: Encoding, shape: Shape) -> bool:
    """Whether an encoding does anything that its spectrum does not say: it may turn by angles that are learned."""
    return bool(set(part.kinds) - {"rotate"}) or ("rotate" in part.kinds and part.spectrum(shape.head_dim) is None)


def _check_axes(spectrum: Spectrum, part: Encoding, host: Host) -> None:
    """Raises ValueError where this host's positions lack an axis that a pair goes by, and where they have several and
    the spectrum does not say by which."""
    if host.axes > 1 and spectrum.turning and not (spectrum.axes or spectrum.vectors):
        found = form_on_grids(part) if host.reads_images else "frequencies:values=1@0.5,axes=0@1"
        raise ValueError(
            f"{part} turns pairs by positions of one axis, and a position in {type(host.model).__name__} has "
            f"{host.axes}; attach an encoding that says which axis each pair goes by, as {found}"
        )
    if host.pair_axes and (spectrum.axes or spectrum.vectors):
        raise ValueError(
            f"{part} says which axis of a position each pair goes by, and in {host.named} mrope_section does; try one "
            "that says frequencies alone (rope, hope, p-rope)"
        )
    if host.packed and spectrum.number_of_axes > host.axes:
        raise ValueError(
            f"{part} goes by where a patch stands between the ends of its image, and {host.named} tells its layers "
            "rows and columns alone; try one that goes by these, as axial-rope:order=ij without a scale"
        )
    if spectrum.number_of_axes > (host.axes if host.patches is None else PLACES):
        raise ValueError(
            f"{part} turns pairs by {spectrum.number_of_axes} axes of a position, and a position in "
            f"{type(host.model).__name__} has {host.axes}; attach an encoding whose pairs go by "
            f"{'axis 0' if host.axes == 1 else f'the first {host.axes} axes'}"
        )


def _window_is_the_hosts(host: Host, index: int, window: Encoding) -> bool:
    """Whether it is a window that the host has already. Raises ValueError for one that is wider than its own."""
    if not isinstance(window, Window):
        return False
    own = host.windows[index]
    if own is not None and window.size > own:
        raise ValueError(
            f"layer {index} of {type(host.model).__name__} hides keys at distances of {own} or more by itself "
            f"(config.sliding_window), so window:size={window.size} would see no more; "
            "leave the window out, or build the model with a wider one"
        )
    return window.size == own


def _check_by_length(host: Host, index: int, scaled: Scaled) -> None:
    """Raises ValueError where a layer cannot have a spectrum that depends on the length of the context."""
    shape, name = host.shapes[index], type(host.model).__name__
    spectrum = scaled.spectrum_at(shape.head_dim, 1)  # says what is missing
    fixed = f"try a scaling that is the same at every length, as {scaled.inner}~ntk:factor=4"
    if host.axes > 1 or host.pair_axes:
        raise ValueError(
            f"{scaled} goes by the number of tokens up to a query's own, and positions in {name} have "
            f"{3 if host.pair_axes else host.axes} axes and count none; {fixed}"
        )
    if shape.bidirectional:
        raise ValueError(
            f"{scaled} goes by the tokens up to a query's own, and {name} attends in both directions; {fixed}"
        )
    if host.biases == "mask":
        raise ValueError(
            f"{scaled} depends on the length, so q and k must be turned in transformers' attention interface, which "
            f"{name} does not use; {fixed}"
        )
    # One without weights keeps its hands off the angles, and takes an amplitude away again.
    if any(spectrum.amplitude != 1 or any(True for _ in m.parameters()) for m in host.normalised_after(index)):
        raise ValueError(
            f"{scaled} depends on the length, so q and k must be turned last of all, and layer {index} of {name} "
            f"normalises them after its own rotation; {fixed}"
        )


def _check_shared_keys(host: Host, seams: list[LayerSeam]) -> None:
    """A layer that reuses the keys of an earlier one (Gemma 4) must turn its queries as that one turned its keys."""
    keys: dict[str, int] = {}
    for index, layer_type in enumerate(host.layer_types):
        if not host.reuses_keys(index):
            keys[layer_type] = index
        elif _turning(seams[index]) != _turning(seams[keys[layer_type]]):
            raise ValueError(
                f"layer {index} of {type(host.model).__name__} reuses the keys of layer {keys[layer_type]} "
                "(num_kv_shared_layers), so both must turn alike; give layers of one type the same rotary encoding"
            )


def _turning(seam: LayerSeam) -> tuple[Any, ...]:
    return seam.spectrum, seam.scaled, seam.late


@torch.no_grad()
def _start_from_the_hosts_table(table: PositionTable, rows: torch.Tensor) -> None:
    if not is_here(rows) or rows.shape[-1] != table.weight.shape[-1]:
        return
    count = min(len(rows), len(table.weight))
    table.weight[:count] = rows[:count].to(table.weight)
