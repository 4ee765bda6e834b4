"""The small point transformer: its sizes, features, padding and loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

import whorl
from whorl.points import PointConfig, PointTransformer

CONFIG = PointConfig(classes=3, width=8, heads=2)


def test_a_config_goes_through_json_and_refuses_nonsense() -> None:
    assert PointConfig.from_dict(CONFIG.to_dict()) == CONFIG
    for sizes, message in (
        ({"classes": 0}, "classes must be a whole number of at least 1"),
        ({"classes": 3, "width": 9}, "width must be a multiple of heads, got 9 and 4"),
        ({"classes": 3, "features": -1}, "features must be .* 0 is allowed too"),
    ):
        with pytest.raises(ValueError, match=message):
            PointConfig(**sizes)
    with pytest.raises(ValueError, match="'widht'"):
        PointConfig.from_dict({"classes": 3, "widht": 8})


def test_features_of_points_are_read_where_they_are_taken() -> None:
    coloured = PointTransformer(PointConfig(classes=3, width=8, heads=2, features=2))
    at, colours = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    logits = coloured(at, features=colours).logits
    assert not torch.allclose(logits, coloured(at, features=colours.flip(0)).logits)
    with pytest.raises(ValueError, match="features of 2 numbers are what this model takes .* got none"):
        coloured(at)
    with pytest.raises(ValueError, match=r"features of 0 numbers .* got \[2, 5, 2\]"):
        PointTransformer(CONFIG)(at, features=colours)


def test_padding_is_left_out_and_the_loss_is_cross_entropy() -> None:
    model = PointTransformer(PointConfig(classes=3, width=8, heads=2, features=2))
    at, colours = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    real = torch.arange(5) < torch.tensor([[3], [3]])
    labels = torch.tensor([0, 2])
    loss, logits = model(at, real=real, features=colours, labels=labels)
    torch.testing.assert_close(logits, model(at[:, :3], features=colours[:, :3]).logits)
    torch.testing.assert_close(loss, cross_entropy(logits, labels))
    assert model(at, features=colours).loss is None


def test_nothing_is_read_of_padding_and_a_cloud_of_it_alone_has_logits_and_gradients() -> None:
    model = PointTransformer(PointConfig(classes=3, width=8, heads=2, features=2))
    real = torch.arange(5) < torch.tensor([[3], [0]])
    at, colours = (torch.randn(2, 5, n).masked_fill(~real[..., None], torch.nan) for n in (3, 2))
    loss, logits = model(at, real=real, features=colours, labels=torch.tensor([0, 2]))
    torch.testing.assert_close(logits[:1], model(at[:1, :3], features=colours[:1, :3]).logits)
    torch.testing.assert_close(logits[1], model.head.bias)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "encoding",
    [
        "euclidean-alibi:unit=0.2",
        "pape",
        "pape-ri:unit=0.2",
        "spe",
        "frequencies:values=2@1@3,axes=0@1@2",
        "frequencies:values=2@1@3,axes=0@1@2+euclidean-alibi:unit=0.2",
    ],
)
def test_the_gradient_of_coordinates_is_that_of_a_small_move(encoding: str) -> None:
    torch.manual_seed(0)
    model = whorl.attach(PointTransformer(PointConfig(classes=3, width=32, heads=2)).double().eval(), encoding)
    at = (torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0)) - 0.5).double().requires_grad_()

    def total(moved: torch.Tensor) -> torch.Tensor:
        return model(moved).logits.pow(2).sum()

    total(at).backward()
    for point, axis in ((0, 0), (2, 1), (5, 2)):
        step = torch.zeros(2, 6, 3).double()
        step[1, point, axis] = 1e-6
        with torch.no_grad():
            moved = float((total(at + step) - total(at - step)) / 2e-6)
        assert float(at.grad[1, point, axis]) == pytest.approx(moved, rel=1e-4, abs=1e-8)
        assert moved != 0


@pytest.mark.parametrize("encoding", ["spe", "pape-ri:unit=1", "euclidean-alibi:unit=1", "nope"])
@torch.no_grad()
def test_points_of_a_grid_and_clouds_of_none_are_read(encoding: str) -> None:
    model = whorl.attach(PointTransformer(PointConfig(classes=3, width=32, heads=2)).eval(), encoding)
    at = torch.randint(0, 9, (2, 6, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(at).logits, model(at.float()).logits)
    torch.testing.assert_close(model(torch.zeros(2, 0, 3)).logits, model.head.bias.expand(2, 3))
