"""Random positions: sorted, without repetition, evenly drawn; what seeds them, and what they leave alone."""

from __future__ import annotations

import copy

import pytest
import torch

import whorl
from whorl.encodings.randomized import RandomPositions

PLAIN = torch.arange(12)[None]


def seeded(seed: int = 0, length: int = 32) -> RandomPositions:
    torch.manual_seed(seed)
    return RandomPositions(length)


def test_rows_grow_below_the_length_and_differ() -> None:
    drawn = seeded()(PLAIN, 4)
    assert drawn.shape == (4, 12)
    assert drawn.dtype == torch.int64
    assert (drawn.diff(dim=1) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < 32
    assert len(drawn.unique(dim=0)) == 4


def test_every_set_of_positions_is_as_likely() -> None:
    """All 10 pairs of 0 .. 4, in 20,000 draws: 2,000 each, with a standard deviation of 42."""
    pairs = seeded(length=5)(torch.arange(2)[None], 20_000)
    counts = torch.bincount(pairs[:, 0] * 5 + pairs[:, 1])
    assert (counts > 0).sum() == 10
    assert (counts[counts > 0] - 2000).abs().max() < 5 * 42


def test_all_positions_are_taken_where_there_are_no_more() -> None:
    assert torch.equal(seeded(length=12)(PLAIN, 3), PLAIN.expand(3, -1))
    with pytest.raises(ValueError, match=r"draws from 11 positions, and this text has 12; shorten it, or .*length=12"):
        seeded(length=11)(PLAIN, 3)


def test_packed_documents_and_padding_keep_their_order() -> None:
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2], [-1, -1, 0, 1, 2, 3, 4]])
    drawn = seeded()(positions, 2)
    for document in (drawn[0, :4], drawn[0, 4:], drawn[1, 2:]):
        assert (document.diff() > 0).all()


def test_one_draw_serves_a_forward_and_the_next_has_another() -> None:
    module = seeded()
    first = module(PLAIN, 2)
    assert torch.equal(module(PLAIN.clone(), 2), first)
    assert torch.equal(module(PLAIN[:, 4:], 2), first[:, 4:])
    module.begin()
    assert not torch.equal(module(PLAIN, 2), first)


def test_evaluation_has_plain_positions() -> None:
    module = seeded(length=4).eval()
    assert module(PLAIN, 3) is PLAIN
    assert module.draws == 0


def test_draws_follow_from_the_seed_and_leave_torchs_numbers_alone() -> None:
    first = seeded()(PLAIN, 2)
    assert torch.equal(seeded()(PLAIN, 2), first)
    assert not torch.equal(seeded(1)(PLAIN, 2), first)
    torch.manual_seed(0)
    expected = torch.rand(3)
    module = seeded()
    module(PLAIN, 2)
    assert torch.equal(torch.rand(3), expected)


def test_a_training_that_is_resumed_draws_on() -> None:
    module = seeded()
    module(PLAIN, 2)
    state = copy.deepcopy(module.state_dict())
    resumed = RandomPositions(32)
    resumed.load_state_dict(state)
    drawn = []
    for one in (module, resumed):
        one.begin()
        drawn.append(one(PLAIN, 2))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("other", ["window:size=8", "fox", "cope", "stick-breaking", "linear"])
def test_what_counts_tokens_does_not_go_with_it(other: str) -> None:
    with pytest.raises(ValueError, match="do not go together"):
        whorl.parse(f"{other}+randomized")


def test_a_length_is_a_number_of_positions() -> None:
    with pytest.raises(ValueError, match="length must be a whole number"):
        whorl.Randomized(0)
    assert str(whorl.RoPE() + whorl.Randomized()) == "rope+randomized"
