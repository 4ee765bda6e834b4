"""Checks of image models: do they know where patches stand, in images of every size and shape?"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from whorl.attaching import attached, encoding_of, seams_of
from whorl.diagnosis.answers import Answer, Check, NotApplicable, judged
from whorl.encodings import Encoding
from whorl.encodings.grid import X, Y
from whorl.finite import not_finite
from whorl.hosts import Host, host_of
from whorl.hosts.timm import opening as timm
from whorl.hosts.transformers import images, packed
from whorl.hosts.transformers.packed import PackedHost
from whorl.numerics import allowance, max_error, too_large_to_copy
from whorl.results.diagnosis import WARN

OF_PIXELS = nn.Conv2d, nn.Conv3d


def image_host(model: Any) -> Host | None:
    """The host of an image model that whorl knows; None for any other."""
    return host_of(model) if images.has(model) or packed.has(model) or timm.has(model) else None


@dataclass
class ImageSubject:
    """An image model under examination, and what it makes of images of random patches, in float32 or better."""

    host: Host
    name: str = ""

    @cached_property
    def encoding(self) -> Encoding | str:
        """What it has; in words where no encoding says it. Raises NotApplicable where it is nothing."""
        try:
            found = encoding_of(self.host.model)
        except ValueError:  # of a stock model's own positions
            return "positions of its own"
        kinds = {kind for i, t in enumerate(self.host.layer_types) for kind in found.for_layer(i, t).kinds}
        if not kinds - {"scale"}:  # which counts tokens
            raise NotApplicable("it has no encoding, and takes an image for a bag of patches")
        return found

    @property
    def step(self) -> int:
        """Rows and columns of images are multiples of it."""
        return 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image of its own size."""
        assert self.host.patches is not None
        return self.host.patches.trained.height, self.host.patches.trained.width

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch in pixels. Raises NotApplicable where they overlap in an image."""
        patches = self.host.patches
        assert patches is not None
        if patches.size != patches.step:
            raise NotApplicable(f"its patches of {patches.size[0]} pixels lie {patches.step[0]} pixels apart")
        return patches.size

    def patches(self, number: int) -> torch.Tensor:
        """Random ones, float32 [number, channels, height, width]. Raises NotApplicable where they overlap in images."""
        channels = next((m.in_channels for m in self.host.base.modules() if isinstance(m, OF_PIXELS)), 3)
        return torch.randn(number, channels, *self.patch, generator=torch.Generator().manual_seed(0))

    def states(self, patches: torch.Tensor, rows: int) -> torch.Tensor:
        """The last hidden states [patches, width] of an image that has these patches in so many rows, row by row.
        Raises NotApplicable where the model does not run, or takes no such image ("runs" and "sizes" tell)."""
        if isinstance(self.first_run, Exception):
            raise NotApplicable("the model does not run")
        try:
            return self.run(self.twin, patches, rows)
        except Exception as error:  # of stock code
            raise NotApplicable(f"the model takes no images of {rows} x {len(patches) // rows} patches") from error

    def run(self, model: Any, patches: torch.Tensor, rows: int, resampled: bool = True) -> torch.Tensor:
        """The same of any copy. resampled: a stock model is told to resample its vectors, where it asks to be told."""
        grid = patches.unflatten(0, (rows, -1)).to(next(model.parameters()))
        pixels = grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)[None]
        with torch.no_grad():
            found = host_of(model).hidden_of(pixels, resampled)
        return found[0, -len(patches) :].float() if found.dtype != torch.float64 else found[0, -len(patches) :]

    @cached_property
    def twin(self) -> Any:
        """The model in float32 or better. Raises NotApplicable where copies do not fit into memory."""
        model = self.host.model
        half = torch.finfo(next(model.parameters()).dtype).bits < 32
        if too_large := too_large_to_copy(model, 12 if half else 8):
            raise NotApplicable(too_large)
        return copy.deepcopy(model).float() if half else model

    @cached_property
    def first_run(self) -> torch.Tensor | Exception:
        """What it makes of an image of its own size, or what it raised."""
        try:
            return self.run(self.twin, self.patches(math.prod(self.grid)), self.grid[0], resampled=False)
        except NotApplicable:
            raise
        except Exception as error:  # of stock code, and the very thing that is asked about
            return error

    @cached_property
    def allowed(self) -> float:
        """How far two ways to the same states may be apart."""
        own = self.patches(math.prod(self.grid)), self.grid[0]
        return allowance(self.states(*own), self.run(copy.deepcopy(self.twin).double(), *own))


@dataclass
class TowerSubject(ImageSubject):
    """A tower that reads images of any sizes packed in one row: it has no size of its own."""

    host: PackedHost

    @property
    def step(self) -> int:
        return self.host.merged

    @property
    def grid(self) -> tuple[int, int]:
        return 4 * self.step, 6 * self.step

    @property
    def patch(self) -> tuple[int, int]:
        return (self.host.model.patch_embed.patch_size,) * 2

    def run(self, model: Any, patches: torch.Tensor, rows: int, resampled: bool = True) -> torch.Tensor:
        """With layers that see windows alone (Qwen2.5-VL's) seeing the whole image: windows tell patches apart too, and
        hide that nothing else does."""
        of_whole_images = vars(model).get("fullatt_block_indexes")
        if of_whole_images is None:
            return super().run(model, patches, rows, resampled)
        model.fullatt_block_indexes = range(len(self.host.attentions))
        try:
            return super().run(model, patches, rows, resampled)
        finally:
            model.fullatt_block_indexes = of_whole_images


def subject_of(host: Host, name: str) -> ImageSubject:
    return TowerSubject(host, name) if isinstance(host, PackedHost) else ImageSubject(host, name)


def runs(subject: ImageSubject) -> Answer:
    if lost := not_finite(subject.host.model):
        return judged(False, f"not finite: {', '.join(lost)}")
    found = subject.first_run
    if isinstance(found, Exception):
        return judged(False, f"raised {type(found).__name__}: {' '.join(str(found).split())}")
    return judged(bool(found.isfinite().all()), f"{len(found)} patches of {subject.grid[0]} x {subject.grid[1]}")


def sizes(subject: ImageSubject) -> Answer:
    """An image of other rows and columns, without a word to the model."""
    rows, columns = subject.grid[0] + subject.step, 2 * subject.grid[1] + subject.step
    if isinstance(subject.first_run, Exception):
        raise NotApplicable("the model does not run")
    shape, patches = f"{rows} x {columns} patches", subject.patches(rows * columns)
    try:
        found = subject.run(subject.twin, patches, rows, resampled=False)
    except Exception as error:  # of stock code
        said = " ".join(str(error).split())
        try:
            subject.states(patches, rows)
        except NotApplicable:
            return Answer(WARN, f"{shape} are not taken: {said}")
        return Answer(WARN, f"{shape} are taken with interpolate_pos_encoding=True alone; without: {said}")
    return judged(bool(found.isfinite().all()), f"{shape} beside {subject.grid[0]} x {subject.grid[1]}")


def places(subject: ImageSubject) -> Answer:
    """The same patches in another order. (Not the opposite one, which leaves distances as they are.)"""
    named, rows = subject.encoding, subject.grid[0]
    patches = subject.patches(math.prod(subject.grid))
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(1))
    there, other = subject.states(patches, rows), subject.states(patches[order], rows)
    return _told(subject, max_error(there[order], other), f"patches in another order, under {named}")


def shapes(subject: ImageSubject) -> Answer:
    """As many patches, the same row by row, in a wide image and in a high one."""
    short = max(2, min(subject.grid) // 2)
    long = max(short + subject.step, math.prod(subject.grid) // short)
    named, patches = subject.encoding, subject.patches(short * long)
    wide, high = subject.states(patches, short), subject.states(patches, long)
    return _told(subject, max_error(wide, high), f"{short} x {long} and {long} x {short} patches, under {named}")


def axes(subject: ImageSubject) -> Answer:
    """An image with rows and columns exchanged."""
    named, side = subject.encoding, max(2, min(subject.grid))
    patches = subject.patches(side * side)
    turned = patches.unflatten(0, (side, side)).transpose(0, 1).flatten(0, 1)
    there, other = subject.states(patches, side), subject.states(turned, side)
    error = max_error(there, other.unflatten(0, (side, side)).transpose(0, 1).flatten(0, 1))
    answer = _told(subject, error, f"rows and columns exchanged, under {named}")
    return answer if answer.status == "pass" else Answer(WARN, answer.measured)


def aliases(subject: ImageSubject) -> Answer:
    """The angle between neighbouring patches of each pair that turns, in an image of the model's own size."""
    named, host, (rows, columns) = subject.encoding, subject.host, subject.grid
    steps = {Y: 2 / rows, X: 2 / columns}  # from -1 to 1; rows and columns themselves are counted by one
    worst, layers = 0.0, 0
    for index, seam in enumerate(seams_of(host)):
        spectrum = host.own_spectrum(index) if seam is None else seam.spectrum
        if spectrum is None or not spectrum.turning or not spectrum.axes:
            continue
        layers += 1
        angles = [abs(f) * steps.get(a, 1.0) for f, a in zip(spectrum.frequencies, spectrum.axes, strict=True)]
        worst = max(worst, *angles)
    if not layers:
        raise NotApplicable(f"{named} turns no pair by a fixed frequency")
    measured = f"up to {worst:.3g} radians from patch to patch"
    return Answer(WARN, f"{measured}, more than pi") if worst > math.pi * (1 + 1e-6) else judged(True, measured)


def _told(subject: ImageSubject, error: float, what: str) -> Answer:
    """Passes where the states differ by more than rounding. Of tables that nothing has been learned in yet, which are
    zeros (iRPE's), that is no fault."""
    measured = f"states differ by {error:.2g}, of which rounding makes {subject.allowed:.1g}: {what}"
    attachment = attached(subject.host.model)
    learned = [] if attachment is None else list(attachment.parameters())
    if error <= subject.allowed and learned and not any(map(torch.any, learned)):
        return Answer(WARN, f"{measured}, whose tables are zeros still: it has learned nothing yet")
    return judged(error > subject.allowed, measured)


IMAGE_CHECKS = (
    Check(
        "runs",
        "The model gives finite numbers",
        "the other checks compare what it gives",
        "read the error",
        runs,
    ),
    Check(
        "sizes",
        "Images of other sizes are read",
        "a table of positions is made for one grid; stock code resamples it only where it is told to, call by call",
        "pass interpolate_pos_encoding=True, or whorl.attach(model, whorl.encoding_of(model)), which resamples by "
        "itself",
        sizes,
    ),
    Check(
        "places",
        "The model knows where patches stand",
        "a table that is zero, or is left out at another size, makes an image a bag of patches, without an error",
        "load the weights of the table, or attach an encoding of a grid",
        places,
    ),
    Check(
        "shapes",
        "A wide image is no high one",
        "112 x 448 pixels have as many patches as 224 x 224: a grid that is told from the number of patches is wrong "
        "where an image is not square",
        "give the height and width in patches to what makes positions; whorl.attach reads them from the pixels",
        shapes,
    ),
    Check(
        "axes",
        "Rows and columns are told apart",
        "positions of one axis given twice, or distances alone, make an image and its transpose the same",
        "no fault where distances are all that is meant (euclidean-alibi); else look at the order of the axes",
        axes,
    ),
    Check(
        "aliases",
        "No pair turns by more than half a turn from patch to patch",
        "past pi radians a step to one side is the same as a smaller one to the other",
        "a larger image than these patches, or another base; learned frequencies may have grown: look at them",
        aliases,
    ),
)
