"""Which class is an image of? Trained at one size and asked at others, in wide frames, and moved. Version 2.

Images are glyphs, drawn as outlines so that a larger size shows more of them, Fashion-MNIST, or the files of a folder
(`whorl.tasks.pictures` says how a picture stands in its frame). A picture has 0.5 to 0.95 times the size of the frame's
shorter side, so that its parts are of many sizes in training too, is moved by up to 0.1 of that side along both axes
and turned by up to 12 degrees, all drawn evenly, and each class is as likely as any other. Lengths are the sides of
square frames in pixels, whole numbers of patches; a model is trained at one of them.

Evaluation has the same pictures, placed alike, at every size:

accuracy   in a square frame, as in training
wide       in a frame of three quarters of the height, and so many columns of patches that there are as many patches,
           or nearly (12 x 12 become 9 x 16, 8 x 8 become 6 x 11)
framed     at the training size and above: as large in pixels as in training, around the middle of the square frame, so
           that patches show what they showed, and only their places and their number are new
moved      in a square frame, moved by 0.15 of the side more, in any direction

A picture depends on (seed, its number) alone; of an evaluation on (data_seed, its number), and its class is the number
modulo the classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from whorl.data.losses import evaluating
from whorl.encodings import Known
from whorl.encodings.config import require_positive_int
from whorl.results.comparison import Data
from whorl.results.trial import Row
from whorl.tasks.base import Arguments, Example, Needs, Progress, Task, TaskSettings, Words, argument, of_samples
from whorl.tasks.graded import EVALUATION, TRAINING, VALIDATION, Examples
from whorl.tasks.metrics import FRAMED, IMAGES, IN_WIDE_FRAMES, SHIFTED
from whorl.tasks.pictures import Part, Pictures, Placed, pictures

SIZES = (0.6, 0.8, 1, 1.2, 1.5, 2)  # of the evaluation, times the training size
FEWEST = 4  # patches along a side
SCALE, SHIFT, TURN, AWAY = (0.5, 0.95), 0.1, 12.0, 0.15


@dataclass(frozen=True)
class ImageArguments(Arguments):
    """data: what the pictures are; patch: pixels along the sides of a patch."""

    data: str = argument(
        "glyphs", "glyphs of fonts, fashion-mnist, or a folder with one folder of image files per class"
    )
    patch: int = argument(4, "the side of a patch in pixels; a --model's must be the same")

    name = "images"

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", str(self.data))
        require_positive_int("patch", self.patch)


class Images(Task):
    """Images, each of one class. `vocab_size` counts the classes."""

    name = evaluation = "images"
    title = "Images at other sizes"
    version = 2
    metrics = (IMAGES, IN_WIDE_FRAMES, FRAMED, SHIFTED)
    needs = Needs(tokens=2, initializer_range=None)
    body = "images"
    takes = ImageArguments
    unit = "pixels"
    encodings = ("axial-rope", "hope-2d", "p-rope-2d:p=0.5")
    bos_token_id = eos_token_id = 0  # there is no token

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.arguments = ImageArguments.of_arguments(settings.arguments)
        self.pictures = pictures(self.arguments.data)
        self.vocab_size = len(self.pictures.classes)

    @classmethod
    def default_length(cls, given: Any) -> int:
        return 12 * ImageArguments.of_arguments(given).patch

    @classmethod
    def default_lengths(cls, given: Any, train_length: int) -> tuple[str, ...]:
        patch = ImageArguments.of_arguments(given).patch
        sides = dict.fromkeys(patch * max(FEWEST, round(size * train_length / patch)) for size in SIZES)
        return tuple(map(str, sides))

    @classmethod
    def example_tokens(cls, settings: TaskSettings) -> int:
        return math.prod(cls._grid(settings))

    @classmethod
    def known(cls, settings: TaskSettings) -> Known:
        return Known(train_length=cls.example_tokens(settings), grid=cls._grid(settings))

    @classmethod
    def _grid(cls, settings: TaskSettings) -> tuple[int, int]:
        side = settings.train_length // ImageArguments.of_arguments(settings.arguments).patch
        return side, side

    @classmethod
    def words(cls) -> Words:
        return Words(
            measure="Accuracy",
            samples="images",
            tokens="patches",
            caption="The share of images whose class is the likeliest, by the side of a square image. A model is "
            "trained at {config.train_length} pixels alone; the pictures are the same at every size.",
            table="accuracy, by the side of an image in pixels",
            beside="At {at} pixels, the size of the training: in square frames, in wide ones of as many patches, and "
            "moved from the middle, with the same pictures in every column. (A larger frame, in which a picture has "
            "the pixels that it has in training, is the same frame here.)",
            beyond="at other sizes than in training",
            others="images of other sizes",
            at_others="at other sizes",
            caveats=(
                "A picture fills its frame alike at every size: what is asked for is the same picture in more or fewer "
                "patches, not a small part of a larger scene.",
            ),
        )

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        arguments = ImageArguments.of_arguments(settings.arguments)
        for side in (settings.train_length, *settings.lengths):
            if side % arguments.patch or side < FEWEST * arguments.patch:
                raise ValueError(
                    f"the images task takes sides of {FEWEST} patches or more, in pixels, and its patches have "
                    f"{arguments.patch}; {side} is not a multiple of it, or too small; try --train-length "
                    f"{12 * arguments.patch}, or images:patch=2"
                )
        pictures(arguments.data)

    def describe(self) -> Data:
        chance = 1 / self.vocab_size
        facts = {"data": self.arguments.data, "patch": self.arguments.patch, "images": self.settings.windows}
        facts["classes"] = list(self.pictures.classes)
        guessing = tuple(Row(n, {metric.key: chance for metric in self.metrics}) for n in self.settings.lengths)
        return Data(self.name, self.version, self.vocab_size, facts, unit=self.unit, guessing=guessing, one_length=True)

    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        return Examples(examples, lambda i: self._example(np.random.default_rng((TRAINING, seed, i)), "training"))

    def validation_set(self) -> Dataset[Example]:
        drawn = (VALIDATION, self.settings.data_seed)
        return Examples(
            self.settings.windows, lambda i: self._example(np.random.default_rng((*drawn, i)), "validation")
        )

    def validation_loss(self, model: torch.nn.Module, batch_tokens: int = 16384) -> float:
        items = self.validation_set()
        found = [items[i] for i in range(len(items))]  # type: ignore[arg-type]
        images, labels = (torch.stack([item[key] for item in found]) for key in ("pixel_values", "labels"))
        return float(cross_entropy(self._logits(model, images, batch_tokens), labels))

    def evaluation_set(self, length: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Images float32 [windows, 3, height, width] by the key of the metric that asks for them, and their classes. Of
        sizes below that of the training there are none in a larger frame."""
        height, width = (self.arguments.patch * n for n in wide(length // self.arguments.patch))
        kept = self.settings.train_length / length  # of a picture that has the pixels that it has in training
        keys = [metric.key for metric in self.metrics if kept <= 1 or metric is not FRAMED]
        found: dict[str, list[np.ndarray]] = {key: [] for key in keys}
        labels = torch.arange(self.settings.windows) % self.vocab_size
        for i, label in enumerate(labels.tolist()):
            rng = np.random.default_rng((EVALUATION, self.settings.data_seed, i))
            picked, placed = self.pictures.pick(rng, label, "evaluation"), _placed(rng)
            angle = rng.uniform(0, 2 * np.pi)
            away = placed._replace(
                right=placed.right + AWAY * math.cos(angle), down=placed.down + AWAY * math.sin(angle)
            )
            framed = Placed(placed.scale * kept, placed.right * kept, placed.down * kept, placed.turn)
            where = {IMAGES.key: placed, IN_WIDE_FRAMES.key: placed, FRAMED.key: framed, SHIFTED.key: away}
            for key in keys:
                shape = (height, width) if key == IN_WIDE_FRAMES.key else (length, length)
                found[key].append(self.pictures.draw(picked, *shape, where[key]))
        return {key: torch.from_numpy(np.stack(images)) for key, images in found.items()}, labels

    def evaluate(
        self, model: torch.nn.Module, length: int, batch_tokens: int = 16384, progress: Progress | None = None
    ) -> Row:
        """`samples` are 1 for an image whose class is found, 0 for another; all values are nan where a logit is not
        finite."""
        images, labels = self.evaluation_set(length)
        logits = {key: self._logits(model, found, batch_tokens) for key, found in images.items()}
        right = {key: (found.argmax(-1) == labels).double() for key, found in logits.items()}
        if not all(found.isfinite().all() for found in logits.values()):
            right = {key: torch.full_like(found, math.nan) for key, found in right.items()}
        if progress is not None:
            progress(len(labels))
        values = {key: float(found.mean()) for key, found in right.items()}
        return Row(length, values, sequences=len(labels), **of_samples(right[IMAGES.key]))

    def _example(self, rng: np.random.Generator, part: Part) -> Example:
        label, side = int(rng.integers(self.vocab_size)), self.settings.train_length
        image = self.pictures.draw(self.pictures.pick(rng, label, part), side, side, _placed(rng))
        return {"pixel_values": torch.from_numpy(np.ascontiguousarray(image)), "labels": torch.tensor(label)}

    def _logits(self, model: torch.nn.Module, images: torch.Tensor, batch_tokens: int) -> torch.Tensor:
        """[images, classes], float32 on the CPU, from at most so many patches at a time, or one image."""
        patches = images.shape[-2] * images.shape[-1] // self.arguments.patch**2
        with evaluating(model) as device:
            batches = images.split(max(1, batch_tokens // patches))
            return torch.cat([model(pixel_values=batch.to(device)).logits.float().cpu() for batch in batches])

    def _content(self) -> Iterator[bytes | memoryview]:
        yield self.pictures.content()


def drawn(pictures: Pictures, data_seed: int, number: int, height: int, width: int) -> np.ndarray:
    """Image `number` of the evaluation of this seed, in a frame of so many pixels: float32 [3, height, width]."""
    rng = np.random.default_rng((EVALUATION, data_seed, number))
    picked = pictures.pick(rng, number % len(pictures.classes), "evaluation")
    return pictures.draw(picked, height, width, _placed(rng))


def wide(side: int) -> tuple[int, int]:
    """Rows and columns of a frame that is lower and wider than side x side, and has as many patches, or nearly."""
    rows = round(3 * side / 4)
    return rows, round(side * side / rows)


def _placed(rng: np.random.Generator) -> Placed:
    scale, (right, down), turn = rng.uniform(*SCALE), rng.uniform(-SHIFT, SHIFT, 2), rng.uniform(-TURN, TURN)
    return Placed(scale, right, down, turn)
