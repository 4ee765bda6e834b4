"""Encodings on models that are handed coordinates: ours, and another's that hands its own to our attention."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import whorl
from tests.encodings.test_pape import turned
from whorl.hosts import host_of
from whorl.points import PointAttention, PointConfig, PointTransformer
from whorl.testing import logits_and_budget

CLOUDS = torch.randn(2, 24, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
TURNS = "frequencies:values=2@1@3,axes=0@1@2"
ENCODINGS = (
    "spe:radius=0.5",
    "spe:neighbours=6,radius=2",
    "spe:codes=so3",
    "pape",
    "pape-ri:unit=0.2",
    "euclidean-alibi:unit=0.2",
    "liere:unit=2",
    TURNS,
    f"spe+{TURNS}+euclidean-alibi",
    "pape-ri:unit=0.2/spe",
)


def model(**sizes: Any) -> PointTransformer:
    torch.manual_seed(0)
    made = PointTransformer(PointConfig(**{"classes": 5, "width": 16, "heads": 2, **sizes}))
    with torch.no_grad():
        for block in made.blocks:
            block.to_qkv.weight *= 4  # attention is peaked, so that positions matter
    return made.eval()


@torch.no_grad()
def test_without_an_encoding_all_clouds_are_one() -> None:
    """And so it is with `nope`: nothing but an encoding tells where points are."""
    stock = model()
    assert str(whorl.encoding_of(stock)) == "nope"
    logits = stock(CLOUDS).logits
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(whorl.attach(stock, "nope")(CLOUDS).logits, logits)


@pytest.mark.parametrize(
    ("notation", "unseen"),
    [
        ("axial-rope", "2"),
        ("hope-2d:grid=40@40", "2"),
        ("frequencies:values=2,axes=1", "0 and 2"),
        ("nope", "0 and 1 and 2"),
        ("euclidean-alibi:unit=0.2", ""),
        ("frequencies:values=2@1@3,axes=0@1@2", ""),
        ("axial-rope+euclidean-alibi:unit=0.2", ""),
    ],
)
@torch.no_grad()
def test_axes_that_nothing_goes_by_are_told(notation: str, unseen: str, caplog: pytest.LogCaptureFixture) -> None:
    """`axial-rope` turns by two axes, of an image: of a cloud, z alone would say nothing to the model."""
    made = whorl.attach(model(), notation)
    told = [r.getMessage() for r in caplog.records if "goes by no axis" in r.getMessage()]
    assert len(told) == bool(unseen)
    assert all(f"no axis {unseen} of the 3" in words for words in told)
    for axis in range(3):
        moved = CLOUDS.clone()
        moved[..., axis] = moved[..., axis].flip(1)
        assert torch.equal(made(moved).logits, made(CLOUDS).logits) == (str(axis) in unseen)


@pytest.mark.parametrize("notation", ENCODINGS)
@torch.no_grad()
def test_an_encoding_goes_on_and_comes_off_bit_for_bit(notation: str) -> None:
    made = model()
    stock, state = made(CLOUDS).logits, {n: sorted(m.__dict__) for n, m in made.named_modules()}
    whorl.attach(made, notation)
    assert str(whorl.encoding_of(made)) == str(whorl.parse(notation).with_defaults())
    logits, budget = logits_and_budget(made, CLOUDS)
    assert float((logits[0] - logits[1]).abs().max()) > 100 * budget, "clouds differ"
    whorl.attach(made, notation, impl="reference")
    assert float((made(CLOUDS).logits - logits).abs().max()) < budget
    twin = copy.deepcopy(made)
    whorl.detach(made)
    assert torch.equal(made(CLOUDS).logits, stock)
    assert {n: sorted(m.__dict__) for n, m in made.named_modules()} == state
    assert float((twin(CLOUDS).logits - logits).abs().max()) < budget


@pytest.mark.parametrize("notation", ENCODINGS)
@torch.no_grad()
def test_order_and_padding_are_nothing_to_a_cloud(notation: str) -> None:
    made = whorl.attach(model(), notation)
    logits, budget = logits_and_budget(made, CLOUDS)
    mixed = CLOUDS[:, torch.randperm(24)]
    assert float((made(mixed).logits - logits).abs().max()) < 4 * budget
    padded = torch.cat([CLOUDS, torch.full((2, 5, 3), 0.3, dtype=torch.float64)], 1)
    real = (torch.arange(29) < 24).expand(2, -1)
    assert float((made(padded, real=real).logits - logits).abs().max()) < 4 * budget
    unset = padded.masked_fill(~real[..., None], torch.nan)
    assert torch.equal(made(unset, real=real).logits, made(padded, real=real).logits), "nothing is read of padding"
    assert float((made(padded).logits - logits).abs().max()) > 100 * budget


@pytest.mark.parametrize(
    ("notation", "same"),
    [("spe:codes=so3", ("turned", "moved")), ("pape-ri:unit=0.2", ("turned", "moved", "mirrored")),
     ("euclidean-alibi:unit=0.2", ("turned", "moved", "mirrored")), ("spe:codes=xyz", ("moved",)),
     ("spe:origin=given,codes=so3", ("turned",)), (TURNS, ("moved",)), ("liere:unit=2", ()),
     ("liere:unit=2,block=2", ("moved",))],
)  # fmt: skip
@torch.no_grad()
def test_what_an_encoding_does_not_see_the_whole_model_does_not(notation: str, same: tuple[str, ...]) -> None:
    made = whorl.attach(model(), notation)
    logits, budget = logits_and_budget(made, CLOUDS)
    ways = {"turned": turned(CLOUDS), "moved": CLOUDS + 4.0, "mirrored": CLOUDS * torch.tensor([-1.0, 1.0, 1.0])}
    for way, points in ways.items():
        apart = float((made(points).logits - logits).abs().max())
        assert (apart < 20 * budget) if way in same else (apart > 100 * budget), (way, apart / budget)


def test_it_learns_what_is_attached_and_keeps_it_in_its_state() -> None:
    made = whorl.attach(model(), "spe:neighbours=6,radius=2", seed=3)
    labels = torch.tensor([1, 4])
    loss = made(CLOUDS, labels=labels).loss
    assert loss is not None
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    assert all(float(p.grad.abs().max()) > 0 for name, p in made.named_parameters() if "whorl" in name)
    with torch.no_grad():
        for p in made.parameters():
            p -= 0.1 * p.grad
    other = whorl.attach(model(), "spe:neighbours=6,radius=2")
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(CLOUDS).logits, made(CLOUDS).logits)
    with pytest.raises(ValueError, match="these weights were trained with spe:"):
        whorl.attach(model(), "spe:neighbours=6").load_state_dict(made.state_dict())


class Theirs(nn.Module):
    """A layer of another's, over points of a plane, which hands its own q, k, v and coordinates on."""

    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 2 * 4) for _ in "qkv")
        self.core = PointAttention(heads=2, head_dim=4, width=6, axes=axes)

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.core(x, q, k, v, coordinates=places).flatten(2)


