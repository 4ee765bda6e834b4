"""The images task: its examples, which sizes and frames an evaluation asks for, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whorl.tasks.base import TaskSettings
from whorl.tasks.images import Images, wide

CLASSES = 34


def task(**changes) -> Images:
    settings = {"train_length": 32, "lengths": (24, 32, 48), "windows": 40}
    return Images(TaskSettings(**settings | changes))


class Knows(torch.nn.Module):
    """Says the class of the images that it knows, and nothing of others."""

    def __init__(self, known: dict[bytes, int]) -> None:
        super().__init__()
        self.known = known

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        logits = torch.zeros(len(pixel_values), CLASSES)
        for row, image in zip(logits, pixel_values, strict=True):
            if (label := self.known.get(image.numpy().tobytes())) is not None:
                row[label] = 3.0
        return SimpleNamespace(logits=logits)


def of_bytes(images: torch.Tensor, labels: torch.Tensor) -> dict[bytes, int]:
    return {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


def test_examples_depend_on_seed_and_number_only() -> None:
    items, more, other = task().training_set(1, 6), task().training_set(1, 50), task().training_set(2, 6)
    for i in (5, 0, 3):
        assert items[i]["pixel_values"].shape == (3, 32, 32)
        assert items[i]["pixel_values"].dtype == torch.float32
        assert torch.equal(items[i]["pixel_values"], more[i]["pixel_values"])
        assert int(items[i]["labels"]) == int(more[i]["labels"])
        assert not torch.equal(items[i]["pixel_values"], other[i]["pixel_values"])
    labels = [int(task().training_set(0, 800)[i]["labels"]) for i in range(800)]
    assert np.bincount(labels, minlength=CLASSES).min() > 8


def test_the_same_pictures_are_asked_for_at_every_size() -> None:
    made = task(lengths=(48, 96))
    (small, labels), (large, again) = (made.evaluation_set(side) for side in (48, 96))
    assert labels.tolist() == again.tolist() == [i % CLASSES for i in range(40)]
    assert large["accuracy"].shape == (40, 3, 96, 96)
    halved = torch.nn.functional.avg_pool2d(large["accuracy"], 2)
    flat = [torch.stack([x.flatten() for x in images]) for images in (halved, small["accuracy"])]
    alike = torch.corrcoef(torch.cat(flat))[:40, 40:]
    assert alike.argmax(1).tolist() == list(range(40)), "each is most like itself at another size"
    assert alike.diagonal().min() > 0.8, "to half a pixel"
    assert not torch.equal(halved, small["accuracy"]), "and are drawn anew"


def test_a_wide_frame_has_as_many_patches() -> None:
    assert wide(12) == (9, 16)
    assert wide(24) == (18, 32)
    for side in range(4, 40):
        rows, columns = wide(side)
        assert columns > 1.4 * rows
        assert rows * columns == pytest.approx(side * side, rel=0.07)
    assert task().evaluation_set(32)[0]["wide"].shape == (40, 3, 24, 44)


def test_moved_pictures_are_moved() -> None:
    images, _ = task(train_length=64, lengths=(64,)).evaluation_set(64)
    at = []
    for key in ("accuracy", "moved"):
        ink = (images[key][:, 0] + 1).double()
        place = torch.arange(64.0).double()
        rows, columns = ink.sum(2) @ place, ink.sum(1) @ place
        at.append(torch.stack([rows, columns], 1) / ink.sum((1, 2))[:, None])
    away = (at[1] - at[0]).norm(dim=1)
    assert (away - 0.15 * 64).abs().max() < 1.5


def test_a_larger_frame_leaves_a_picture_its_pixels() -> None:
    """Around the middle, where whole patches lie as they do in training."""
    images, _ = task(lengths=(24, 32, 48)).evaluation_set(48)
    trained, _ = task().evaluation_set(32)
    assert torch.equal(images["framed"][..., 8:40, 8:40], trained["accuracy"])
    assert torch.equal(trained["framed"], trained["accuracy"])
    assert (images["framed"][..., :8, :] == -1).all()
    assert "framed" not in task().evaluation_set(24)[0]


@pytest.mark.parametrize("key", ["accuracy", "wide", "moved"])
def test_a_row_says_in_which_frames_the_class_is_found(key: str) -> None:
    made = task()
    images, labels = made.evaluation_set(24)
    row = made.evaluate(Knows(of_bytes(images[key], labels)), 24, batch_tokens=40)
    guessed = 2 / 40  # the first class, where all are equal
    assert row.values == {other: 1.0 if other == key else pytest.approx(guessed) for other in row.values}
    assert list(row.values) == ["accuracy", "wide", "moved"], "below the size of the training"
    assert sum(row.samples) == (40 if key == "accuracy" else 2)
    assert row.sequences == 40


def test_a_model_that_diverged_has_no_accuracy() -> None:
    class Diverged(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.full((len(pixel_values), CLASSES), torch.nan))

    row = task().evaluate(Diverged(), 32)
    assert all(np.isnan(value) for value in (*row.values.values(), *row.samples))


def test_the_validation_loss_is_of_other_images() -> None:
    made = task()
    assert made.validation_loss(Knows({})) == pytest.approx(np.log(CLASSES))
    items = [made.validation_set()[i] for i in range(40)]
    known = of_bytes(torch.stack([x["pixel_values"] for x in items]), torch.stack([x["labels"] for x in items]))
    assert made.validation_loss(Knows(known)) == pytest.approx(np.log(1 + (CLASSES - 1) * np.exp(-3)))
    asked = [of_bytes(found, made.evaluation_set(32)[1]) for found in made.evaluation_set(32)[0].values()]
    trained = [made.training_set(0, 40)[i]["pixel_values"].numpy().tobytes() for i in range(40)]
    assert not known.keys() & {*trained, *(image for images in asked for image in images)}


def test_chance_is_told_at_every_size() -> None:
    found = task().describe()
    assert [row.length for row in found.guessing] == [24, 32, 48]
    assert {value for row in found.guessing for value in row.values.values()} == {1 / CLASSES}
    assert found.one_length


def test_sizes_are_whole_patches() -> None:
    assert Images.default_length({}) == 48
    assert Images.default_lengths({}, 48) == ("28", "40", "48", "56", "72", "96")
    assert Images.default_lengths({"patch": 16}, 224) == ("128", "176", "224", "272", "336", "448")
    for changes, message in (
        ({"train_length": 30}, "30 is not a multiple of it, or too small; try --train-length 48"),
        ({"lengths": (8,)}, "sides of 4 patches or more.*8 is not a multiple"),
        ({"arguments": {"patch": 0}}, "patch must be a whole number of at least 1, got 0"),
        ({"arguments": {"data": "none"}}, "none is no folder of images"),
        ({"arguments": {"path": "x"}}, "images has no argument 'path'; it takes data, patch"),
        ({"text": "book.txt"}, "makes its own data and reads no --text"),
    ):
        with pytest.raises(ValueError, match=message):
            task(**changes)
    known = Images.known(TaskSettings(train_length=32, lengths=(32,), arguments={"patch": 8}))
    assert (known.grid, known.train_length) == ((4, 4), 16)
