"""From names of image models to a folder: what the command line does with an inspection of images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whorl import outputs
from whorl.checking import check_numbers
from whorl.files import read_json
from whorl.hosts import Host
from whorl.hosts.transformers.messages import without_progress_bars
from whorl.hosts.transformers.packed import PackedHost
from whorl.inspection import planning
from whorl.inspection.images import Reading, image_host
from whorl.inspection.reporting import ended_by_sigterm, remove_report
from whorl.inspection.stages import Stage, silent
from whorl.locking import alone
from whorl.results.image_inspection import ImageInspection
from whorl.sources import IMAGES_READ, Source, several
from whorl.tasks.images import drawn
from whorl.tasks.pictures import Pictures, pictures

USUAL = 224  # pixels: of images for a model that takes any size


def run(
    models: list[str],
    *,
    data: str | None = None,
    size: str | None = None,
    images: int = 64,
    minutes: float | None = None,
    seed: int = 0,
    device: str | None = None,
    out: str | Path = "runs/inspect",
    stage: Stage = silent,
    begun: float | None = None,
) -> list[ImageInspection]:
    """Inspects one image model, or two side by side, and writes the report; the arguments are the command line's.

    data   of the images, as `whorl compare --task images:data=` takes it; None: a trial's own, or glyphs
    size   of the images in pixels, "112x448" (height and width) or one number; None: the model's own
    device  as PyTorch names it; None takes the GPU, where there is one with room for the model
    begun  from when on the minutes count, by `time.perf_counter`; None is now

    On Ctrl-C (or SIGTERM) numbers and report are written of the images that were read. A second model's numbers go to
    `out/other`. Raises ValueError for names, data and sizes that do not fit, before anything is measured, and for an
    `out` that holds something else than an earlier inspection, before a model is loaded.
    """
    begun, pace = planning.clock() if begun is None else begun, planning.Pace()
    check_numbers(images=images, seed=seed, minutes=minutes)
    out, sides = Path(out), _sides(size)
    outputs.check_goes_on(out, by="inspect")
    found = [_One(one, data, sides, seed) for one in several(models, IMAGES_READ, device=device)]
    results: list[ImageInspection] = []
    with ended_by_sigterm(), ExitStack() as while_reading:
        for at, one in enumerate(found):
            if at == 0:
                while_reading.enter_context(alone(out, "inspect"))
                outputs.check_goes_on(out, by="inspect")  # again: another run may have come and gone
            folder = out if at == 0 else out / "other"
            outputs.mark(folder, by="inspect")
            seconds = None
            if minutes:
                left = 60 * minutes - (planning.clock() - begun)
                seconds = planning.for_stages(left, pace()) / (len(found) - at)
            interrupted = one.read(images, seconds, stage)
            if one.reading.count:
                if not results:
                    remove_report(out)  # an earlier one, which stays where this run comes to nothing
                results.append(one.result())
                results[-1].save(folder)
            if interrupted:
                _report(results, out)
                raise KeyboardInterrupt(f"{out} has what was read" if results else "nothing was read yet")
        _report(results, out)
    return results


class _One:
    """One of the models: opened, with its images."""

    def __init__(self, found: Source, data: str | None, sides: tuple[int, int] | None, seed: int) -> None:
        """Raises ValueError for data and sizes that there are not."""
        self.source, self.seed = found, seed
        own = _trained_on(found)
        self.data = data if data is not None else own or "glyphs"
        self.pictures: Pictures = pictures(self.data)
        with without_progress_bars():
            self.host: Host = image_host(found.model())
        self.scaling = _scaling(self.host, found)
        self.sides = sides or own_size(self.host)
        self.reading = Reading(self.host, self.sides, 0)

    def read(self, images: int, seconds: float | None, stage: Stage) -> bool:
        """Reads images until the time is up; True where that was interrupted."""
        self.reading.asked = images
        ends = None if seconds is None else planning.clock() + seconds
        with stage(f"images of {self.sides[0]} x {self.sides[1]} pixels", images) as advance:
            try:
                left = None if ends is None else ends - planning.clock()
                self.reading.read(self._batches(images), left, advance)
            except KeyboardInterrupt:
                return True
        return False

    def _batches(self, images: int) -> Iterator[torch.Tensor]:
        for first in range(0, images, self.reading.batch):
            numbers = range(first, min(images, first + self.reading.batch))
            batch = [torch.from_numpy(drawn(self.pictures, self.seed, n, *self.sides).copy()) for n in numbers]
            yield self.scaling(torch.stack(batch))

    def result(self) -> ImageInspection:
        return self.reading.result(self.source.name, data=self.data, pixels=self.scaling.words, seed=self.seed)


@dataclass(frozen=True)
class _Scaling:
    """From pixels of -1 to 1 to those that a model takes: of 0 to 1, less each colour's mean, over its deviation."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, deviation = (torch.tensor(x).view(-1, 1, 1) for x in (self.mean, self.deviation))
        return ((pixels + 1) / 2 - mean) / deviation

    @property
    def words(self) -> str:
        if self == _Scaling():
            return "from -1 to 1"
        mean, deviation = (", ".join(f"{x:g}" for x in values) for values in (self.mean, self.deviation))
        return f"less the means {mean}, over the deviations {deviation}, of 0 to 1"


def _scaling(host: Host, found: Source) -> _Scaling:
    """What a model's own files say: timm's in its pretrained_cfg, transformers' in preprocessor_config.json. From -1 to
    1 where they say nothing, as trials have it."""
    told: Any = getattr(host.model, "pretrained_cfg", None) or {}
    path = Path(found.name) / "preprocessor_config.json"
    if path.is_file() and isinstance(file := read_json(path), dict) and file.get("do_normalize", True):
        told = {"mean": file.get("image_mean"), "std": file.get("image_std")}
    mean, deviation = told.get("mean"), told.get("std")
    if not (
        isinstance(mean, list | tuple) and isinstance(deviation, list | tuple) and len(mean) == len(deviation) == 3
    ):
        return _Scaling()
    return _Scaling(tuple(map(float, mean)), tuple(map(float, deviation)))


def _trained_on(found: Source) -> str | None:
    """The data of a trial's task."""
    if found.folder is None:
        return None
    from whorl.tasks.images import ImageArguments
    from whorl.training.trials import read_result, settings_of

    settings = settings_of(read_result(found.folder / "result.json")).task_settings()
    return ImageArguments.of_arguments(settings.arguments).data


def own_size(host: Host) -> tuple[int, int]:
    """Height and width in pixels of an image of the model's own grid; where any size is its own, of about 224 x 224."""
    if isinstance(host, PackedHost):
        side = max(1, USUAL // host.unit) * host.unit
        return side, side
    patches = host.patches
    assert patches is not None
    grid = (patches.trained.height, patches.trained.width)
    height, width = (
        (count - 1) * step + size for count, step, size in zip(grid, patches.step, patches.size, strict=True)
    )
    return height, width


def _sides(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", size)
    if match is None or not int(match[1]) or not int(match[2] or 1):
        raise ValueError(
            "--size takes the height and the width of images in pixels, each from 1 to 99,999, as 112x448, or 224, "
            f"got {size!r}"
        )
    return int(match[1]), int(match[2] or match[1])


def _report(results: list[ImageInspection], out: Path) -> None:
    if results:
        from whorl.reports import image_inspection as report

        report.write(results, out)