@torch.no_grad()
def test_any_model_whose_attention_is_ours_takes_an_encoding() -> None:
    torch.manual_seed(0)
    theirs, x, places = Theirs(), torch.randn(1, 9, 6), torch.randn(1, 9, 2)
    stock = theirs(x, places)
    whorl.attach(theirs, "euclidean-alibi")
    q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (theirs.q, theirs.k, theirs.v))
    slopes = torch.tensor([2.0**-4, 2.0**-8])[:, None, None]
    logits = q @ k.transpose(-1, -2) / 2 - slopes * torch.cdist(places, places)
    torch.testing.assert_close(theirs(x, places), (logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert torch.equal(whorl.detach(theirs)(x, places), stock)


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("sinusoidal", "adds to an embedding of positions, and PointTransformer has none"),
        ("rope", "a position in PointTransformer has 3"),
        ("alibi", "goes by positions of one axis, and these have 3"),
        ("cope", "queries see the keys after them too|both directions"),
    ],
)
def test_what_has_no_place_among_points_is_refused(notation: str, message: str) -> None:
    made = model()
    with pytest.raises(ValueError, match=message):
        whorl.attach(made, notation)
    assert str(whorl.encoding_of(made)) == "nope"


def test_spe_is_refused_where_positions_have_other_axes() -> None:
    with pytest.raises(ValueError, match="spe goes by positions of 3 axes, and those of Theirs have 2"):
        whorl.attach(Theirs(), "spe")
    with pytest.raises(ValueError, match=r"take positions of \[2, 3\] axes"):
        host_of(nn.ModuleList([Theirs(), Theirs(3)]))
    with pytest.raises(ValueError, match=r"coordinates must be .*\[.., 9, 2\], got \[1, 9, 3\]"):
        Theirs()(torch.randn(1, 9, 6), torch.randn(1, 9, 3))
