"""What `whorl inspect` finds: a summary of plain numbers (inspection.json) and arrays with named axes (inspection.npz).

Pairs are numbered from the fastest; wavelengths are in tokens per full turn, None where a pair does not rotate. Losses
and divergences are in nats, lengths and distances in tokens. docs/inspect.md defines every measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from whorl.results.added import Added, Factor, Gate
from whorl.results.measured import Array, Measured, short
from whorl.results.plan import Plan
from whorl.results.schema import Keyed

Protocol = Literal["text", "random"]


@dataclass(frozen=True)
class Model:
    """The model that was read; `windows` are its layers' sliding windows."""

    name: str
    type: str
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    parameters: int
    encoding: str
    windows: tuple[int | None, ...]


@dataclass(frozen=True)
class Settings:
    """`windows` of `length` tokens each were read, and random_windows of random tokens; text: None without a name."""

    length: int
    windows: int
    train_length: int
    random_windows: int
    seed: int
    text: str | None = None


@dataclass(frozen=True)
class LayerSpectrum:
    """How many pairs a layer has, turns, turns less than once within the training length; and what two cuts keep."""

    layer: int
    pairs: int
    turning: int
    never_full: int
    hope_cut: int
    p_rope_cut: int
    amplitude: float


@dataclass(frozen=True)
class Spectrum:
    """base, layout: None where the model has none."""

    base: float | None
    layout: str | None
    layers: tuple[LayerSpectrum, ...]

    def of(self, layer: int) -> LayerSpectrum | None:
        """That of a layer; None where it is not told."""
        return next((told for told in self.layers if told.layer == layer), None)


@dataclass(frozen=True)
class LayerRise:
    layer: int
    rise: float
    stderr: float | None
    near: float


@dataclass(frozen=True)
class PairRise:
    """A pair's part of the rise; of the curve's variance."""

    pair: int
    wavelength: float | None
    rise: float
    rise_share: float | None
    variance_share: float | None


@dataclass(frozen=True)
class Activated:
    """The pairs that make the U-shape, the shortest and longest of their wavelengths, their share of the rise."""

    pairs: tuple[int, ...]
    wavelengths: tuple[float, ...] | None
    share: float
    removed_by_hope: int


@dataclass(frozen=True)
class UShape:
    """Far and near end of the mean logit by distance above its middle; stderr: None for a single window.

    `activated` is None where there is no U-shape, and where no group of pairs is known that makes it.
    """

    appears: bool
    rise: float
    stderr: float | None
    near: float
    layers: tuple[LayerRise, ...]
    pairs: tuple[PairRise, ...]
    activated: Activated | None


@dataclass(frozen=True)
class UShapes:
    """On the inspected text and on random tokens; None where it was not measured."""

    text: UShape | None = None
    random: UShape | None = None

    def on(self, protocol: Protocol) -> UShape | None:
        return self.text if protocol == "text" else self.random


@dataclass(frozen=True)
class Head:
    """A positional head, and the mean attention that it pays to its place on the text and on random tokens.

    kind        previous-token, diagonal, offset or first-token
    offset      the distance of its place; None for the first token
    fast_share  the part of the fastest quarter of the pairs in the margin of its logit there
    bound       the mean logit there over that of Cauchy and Schwarz
    """

    layer: int
    head: int
    kind: str
    offset: int | None
    text: float
    random: float | None
    fast_share: float | None
    pairs: tuple[int, ...]
    bound: float | None


@dataclass(frozen=True)
class FirstToken:
    """A layer's mean attention on the first token."""

    layer: int
    text: float | None
    random: float | None


@dataclass(frozen=True)
class LayerDeparture:
    """The departures at each multiple; None where the layer's window hides the distances."""

    layer: int
    departure: tuple[float | None, ...]


@dataclass(frozen=True)
class PairDeparture:
    layer: int
    pair: int
    wavelength: float | None
    departure: tuple[float | None, ...]


@dataclass(frozen=True)
class FirstLayer:
    """The first layer that leaves its range: at which multiple of the training length, and by how much."""

    layer: int
    multiple: int
    departure: float


