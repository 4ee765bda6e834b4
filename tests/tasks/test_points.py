"""The points task: solids and how they are drawn, turned and mirrored, and what an evaluation asks of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from whorl.points import Classified
from whorl.tasks.base import TaskSettings
from whorl.tasks.points import Points
from whorl.tasks.solids import HANDS, SOLIDS, solid, surface, turn

NAMES = list(SOLIDS)


def task(turned: str = "none", **changes) -> Points:
    settings = {"train_length": 16, "lengths": (16, 24), "windows": 24, "arguments": {"turned": turned}}
    return Points(TaskSettings(**settings | changes))


@pytest.mark.parametrize("number", range(len(SOLIDS)), ids=NAMES)
def test_points_lie_evenly_on_a_solid_in_the_unit_sphere(number: int) -> None:
    triangles, share = solid(number)
    assert np.linalg.norm(triangles, axis=-1).max() == pytest.approx(1.0)
    points = surface(np.random.default_rng(0), number, 4000)
    assert np.linalg.norm(points, axis=-1).max() < 1 + 1e-9
    assert np.abs(points.mean(0)).max() < 0.04, "centred at the mean of the surface"
    corners = (triangles**2).sum(1) + triangles.sum(1) ** 2  # of a triangle's mean of squares, twelve times
    np.testing.assert_allclose((points**2).mean(0), share @ corners / 12, atol=0.02)


def test_the_largest_coordinate_is_that_of_the_unit_sphere() -> None:
    """But for the noise; and no number of points, which is no coordinate."""
    clouds = task("all").training_set(0, 100)
    farthest = max(float(clouds[i]["coordinates"].norm(dim=-1).max()) for i in range(100))
    assert Points.known(task().settings).span == pytest.approx(farthest, abs=0.1)


def test_round_solids_are_what_they_are_called() -> None:
    rng = np.random.default_rng(1)
    points = {name: surface(rng, NAMES.index(name), 500) for name in ("sphere", "cube", "cylinder", "torus")}
    assert np.linalg.norm(points["sphere"], axis=-1).min() > 0.99
    np.testing.assert_allclose(np.abs(points["cube"]).max(1), 3**-0.5, atol=1e-9)
    round_part = np.linalg.norm(points["cylinder"][:, :2], axis=-1)
    height = 1 / np.hypot(1, 0.6)
    flat = np.abs(np.abs(points["cylinder"][:, 2]) - height) < 1e-9
    np.testing.assert_allclose(round_part[~flat], 0.6 * height, atol=2e-3)
    assert 0.2 < flat.mean() < 0.35  # 2 pi r^2 of 2 pi r (r + 2 h): 0.23
    tube = np.hypot(np.linalg.norm(points["torus"][:, :2], axis=-1) - 1 / 1.35, points["torus"][:, 2])
    np.testing.assert_allclose(tube, 0.35 / 1.35, atol=6e-3)


def test_the_two_coils_are_mirror_images() -> None:
    left, right = (solid(number)[0].reshape(-1, 3) for number in HANDS)
    np.testing.assert_allclose(left * (1, -1, 1), right, atol=1e-12)
    wound = np.unwrap(np.arctan2(right[:, 1], right[:, 0]))
    assert np.corrcoef(wound[:400], right[:400, 2])[0, 1] > 0, "a right screw rises as it turns to the left"


def test_turns_are_turns_and_even() -> None:
    rng = np.random.default_rng(2)
    all_of = np.stack([turn(rng, "all") for _ in range(4000)])
    np.testing.assert_allclose(all_of @ all_of.transpose(0, 2, 1), np.broadcast_to(np.eye(3), all_of.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(all_of), 1)
    for direction in all_of.transpose(1, 0, 2):  # where an axis goes: evenly on the sphere, so each coordinate evenly
        for coordinate in direction.T:
            np.testing.assert_allclose(np.histogram(coordinate, 4, (-1, 1))[0], 1000, atol=130)
    angle = np.arccos((np.trace(all_of, axis1=1, axis2=2) - 1) / 2)
    assert np.mean(angle) == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.04), "Euler angles drawn evenly have less"
    about_z = turn(rng, "z")
    np.testing.assert_allclose(about_z[2], (0, 0, 1))
    assert np.array_equal(turn(rng, "none"), np.eye(3))


def test_examples_depend_on_seed_and_number_only() -> None:
    items, more, other = task().training_set(1, 6), task().training_set(1, 50), task().training_set(2, 6)
    for i in (5, 0, 3):
        assert items[i]["coordinates"].shape == (16, 3)
        assert items[i]["coordinates"].dtype == torch.float32
        assert torch.equal(items[i]["coordinates"], more[i]["coordinates"])
        assert int(items[i]["labels"]) == int(more[i]["labels"])
        assert not torch.equal(items[i]["coordinates"], other[i]["coordinates"])
    labels = [int(task().training_set(0, 600)[i]["labels"]) for i in range(600)]
    assert np.bincount(labels, minlength=12).min() > 25
    with pytest.raises(IndexError):
        items[6]


def test_one_cloud_is_asked_for_in_every_turn() -> None:
    clouds, labels = task("z").evaluation_set(24)
    assert labels.tolist() == 2 * list(range(12))
    lengths = {way: found.double().norm(dim=-1) for way, found in clouds.items()}
    for way in ("z", "all"):  # but for the noise
        assert (lengths[way] - lengths["none"]).abs().max() < 0.08
        assert (clouds[way] - clouds["none"]).abs().mean() > 0.2
    away = (clouds["moved"] - clouds["z"]).double()
    torch.testing.assert_close(away.norm(dim=-1), torch.full((24, 24), 2.0).double(), atol=1e-5, rtol=0)
    again, _ = task("z").evaluation_set(24)
    assert all(torch.equal(again[way], clouds[way]) for way in clouds)


class Knows(torch.nn.Module):
    """Says the solid of the clouds that it knows, and nothing of others."""

    def __init__(self, known: dict[bytes, int]) -> None:
        super().__init__()
        self.known = known

    def forward(self, coordinates: torch.Tensor) -> Classified:
        logits = torch.zeros(len(coordinates), 12)
        for row, cloud in zip(logits, coordinates, strict=True):
            if (label := self.known.get(cloud.numpy().tobytes())) is not None:
                row[label] = 3.0
        return Classified(None, logits)


@pytest.mark.parametrize("turned", ["none", "z", "all"])
def test_a_row_says_how_clouds_were_turned(turned: str) -> None:
    made = task(turned)
    clouds, labels = made.evaluation_set(16)
    for way, key in (("none", "upright"), ("z", "about_z"), ("all", "all_turns"), ("moved", "moved")):
        known = {c.numpy().tobytes(): int(n) for c, n in zip(clouds[way], labels, strict=True)}
        row = made.evaluate(Knows(known), 16, batch_tokens=40)
        guessed = 2 / 24  # the first class, where all are equal
        assert row.values[key] == 1.0
        others = {"upright", "about_z", "all_turns", "moved"} - {key}
        assert all(row.values[other] == pytest.approx(guessed) for other in others)
        own = way == turned
        assert row.values["accuracy"] == (1.0 if own else pytest.approx(guessed))
        assert row.values["hands"] == (1.0 if own else 0.5)
        assert sum(row.samples) == (24 if own else 2)


def test_a_model_that_diverged_has_no_accuracy() -> None:
    class Diverged(torch.nn.Module):
        def forward(self, coordinates: torch.Tensor) -> Classified:
            return Classified(None, torch.full((len(coordinates), 12), torch.nan))

    row = task().evaluate(Diverged(), 16)
    assert all(np.isnan(value) for value in (*row.values.values(), *row.samples))


def test_the_validation_loss_is_of_other_clouds() -> None:
    made = task()
    assert made.validation_loss(Knows({})) == pytest.approx(np.log(12))
    items = made.validation_set()
    known = {items[i]["coordinates"].numpy().tobytes(): int(items[i]["labels"]) for i in range(len(items))}
    assert made.validation_loss(Knows(known)) == pytest.approx(np.log(1 + 11 * np.exp(-3)))
    asked = {c.numpy().tobytes() for found in made.evaluation_set(16)[0].values() for c in found}
    trained = made.training_set(0, 50)
    assert not known.keys() & (asked | {trained[i]["coordinates"].numpy().tobytes() for i in range(50)})


def test_what_no_cloud_can_be_is_refused() -> None:
    for changes, message in (
        ({"train_length": 4}, "a cloud of the points task has 8 points or more, got 4"),
        ({"arguments": {"turned": "x"}}, "turned must be one of 'none', 'z', 'all', got 'x'"),
        ({"arguments": {"rotated": "z"}}, "points has no argument 'rotated'; it takes turned"),
        ({"text": "book.txt"}, "makes its own data and reads no --text"),
    ):
        with pytest.raises(ValueError, match=message):
            Points(TaskSettings(**{"train_length": 16, "lengths": (16,)} | changes))
