"""Models of timm in folders: `whorl.save` and `whorl.load`, and what stock timm says of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import whorl
from tests.hosts.timm_models import MAKERS, SIZES, timm
from whorl.points import PointConfig, PointTransformer
from whorl.testing import tiny_image_model

WIDE = torch.randn(2, 3, 16, 64, generator=torch.Generator().manual_seed(1))
NAMES = (
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "vit_base_patch16_siglip_224",
    "eva02_tiny_patch14_224",
    "vit_relpos_small_patch16_224",
)
ENCODINGS = (
    "axial-rope",
    "mixed-rope",
    "liere:per=model",
    "learned-2d:grid=3@5",
    "pape",
    "axial-rope/euclidean-alibi",
)


def built(name: str = NAMES[0], encoding: str | None = None, **sizes: Any) -> Any:
    """A tiny model of this name; what its encoding learns is moved from where it starts."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SIZES, **sizes}).eval()
    if encoding is not None:
        whorl.attach(model, encoding)
        with torch.no_grad():
            for parameter in whorl.attached(model).parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
    return model


def from_stock_code(folder: Path) -> Any:
    return timm.create_model(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_saved_model_loads_with_what_it_learned_and_stock_code_refuses_it(
    name: str, encoding: str, tmp_path: Path
) -> None:
    model = built(name, encoding)
    logits = model(WIDE)
    whorl.save(model, tmp_path / "out")
    loaded = whorl.load(tmp_path / "out")
    assert whorl.encoding_of(loaded) == whorl.encoding_of(model)
    assert not loaded.training
    assert torch.equal(loaded(WIDE), logits)
    assert torch.equal(model(WIDE), logits)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(RuntimeError, match=r"use whorl\.load\(directory\) for this checkpoint"):
        from_stock_code(tmp_path / "out")
    whorl.save(whorl.detach(loaded), tmp_path / "out")  # over the other
    assert torch.equal(from_stock_code(tmp_path / "out").eval()(WIDE[..., :32, :32].repeat(1, 1, 2, 1)), plain(model))


def plain(model: Any) -> torch.Tensor:
    return whorl.detach(model)(WIDE[..., :32, :32].repeat(1, 1, 2, 1))


@torch.no_grad()
def test_frequencies_that_a_model_has_learned_are_where_those_of_the_encoding_start(tmp_path: Path) -> None:
    model = built("vit_small_patch16_rope_mixed_224")
    model.rope.freqs.mul_(1.3)
    square = torch.randn(1, 3, 32, 32)
    stock = model(square)
    whorl.save(whorl.attach(model, whorl.encoding_of(model)), tmp_path)
    loaded = whorl.load(tmp_path)
    assert torch.equal(loaded(square), model(square))
    torch.testing.assert_close(loaded(square), stock, rtol=1e-4, atol=1e-5)
    assert torch.equal(whorl.detach(loaded)(square), stock)


@torch.no_grad()
def test_what_was_changed_since_it_was_built_is_kept(tmp_path: Path) -> None:
    model = built(encoding="axial-rope")
    model.reset_classifier(3, "avg")
    model.set_input_size(img_size=(16, 64))
    whorl.save(model.bfloat16(), tmp_path)
    loaded = whorl.load(tmp_path, dtype=torch.bfloat16)
    assert loaded(WIDE.bfloat16()).shape == (2, 3)
    assert torch.equal(loaded(WIDE.bfloat16()), model.eval()(WIDE.bfloat16()))
    assert whorl.encoding_of(loaded) == whorl.encoding_of(model)
    assert str(whorl.encoding_of(whorl.detach(loaded))) == "learned-2d:grid=2@8,antialias=true"


@pytest.mark.parametrize("name", [NAMES[0], *NAMES[3:]])
@pytest.mark.parametrize("encoding", ["axial-rope", "mixed-rope", "axial-rope/nope/alibi-2d"])
@torch.no_grad()
def test_a_model_of_which_blocks_were_taken_out_is_loaded_without_them(
    name: str, encoding: str, tmp_path: Path
) -> None:
    model = built(name, encoding, depth=3)
    model.blocks = nn.Sequential(model.blocks[0], model.blocks[2])
    for folder in ("once", "twice"):
        whorl.save(model, tmp_path / folder)
        loaded = whorl.load(tmp_path / folder)
        assert len(loaded.blocks) == 2
        assert torch.equal(loaded(WIDE), model(WIDE))
    whorl.save(loaded, tmp_path / "again")
    assert torch.equal(whorl.load(tmp_path / "again")(WIDE), model(WIDE))


@pytest.mark.parametrize("name", [NAMES[0], *NAMES[3:]])
@pytest.mark.parametrize("encoding", ["axial-rope", "sincos-2d", "alibi-2d"])
@torch.no_grad()
def test_patches_of_another_size_are_told_until_the_encoding_is_attached_to_them(name: str, encoding: str) -> None:
    """As many tokens as before, in another grid."""
    model = built(name, encoding, patch_size=(8, 4))
    square = torch.randn(1, 3, 32, 32)
    model.set_input_size(img_size=(32, 32), patch_size=(4, 8))
    with pytest.raises(ValueError, match=r"patches of 8 x 4 pixels when .* into 4 x 8 now .*; whorl\.attach\(model"):
        model(square)
    with pytest.raises(ValueError, match="into 4 x 8 now"):
        model.forward_intermediates(square)
    whorl.attach(model, whorl.encoding_of(model))
    found = model(square)
    anew = whorl.attach(whorl.detach(model), encoding)
    assert torch.equal(found, anew(square))


@torch.no_grad()
def test_a_folder_of_timms_own_is_read_with_its_encoding_or_without(tmp_path: Path) -> None:
    stock, attached = built(), built(encoding="mixed-rope")
    timm.models.save_for_hf(stock, tmp_path / "stock", safe_serialization=True)
    timm.models.save_for_hf(attached, tmp_path / "attached", safe_serialization=True)
    square = torch.randn(1, 3, 32, 32)
    assert torch.equal(whorl.load(tmp_path / "stock")(square), stock(square))
    assert torch.equal(whorl.load(tmp_path / "attached")(WIDE), attached(WIDE))
    with pytest.raises(RuntimeError, match="whorl._extra_state"):
        from_stock_code(tmp_path / "attached")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    whorl.save(built(encoding="axial-rope"), tmp_path / "saved")
    return tmp_path / "saved"


def test_config_and_weights_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    whorl.save(built(encoding="dinov3-rope"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(ValueError, match="says axial-rope:base=100, and its weights were trained with dinov3-rope"):
        whorl.load(folder)
    whorl.save(built(), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(ValueError, match="and its weights were trained with none"):
        whorl.load(folder)
    whorl.save(built(encoding="axial-rope", depth=1), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(ValueError, match=r"does not hold the weights of a VisionTransformer: missing \['blocks\.1"):
        whorl.load(folder)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", "{", "is damaged, it holds no JSON"),
        ("model.safetensors", "{", "cannot read the weights in"),
        ("model.safetensors", None, "cannot read the weights in"),
        ("config.json", {"architecture": "no_such_vit", "pretrained_cfg": {}}, "cannot build the no_such_vit"),
    ],
)
def test_damaged_folders_are_refused_in_words(folder: Path, file: str, content: Any, reason: str) -> None:
    path = folder / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=reason):
        whorl.load(folder)


def test_what_could_not_be_loaded_again_is_not_saved(folder: Path) -> None:
    files = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="nothing says how this VisionTransformer was built"):
        whorl.save(MAKERS["vit"](**SIZES), folder)
    with pytest.raises(ValueError, match="is not serializable"):
        whorl.save(built(norm_layer=nn.LayerNorm), folder)
    with pytest.raises(ValueError, match="nothing says how a PointTransformer is built"):
        whorl.save(PointTransformer(PointConfig(classes=2, width=16, heads=2)), folder)
    with pytest.raises(ValueError, match="is a model and no adapter"):
        whorl.load(folder, base=built())
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize("encoding", [None, "axial-rope"])
def test_doctor_examines_the_folder_of_a_model(encoding: str | None, tmp_path: Path) -> None:
    whorl.save(built(encoding=encoding), tmp_path)
    found = whorl.doctor(tmp_path)
    assert (found.model, found.failed) == (str(tmp_path), ()), str(found)
    assert {"runs", "places", "axes"} <= set(found.having("pass"))
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {}}')
    with pytest.raises(ValueError, match="holds no model: KeyError: 'architecture'"):
        whorl.doctor(tmp_path)


@torch.no_grad()
def test_models_of_transformers_are_saved_in_their_own_way(tmp_path: Path) -> None:
    model = whorl.attach(tiny_image_model("vit"), "axial-rope")
    whorl.save(model, tmp_path)
    assert torch.equal(whorl.load(tmp_path)(WIDE).last_hidden_state, model(WIDE).last_hidden_state)