@dataclass(frozen=True)
class FirstPair:
    """The first pair that leaves its range."""

    layer: int
    pair: int
    wavelength: float | None
    multiple: int
    departure: float


@dataclass(frozen=True)
class OutOfRange:
    """Departures from the range of training at these multiples of its length, in standard deviations.

    pairs: the ten that depart most. first_pair, first_layer: None where nothing leaves its range.
    """

    multiples: tuple[int, ...]
    noise: float
    layers: tuple[LayerDeparture, ...]
    pairs: tuple[PairDeparture, ...]
    first_pair: FirstPair | None
    first_layer: FirstLayer | None

    def __post_init__(self) -> None:
        departed: list[LayerDeparture | PairDeparture] = [*self.layers, *self.pairs]
        for one in departed:
            if len(one.departure) != len(self.multiples):
                raise ValueError(
                    f"layer {one.layer} must have a departure at each of {len(self.multiples)} multiples, "
                    f"got {len(one.departure)}"
                )


@dataclass(frozen=True)
class Cut:
    """The losses with the pairs from `cut` on not rotating, and how much more they are than the untouched model's."""

    cut: int
    wavelength: float | None
    in_range: float
    in_range_change: float
    in_range_stderr: float | None
    past: float | None = None
    past_change: float | None = None
    past_stderr: float | None = None


@dataclass(frozen=True)
class Ablation:
    """The untouched losses in range and past it (None: the windows are no longer), and those of every cut."""

    in_range: float
    past: float | None
    past_length: int | None
    hope_cut: int
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class LengthDivergence:
    """Of every layer's attention, between two lengths."""

    train_length: int
    length: int
    layers: tuple[float | None, ...]


@dataclass(frozen=True)
class Divergence:
    """lengths: None for windows of the training length. models: by layer, between the two that stand side by side."""

    lengths: LengthDivergence | None = None
    models: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class Snapshot:
    """What a trial's weights showed after `step` steps of its training."""

    step: int
    u_shape: UShapes
    heads: tuple[Head, ...]


@dataclass(frozen=True)
class Summary(Keyed):
    """All numbers and settings of an inspection. A section that was not measured is None, and `absent` says why."""

    schema: ClassVar[int] = 1

    whorl: str
    created: str
    model: Model
    settings: Settings
    spectrum: Spectrum
    absent: dict[str, str]
    seconds: dict[str, float]
    machine: dict[str, Any]
    versions: dict[str, str]
    u_shape: UShapes = UShapes()
    heads: tuple[Head, ...] | None = None
    first_token: tuple[FirstToken, ...] | None = None
    out_of_range: OutOfRange | None = None
    ablation: Ablation | None = None
    divergence: Divergence | None = None
    training: tuple[Snapshot, ...] = ()
    plan: Plan | None = None
    added: tuple[Added, ...] | None = None
    gates: tuple[Gate, ...] | None = None
    factors: tuple[Factor, ...] | None = None


