"""Inspection of towers that read packed images, against their own code with attention written down plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whorl
from tests.hosts.test_packed import TOWERS, whole
from tests.hosts.test_packed_logits import Term, by_its_own_code, drawn, learned_turns, of_distances, of_turns
from whorl.hosts import host_of
from whorl.inspection import images
from whorl.inspection.image_reporting import own_size, run
from whorl.reports.image_inspection import findings

ROWS, COLUMNS = 6, 10  # windows of 4 x 4 in Qwen2.5-VL's: 2 x 3 of them, of which four are cut off at an edge
PIXELS = torch.randn(3, 3, 4 * ROWS, 4 * COLUMNS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WINDOWED = "Qwen2_5_VLForConditionalGeneration"
OWN = torch.tensor([1e4 ** -(n / 4) for n in range(4)], dtype=torch.float64)


@pytest.fixture(params=TOWERS)
def tower(request: pytest.FixtureRequest) -> Any:
    return whole(request.param).model.visual.double()


def attach_own(tower: Any) -> list[Term]:
    by_rows, by_columns = (torch.cat([a, b]).expand(2, -1) for a, b in ((OWN, 0 * OWN), (0 * OWN, OWN)))
    return [of_turns(torch.stack([by_columns, by_rows]))] * len(tower.blocks)


def attach_alibi(tower: Any) -> list[Term]:
    whorl.attach(tower, "alibi-2d")
    return [of_distances] * len(tower.blocks)


def attach_mixed(tower: Any) -> list[Term]:
    return learned_turns(drawn(whorl.attach(tower, "mixed-rope"), 0.5))


@pytest.mark.parametrize("attach", [attach_own, attach_alibi, attach_mixed])
@torch.no_grad()
def test_maps_and_norms_are_those_of_its_own_code(attach: Any, tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BLOCK_NUMBERS", 2 * 2 * 60)
    if hasattr(tower, "pos_embed"):
        tower.pos_embed.weight.zero_()
    terms = attach(tower)
    found = whorl.inspect_images(tower, PIXELS)
    if attach is not attach_own:
        whorl.detach(tower)
    maps = torch.zeros(2, 2, 2 * ROWS - 1, 2 * COLUMNS - 1, dtype=torch.float64)
    norms = {name: torch.zeros(2, 2, 8, dtype=torch.float64) for name in "qk"}

    def note(layer: int, q: torch.Tensor, k: torch.Tensor, at: torch.Tensor, weights: torch.Tensor) -> None:
        down, right = (at[None] - at[:, None]).long().unbind(-1)
        places = (down + ROWS - 1) * (2 * COLUMNS - 1) + right + COLUMNS - 1
        maps[layer].flatten(1).index_add_(1, places.flatten(), weights.flatten(1))
        for name, x in (("q", q), ("k", k)):
            norms[name][layer] += torch.hypot(*x.chunk(2, -1)).sum(1)

    by_its_own_code(tower, PIXELS, terms, note, lambda tower, pixels: host_of(tower).hidden_of(pixels))
    pairs = images._counts(host_of(tower).grid_of(*PIXELS.shape[-2:]))
    np.testing.assert_allclose(found.attention, maps / (3 * pairs), atol=1e-6)
    assert np.abs(found.attention - found.attention[..., ::-1, :]).max() > 1e-2
    if attach is not attach_alibi:
        for name, sums in norms.items():
            np.testing.assert_allclose(found.arrays[f"norm_{name}"], sums / (3 * ROWS * COLUMNS), rtol=1e-5)
    own = found.summary.model
    assert (own.rows, own.columns, own.prefix, found.summary.settings.images) == (ROWS, COLUMNS, 0, 3)
    if attach is attach_own:
        np.testing.assert_allclose(found.frequency[0, 0, :4, 0], OWN)
        np.testing.assert_allclose(found.frequency[0, 0, 4:, 1], OWN)


def far_apart(rows: int, columns: int) -> float:
    """The mean distance of two patches of a window."""
    at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    return float(torch.cdist(at, at).mean())


def test_hidden_patches_of_other_windows_have_no_weight() -> None:
    tower = whole(WINDOWED).model.visual
    found = whorl.inspect_images(tower, PIXELS.float())
    down, right = np.meshgrid(*found.offsets(), indexing="ij")
    far = (abs(down) > 3) | (abs(right) > 3)
    assert not found.attention[0][:, far].any(), "windows of 4 x 4"
    assert found.attention[1][:, far].all()
    sides = [(rows, columns) for rows in (4, 2) for columns in (4, 4, 2)]  # of the windows
    apart = [far_apart(*side) * side[0] * side[1] for side in sides]
    even = sum(apart) / (ROWS * COLUMNS)
    said = (
        f"(Patches of the layers 0 see a window of the image each, where even attention would look {even:.3g} patches"
    )
    texts = [finding.text for finding in findings(found)]
    assert any(said in text for text in texts)
    assert any(f"the images' grid of {ROWS} x {COLUMNS} patches" in text for text in texts)
    whole_images = whorl.inspect_images(whole("Qwen2VLForConditionalGeneration").model.visual, PIXELS.float())
    assert not whole_images.summary.absent


def test_of_a_whole_model_the_tower_is_named() -> None:
    model = whole("Qwen3VLForConditionalGeneration")
    with pytest.raises(ValueError, match=r"is no image model; .* and whorl.inspect_images its model.model.visual$"):
        whorl.inspect_images(model, PIXELS)
    whorl.inspect_images(model.model.visual, PIXELS)


def test_a_size_of_no_whole_blocks_is_refused_with_those_that_are_taken(tower: Any) -> None:
    with pytest.raises(ValueError, match=r"takes images of 3 channels, got 1$"):
        whorl.inspect_images(tower, PIXELS[:, :1])
    for size in ((8, 12), (0, 8)):
        with pytest.raises(ValueError, match=r"sides are whole multiples of 8 pixels .*, got \d+ x \d+"):
            whorl.inspect_images(tower, torch.zeros(1, 3, *size, dtype=torch.float64))


@pytest.mark.parametrize(("name", "encoding"), [(name, None) for name in TOWERS] + [(WINDOWED, "irpe")])
def test_a_saved_one_is_read_by_the_command(name: str, encoding: str | None, tmp_path: Path) -> None:
    tower = whole(name).model.visual
    if encoding is not None:
        drawn(whorl.attach(tower, encoding), 0.5)
    tower.save_pretrained(tmp_path / "tower")
    (found,) = run([str(tmp_path / "tower")], images=2, out=tmp_path / "out", size="24x40")
    assert (found.summary.settings.rows, found.summary.settings.columns) == (ROWS, COLUMNS)
    assert own_size(host_of(tower)) == (224, 224)
    assert (tmp_path / "out" / "report.md").is_file()
