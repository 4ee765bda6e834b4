"""What doctor says of image models: healthy ones, and ones with a planted fault that no error tells of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from tests.contract import refused_here
from tests.hosts.test_packed import TOWERS, whole
from whorl.attaching import images as attaching
from whorl.diagnosis import IMAGE_CHECKS, doctor
from whorl.encodings.grid import Grid
from whorl.hosts import IMAGES
from whorl.testing import peaked, tiny_image_model


def model_with(encoding: str, **sizes: int) -> Any:
    model = tiny_image_model("vit")
    if sizes:
        torch.manual_seed(0)
        config = type(model.config).from_dict(model.config.to_dict() | sizes)
        model = peaked(type(model)(config)).eval()
    return whorl.attach(model, encoding)


@pytest.mark.parametrize("family", IMAGES)
def test_stock_models_fail_nothing(family: str) -> None:
    """Those that resample their table only where they are told to are a warning."""
    if (why := refused_here(family)) is not None:
        pytest.skip(why)
    found = doctor(tiny_image_model(family))
    assert found.healthy, str(found)
    assert tuple(found) == tuple(check.name for check in IMAGE_CHECKS)
    asks = family not in ("dinov2", "dinov2_with_registers", "dinov3_vit", "beit")
    assert found.having("warn") == (("sizes",) if asks else ()), str(found)


@pytest.mark.parametrize(
    "encoding", ["axial-rope", "hope-2d:grid=14@14", "mixed-rope", "sincos-2d", "learned-2d", "pape"]
)
def test_attached_encodings_fail_nothing_at_any_size(encoding: str) -> None:
    found = doctor(model_with(encoding))
    assert found.healthy, str(found)
    assert not found.having("warn"), str(found)


def test_an_encoding_of_which_no_pair_turns_is_seen() -> None:
    """In a grid of 4 x 4 no pair makes a full turn, so that HoPE stills them all."""
    assert doctor(model_with("hope-2d:grid=4@4")).failed == ("places", "shapes")


def test_distances_alone_do_not_tell_rows_from_columns() -> None:
    found = doctor(model_with("euclidean-alibi"))
    assert (found.healthy, found.having("warn")) == (True, ("axes",))


@pytest.mark.parametrize("encoding", ["nope", "nope+log-n"])
def test_without_an_encoding_there_is_nothing_to_ask_of_places(encoding: str) -> None:
    found = doctor(model_with(encoding))
    assert found.having("n/a") == ("places", "shapes", "axes", "aliases")
    assert "a bag of patches" in found["places"].measured


def test_a_table_of_zeros_is_seen() -> None:
    model = tiny_image_model("vit")
    with torch.no_grad():
        model.embeddings.position_embeddings.zero_()
    assert doctor(model).failed == ("places", "shapes"), "and rows and columns are a warning"


def test_a_grid_that_is_told_from_the_number_of_patches_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As code has it that takes every image for a square one."""

    class Squared(attaching.GridTurns):
        def __init__(self, grid: Grid, *more: Any) -> None:
            patches = grid.height * grid.width
            rows = max(n for n in range(1, patches) if n * n <= patches and patches % n == 0)
            super().__init__(Grid(rows, patches // rows, grid.prefix), *more)

    model = model_with("axial-rope")
    monkeypatch.setattr(attaching, "GridTurns", Squared)
    assert doctor(model).failed == ("shapes",)


def test_one_axis_given_twice_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Grid.places

    def sums(self: Grid, *where: Any) -> torch.Tensor:
        found = places(self, *where)
        return found[..., :2].sum(-1, keepdim=True).expand_as(found)

    model = model_with("axial-rope")
    monkeypatch.setattr(Grid, "places", sums)
    assert doctor(model).having("warn") == ("axes",)


@pytest.mark.parametrize(("image_size", "status"), [(16, "warn"), (40, "pass")])
def test_turns_of_more_than_a_half_are_a_warning(image_size: int, status: str) -> None:
    """DINOv3's fastest pair turns once per half image: past pi radians from patch to patch where there are few."""
    found = doctor(model_with("dinov3-rope", image_size=image_size))
    assert found["aliases"].status == status, str(found)
    assert found.healthy


def test_a_model_that_does_not_run_says_why() -> None:
    model = tiny_image_model("vit")
    model.embeddings.position_embeddings.data = torch.zeros(1, 3, 32)
    found = doctor(model)
    assert found.failed == ("runs",)
    assert "raised" in found["runs"].measured
    assert found["places"].measured == "the model does not run"
    with torch.no_grad():
        (lost := tiny_image_model("vit")).layernorm.weight[0] = torch.nan
    assert "layernorm.weight" in doctor(lost)["runs"].measured


def test_directories_and_half_precision(tmp_path: Path) -> None:
    model_with("hope-2d:grid=14@14").to(torch.bfloat16).save_pretrained(tmp_path / "vit")
    found = doctor(tmp_path / "vit")
    assert found.healthy, str(found)
    assert found.model == str(tmp_path / "vit")
    for given in ({"length": 128}, {"text_ids": torch.arange(9)}):
        with pytest.raises(ValueError, match="ViTModel reads images; leave out"):
            doctor(tiny_image_model("vit"), **given)


def test_a_model_of_timm_is_examined_too() -> None:
    """Its stock code takes images of one size, so that shapes cannot be asked of it until an encoding is attached."""
    from tests.hosts.timm_models import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, embed_dim=32, num_heads=2)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    found = doctor(model)
    assert (found.failed, found.having("warn")) == ((), ("sizes",)), str(found)
    assert "are not taken" in found["sizes"].measured
    assert "shapes" in found.having("n/a")
    attached = doctor(whorl.attach(model, "axial-rope"))
    assert attached.having("pass") == tuple(attached), str(attached)


@pytest.mark.parametrize("name", TOWERS)
def test_towers_of_packed_images_are_examined_too(name: str, tmp_path: Path) -> None:
    tower = whole(name).model.visual
    found = doctor(tower)
    assert found.having("pass") == tuple(found) == tuple(check.name for check in IMAGE_CHECKS), str(found)
    whorl.attach(tower, "mixed-rope").save_pretrained(tmp_path)
    attached = doctor(tmp_path)
    assert attached.having("n/a") == ("aliases",)
    assert attached.having("pass") == tuple(attached)[:-1], str(attached)


@pytest.mark.parametrize("name", TOWERS)
def test_distances_alone_in_towers_whichever_order_they_have_patches_in(name: str) -> None:
    """The transpose of an image has the transpose of its states, to rounding, also where windows change places."""
    found = doctor(whorl.attach(whole(name).model.visual, "euclidean-alibi"))
    assert (found.healthy, found.having("warn")) == (True, ("axes",)), str(found)


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_that_has_lost_its_places_is_seen(name: str) -> None:
    """Also where windows tell patches apart."""
    tower = whole(name).model.visual
    if hasattr(tower, "pos_embed"):
        tower.pos_embed.weight.data.zero_()
        assert doctor(tower).healthy, "it turns q and k by places too"
    tower.rotary_pos_emb.inv_freq.zero_()
    assert doctor(tower).failed == ("places", "shapes")


def test_that_a_tower_is_not_examined_with_its_text_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = whole("Qwen2_5_VLForConditionalGeneration")
    assert doctor(model)["runs"].status == "pass"
    assert caplog.messages == []
    whorl.attach(model.model.visual, "mixed-rope")
    doctor(model)
    said = "mixed-rope is attached to model.visual, which is not examined here: whorl.doctor(model.model.visual) does"
    assert caplog.messages == [said]


def test_tables_that_have_learned_nothing_yet_are_no_fault() -> None:
    """And they are one where some of it, which tells no places, is learned."""
    model = whorl.attach(tiny_image_model("vit"), "irpe")
    found = doctor(model)
    assert (found.healthy, found.having("warn")) == (True, ("places", "shapes", "axes")), str(found)
    assert found["places"].measured.endswith("whose tables are zeros still: it has learned nothing yet")
    with torch.no_grad():
        for table in whorl.attached(model).parameters():
            table += 1.0  # the same for all buckets
    assert doctor(model).failed == ("places", "shapes")
    besides = doctor(whorl.attach(tiny_image_model("vit"), "axial-rope+irpe"))
    assert besides.having("pass") == tuple(besides), str(besides)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_other_channels(channels: int) -> None:
    tower = whole("Qwen2_5_VLForConditionalGeneration", in_channels=channels).model.visual
    windows = tower.fullatt_block_indexes
    assert doctor(tower).healthy
    assert tower.fullatt_block_indexes is windows
    model = tiny_image_model("vit")
    config = type(model.config).from_dict(model.config.to_dict() | {"num_channels": channels})
    assert doctor(type(model)(config).eval()).healthy


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_image_model("vit").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    doctor(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