@dataclass(frozen=True, repr=False, eq=False)
class Inspection(Measured):
    """How a checkpoint uses positions. Arrays are float32, NaN where nothing was measured; None: not measured at all.

    `summary.absent` says why something is not there. Pairs are numbered from the fastest; distances are query
    position - key position, in tokens. Means over a distance leave the first token out as a key (see
    `inspection.measures.curves`). Ranges are `from` <= x < `to`. Raises ValueError for arrays that are not `AXES`'s.

    >>> inspection = whorl.inspect(model, ids, train_length=256)
    >>> inspection.axes("norm_q"), inspection.norm_q.shape
    (('layer', 'head', 'pair'), (4, 2, 32))
    >>> inspection.summary.u_shape.text.rise
    0.21
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {
        "distance_from": ("distance",),
        "distance_to": ("distance",),
        "coarse_from": ("coarse",),
        "coarse_to": ("coarse",),
        "position_from": ("position",),
        "position_to": ("position",),
        "wavelength": ("layer", "pair"),
        "norm_q": ("layer", "head", "pair"),
        "norm_k": ("layer", "key_head", "pair"),
        "norm_v": ("layer", "key_head", "pair"),
        "logit": ("layer", "head", "distance"),
        "logit_by_pair": ("layer", "head", "pair", "coarse"),
        "added": ("layer", "head", "distance"),
        "added_share": ("layer", "head", "distance"),
        "random_logit": ("layer", "head", "distance"),
        "random_logit_by_pair": ("layer", "pair", "coarse"),
        "attention": ("layer", "head", "distance"),
        "random_attention": ("layer", "head", "distance"),
        "entropy": ("layer", "head", "position"),
        "first_token": ("layer", "head", "position"),
        "key_distribution": ("layer", "head", "key"),
        "departure": ("layer", "multiple"),
        "departure_by_pair": ("layer", "pair", "multiple"),
    }
    BINNED: ClassVar[tuple[str, ...]] = ("distance", "coarse", "position")

    KEPT: ClassVar[type[Keyed]] = Summary

    summary: Summary
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        left = self.summary.out_of_range
        sizes = {axis: self._bins(axis) for axis in self.BINNED}
        sizes |= {"layer": self.summary.model.layers, "multiple": 0 if left is None else len(left.multiples)}
        self.check_arrays(sizes)

    def _bins(self, axis: str) -> int:
        found = [len(self.arrays.get(f"{axis}_{side}", ())) for side in ("from", "to")]
        if found[0] != found[1]:
            raise ValueError(f"the arrays {axis}_from and {axis}_to have {found[0]} and {found[1]} places")
        return found[0]

    @property
    def train_length(self) -> int:
        return self.summary.settings.train_length

    @property
    def reach(self) -> int:
        """L of docs/inspect.md, which near, middle and far go by: the training length, or the windows' if shorter."""
        return min(self.summary.settings.length, self.train_length)

    def bins(self, axis: str) -> tuple[Array, Array]:
        """Where the bins of the axis distance, coarse or position begin and end, float64."""
        start, stop = (self.arrays[f"{axis}_{side}"].astype(float) for side in ("from", "to"))
        return start, stop

    def records(self) -> list[dict[str, Any]]:
        """A row per layer: its spectrum, what it does on the text and on random tokens, and how far it leaves its range
        (departure_2x: at twice the training length)."""
        found = self.summary
        rows = {s.layer: {"model": self.name, **vars(s)} for s in found.spectrum.layers}

        def of(layer: int) -> dict[str, Any]:
            return rows.setdefault(layer, {"model": self.name, "layer": layer})  # one whose spectrum is not told

        for protocol, u in (("text", found.u_shape.text), ("random", found.u_shape.random)):
            for rise in u.layers if u is not None else ():
                of(rise.layer).update({f"rise_{protocol}": rise.rise, f"rise_{protocol}_stderr": rise.stderr})
        for first in found.first_token or ():
            of(first.layer).update({"first_token_text": first.text, "first_token_random": first.random})
        for index in sorted({one.layer for one in found.added or ()}):
            of_heads = [one for one in found.added or () if one.layer == index]
            of(index)["added_moves"] = sum(one.moved for one in of_heads) / len(of_heads)
            of(index)["added_share"] = sum(one.share for one in of_heads) / len(of_heads)
        for head in found.heads or ():
            of(head.layer)
        for layer, row in rows.items():
            if found.heads is not None:
                row["positional_heads"] = sum(head.layer == layer for head in found.heads)
        if found.out_of_range is not None:
            for left in found.out_of_range.layers:
                at = zip(found.out_of_range.multiples, left.departure, strict=True)
                of(left.layer).update({f"departure_{m}x": departure for m, departure in at})
        return [rows[layer] for layer in sorted(rows)]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """A row per layer, of what `records` has of it: its positional heads, rises and departures."""
        columns = {
            "layer": "layer", "turning": "turning", "positional_heads": "positional heads", "rise_text": "rise",
            "rise_random": "on random tokens", "first_token_text": "first token", "departure_2x": "departure at 2x",
        }  # fmt: skip
        records = self.records()
        shown = [key for key in columns if any(row.get(key) is not None for row in records)]
        cells = [[short(row.get(key)) for key in shown] for row in records]
        return [columns[key] for key in shown], cells
