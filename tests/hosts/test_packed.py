"""Towers of packed images (Qwen2-VL's to Qwen3-VL's) against their own code with other frequencies and tables."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers

import whorl
from tests.hosts.test_closed import AXES, VISION
from whorl.attaching.stock import stock_form
from whorl.hosts import host_of, open_host
from whorl.sources import source
from whorl.testing import max_error

GRIDS = torch.tensor([[1, 4, 6], [1, 8, 2], [2, 2, 4]])  # two images, and a film of two frames
PIXELS = 3 * 2 * VISION["patch_size"] ** 2
TABLED = {**VISION, "depth": 2, "intermediate_size": 48, "num_position_embeddings": 36, "deepstack_visual_indexes": [0]}
TOWERS = {
    "Qwen2VLForConditionalGeneration": {**VISION, "depth": 2, "hidden_size": 64, "embed_dim": 32},
    "Qwen2_5_VLForConditionalGeneration": {
        **VISION,
        "depth": 2,
        "intermediate_size": 48,
        "fullatt_block_indexes": [1],
        "window_size": 16,
    },
    "Qwen3VLForConditionalGeneration": TABLED,
    "Qwen3VLMoeForConditionalGeneration": TABLED,
    "Qwen3_5ForConditionalGeneration": TABLED,
    "Qwen3_5MoeForConditionalGeneration": TABLED,
}
WITH_TABLE = [name for name, sizes in TOWERS.items() if sizes is TABLED]


def whole(name: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    text = copy.deepcopy(AXES)  # Qwen3.5's config writes into it
    made = cls(cls.config_class(text_config=text, vision_config={**TOWERS[name], **sizes})).eval()
    with torch.no_grad():
        for block in made.model.visual.blocks:
            block.attn.qkv.weight *= 8  # attention is peaked, so that places matter
        if name in WITH_TABLE:
            made.model.visual.pos_embed.weight *= 20
    return made


@pytest.fixture(params=TOWERS)
def model(request: pytest.FixtureRequest) -> Any:
    return whole(request.param)


@pytest.fixture
def patches() -> torch.Tensor:
    return torch.randn(int(GRIDS.prod(1).sum()), PIXELS, generator=torch.Generator().manual_seed(1))


def seen(tower: Any, patches: torch.Tensor, grids: torch.Tensor = GRIDS) -> torch.Tensor:
    return tower(patches, grids).last_hidden_state


def with_frequencies(tower: Any, frequencies: torch.Tensor, table: torch.Tensor | None = None) -> None:
    """Its own code turns rows and columns by these, and adds vectors of this table, or none."""
    tower.rotary_pos_emb.inv_freq.copy_(frequencies)
    if hasattr(tower, "pos_embed"):
        tower.pos_embed.weight.copy_(torch.zeros(()) if table is None else table)


@torch.no_grad()
def test_its_own_is_axial_and_attaching_that_changes_nothing(model: Any, patches: torch.Tensor) -> None:
    tower = model.model.visual
    stock = seen(tower, patches)
    table = "learned-2d:grid=6@6+" if hasattr(tower, "pos_embed") else ""
    assert str(whorl.encoding_of(tower)) == f"{table}axial-rope:base=10000,order=ij"
    assert str(stock_form(tower)).endswith("has no config to say it in")
    whorl.attach(tower, whorl.encoding_of(tower))
    assert 0 < max_error(seen(tower, patches), stock) + 1e-12 < 2e-6 * float(stock.abs().max())
    whorl.detach(tower)
    assert torch.equal(seen(tower, patches), stock)


@pytest.mark.parametrize(
    ("encoding", "frequencies"),
    [
        ("axial-rope:base=100,order=ij", [1, 100**-0.25, 100**-0.5, 100**-0.75]),
        ("hope-2d:base=100,grid=20@20,order=ij", [1, 100**-0.25, 0, 0]),  # turns of 6.3, 19.9, 63 and 199 patches
        ("p-rope-2d:p=0.25,base=100,order=ij", [1, 0, 0, 0]),
        ("nope", [0, 0, 0, 0]),
    ],
)
@torch.no_grad()
def test_it_is_its_own_code_with_other_frequencies(
    model: Any, patches: torch.Tensor, encoding: str, frequencies: list[float]
) -> None:
    tower = model.model.visual
    stock = seen(tower, patches)
    whorl.attach(tower, encoding)
    found = seen(tower, patches)
    assert max_error(found, stock) > 1e-3
    whorl.detach(tower)
    with_frequencies(tower, torch.tensor(frequencies))
    assert max_error(found, seen(tower, patches)) < 2e-6 * float(stock.abs().max())


@pytest.mark.parametrize("encoding", ["axial-rope", "hope-2d:grid=24@24", "p-rope-2d:p=0.5"])
def test_that_rows_and_columns_change_places_is_told(
    model: Any, encoding: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    tower, of = model.model.visual, ":" if ":" not in encoding else ","
    whorl.attach(tower, f"{encoding}{of}order=ij")
    assert "take rows for columns" not in caplog.text
    whorl.attach(tower, encoding)
    own = "learned-2d:grid=6@6+" if hasattr(tower, "pos_embed") else ""
    said = f"with its own, {own}axial-rope:base=10000,order=ij, take rows for columns; order=ij gives each pair its own"
    assert said in caplog.text
    caplog.clear()
    model.save_pretrained(tmp_path)
    whorl.load(tmp_path)
    assert "take rows for columns" not in caplog.text, "its weights were saved with it"
    whorl.attach(tower, "frequencies:values=1@1@1@1@1@1@1@1,axes=0@1@0@1@0@1@0@1")
    assert "take rows for columns" not in caplog.text, "half of the pairs go by what they went by"


def test_what_was_filled_is_told(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "whorl")
    whorl.attach(model.model.visual, "p-rope-2d:p=0.5,order=ij")
    assert caplog.messages == ["p-rope-2d: base 10,000 from the model's config"]
    tabled = whole("Qwen3VLForConditionalGeneration").model.visual
    whorl.attach(tabled, "hope-2d:order=ij")
    assert caplog.messages[-1:] == ["hope-2d: base 10,000 and grid 6 x 6 from the model's config"]


@pytest.mark.parametrize("name", WITH_TABLE)
@torch.no_grad()
def test_a_table_stays_where_it_is_named(name: str, patches: torch.Tensor) -> None:
    """Started from the tower's own, and then another one."""
    tower = whole(name).model.visual
    own, frequencies = tower.pos_embed.weight.clone(), torch.tensor([1, 100**-0.25, 0, 0])
    whorl.attach(tower, "learned-2d+hope-2d:base=100,grid=20@20,order=ij")
    assert str(whorl.encoding_of(tower)) == "learned-2d:grid=6@6+hope-2d:base=100,order=ij,grid=20@20"
    table = next(p for p in whorl.attached(tower).parameters() if p.numel())
    kept, other = seen(tower, patches), torch.randn(6, 6, 32, generator=torch.Generator().manual_seed(2))
    table.copy_(other)
    changed = seen(tower, patches)
    whorl.detach(tower)
    for found, rows in ((kept, own), (changed, other.flatten(0, 1))):
        with_frequencies(tower, frequencies, rows)
        expected = seen(tower, patches)
        assert max_error(found, expected) < 2e-6 * float(expected.abs().max())
    assert max_error(kept, changed) > 1e-2


@torch.no_grad()
def test_a_table_may_have_rows_that_are_never_read(patches: torch.Tensor) -> None:
    tower = whole("Qwen3VLForConditionalGeneration", num_position_embeddings=40).model.visual
    stock = seen(tower, patches)
    assert str(whorl.encoding_of(tower)).startswith("learned-2d:grid=6@6+")
    whorl.attach(tower, whorl.encoding_of(tower))
    assert max_error(seen(tower, patches), stock) < 2e-6 * float(stock.abs().max())


@torch.no_grad()
def test_a_table_may_be_kept_elsewhere(patches: torch.Tensor) -> None:
    """accelerate's hooks bring the numbers of a module when it is called."""
    tower = whorl.attach(whole("Qwen3VLForConditionalGeneration").model.visual, "learned-2d+axial-rope:order=ij")
    expected = seen(tower, patches)
    assert torch.equal(seen(accelerate.cpu_offload(tower, execution_device="cpu"), patches), expected)


def test_an_adapter_on_the_table_is_refused(patches: torch.Tensor) -> None:
    """It would be without effect beside another table, and stay beside none."""
    import peft

    config = peft.LoraConfig(r=2, target_modules=["pos_embed"])
    model = whole("Qwen3VLForConditionalGeneration")
    peft.get_peft_model(model, config)
    with pytest.raises(ValueError, match="the table of positions of this .* has an adapter of PEFT on it"):
        whorl.attach(model.model.visual, "axial-rope:order=ij")
    model = whole("Qwen3VLForConditionalGeneration")
    whorl.attach(model.model.visual, "axial-rope:order=ij")
    peft.get_peft_model(model, config)
    with pytest.raises(ValueError, match="has an adapter of PEFT on it"):
        seen(model.model.visual, patches)
    with pytest.raises(ValueError, match="has an adapter of PEFT on it"):
        whorl.detach(model.model.visual)


@pytest.mark.parametrize("alone", [True, False])
@torch.no_grad()
def test_a_table_that_has_learned_is_saved(alone: bool, patches: torch.Tensor, tmp_path: Path) -> None:
    model = whole("Qwen3VLForConditionalGeneration")
    tower = whorl.attach(model.model.visual, "learned-2d+p-rope-2d:p=0.25,base=100,order=ij")
    for parameter in whorl.attached(tower).parameters():
        parameter.normal_()
    expected = seen(tower, patches)
    (tower if alone else model).save_pretrained(tmp_path)
    loaded = whorl.load(tmp_path)
    loaded = loaded if alone else loaded.model.visual
    assert whorl.encoding_of(loaded) == whorl.encoding_of(tower)
    assert torch.equal(seen(loaded, patches), expected)


def test_a_table_that_is_out_does_not_learn(patches: torch.Tensor) -> None:
    """DDP refuses parameters that are to learn and take no part."""
    tower = whole("Qwen3VLForConditionalGeneration").model.visual.train()
    for encoding, learns in (("axial-rope:order=ij", False), ("learned-2d+axial-rope:order=ij", True)):
        whorl.attach(tower, encoding)
        seen(tower, patches).square().sum().backward()
        assert not tower.pos_embed.weight.requires_grad
        gradients = [p.grad for p in whorl.attached(tower).parameters()]
        assert [x is not None and bool(x.any()) for x in gradients] == [True] * learns
    whorl.detach(tower)
    assert tower.pos_embed.weight.requires_grad


@torch.no_grad()
def test_rows_and_columns_are_told_apart(model: Any, patches: torch.Tensor) -> None:
    """With the halves of the pairs exchanged, an image sees what its mirror at the diagonal saw."""
    tower = model.model.visual
    made = {order: seen(whorl.attach(tower, f"axial-rope:base=100,order={order}"), patches) for order in ("xy", "ij")}
    assert max_error(made["xy"], made["ij"]) > 1e-3


@torch.no_grad()
def test_images_do_not_see_one_another(model: Any, patches: torch.Tensor) -> None:
    tower = whorl.attach(model.model.visual, "axial-rope")
    packed = seen(tower, patches)
    for grid, own, together in zip(
        GRIDS, patches.split(GRIDS.prod(1).tolist()), packed.split(GRIDS.prod(1).tolist()), strict=True
    ):
        assert max_error(seen(tower, own, grid[None]), together) < 2e-6 * float(packed.abs().max())


@torch.no_grad()
def test_hidden_states_come_row_by_row(model: Any) -> None:
    """Without places and windows, patches in another order have the same states in that order."""
    tower = whorl.attach(model.model.visual, "nope")
    tower.fullatt_block_indexes = [0, 1]  # Qwen2.5-VL keeps its order by windows all the same
    patches = torch.randn(8 * 12, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(2))

    def states(of: torch.Tensor) -> torch.Tensor:
        pixels = of.unflatten(0, (8, 12)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
        there, _ = host_of(tower).hidden_of(torch.stack([pixels, pixels.flip(0)]))
        return there

    found = states(patches)
    assert max_error(states(patches[order]), found[order]) < 2e-6 * float(found.abs().max())
    assert max_error(found[order], found) > 1e-2


@torch.no_grad()
def test_positions_of_one_tensor_may_change_between_calls(patches: torch.Tensor) -> None:
    """Tables are those of a call, and not of the tensor that positions were given in."""
    tower = whorl.attach(whole("Qwen2VLForConditionalGeneration").model.visual, "axial-rope")
    given = torch.stack([torch.arange(len(patches)), torch.arange(len(patches)) % 5], 1)
    first = tower(patches, GRIDS, position_ids=given).last_hidden_state
    given.mul_(2)
    second = tower(patches, GRIDS, position_ids=given).last_hidden_state
    assert max_error(first, second) > 1e-4
    assert torch.equal(tower(patches, GRIDS, position_ids=given.clone()).last_hidden_state, second)


def test_it_learns_under_checkpointing_as_without(model: Any, patches: torch.Tensor) -> None:
    tower = whorl.attach(model.model.visual, "axial-rope").train()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            tower.gradient_checkpointing_enable()
        tower.zero_grad()
        seen(tower, patches).square().sum().backward()
        gradients.append([p.grad.clone() for p in tower.blocks.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_it_compiles(patches: torch.Tensor) -> None:
    tower = whorl.attach(whole("Qwen2_5_VLForConditionalGeneration").model.visual, "axial-rope")
    expected = seen(tower, patches)
    compiled = torch.compile(tower, backend="eager")
    for _ in range(2):
        assert max_error(seen(compiled, patches), expected) < 2e-6 * float(expected.abs().max())


@torch.no_grad()
def test_the_whole_model_is_saved_with_its_tower(model: Any, patches: torch.Tensor, tmp_path: Path) -> None:
    whorl.attach(model.model.visual, "axial-rope:base=300")
    expected = seen(model.model.visual, patches)
    model.save_pretrained(tmp_path)
    loaded = whorl.load(tmp_path)
    assert str(whorl.encoding_of(loaded.model.visual)) == "axial-rope:base=300"
    assert torch.equal(seen(loaded.model.visual, patches), expected)


def test_what_a_tower_has_is_not_the_whole_models() -> None:
    """Also where no seam is known of the text."""
    model = whole("Qwen3_5ForConditionalGeneration")
    whorl.attach(model.model.visual, "axial-rope:base=300")
    assert whorl.attached(model) is None
    for of_all in (whorl.encoding_of, whorl.detach):
        with pytest.raises(ValueError, match="no known seam|nothing is attached"):
            of_all(model)


@torch.no_grad()
def test_a_tower_is_saved_alone(model: Any, patches: torch.Tensor, tmp_path: Path) -> None:
    tower = whorl.attach(model.model.visual, "axial-rope:base=300")
    expected = seen(tower, patches)
    tower.save_pretrained(tmp_path)
    loaded = whorl.load(tmp_path)
    assert str(whorl.encoding_of(loaded)) == "axial-rope:base=300"
    assert torch.equal(seen(loaded, patches), expected)


def test_an_axis_that_nothing_goes_by_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tower = whole("Qwen2VLForConditionalGeneration").model.visual
    whorl.attach(tower, "frequencies:values=1@0.5,axes=0@0")
    assert "goes by no axis 1 of the 2" in caplog.text
    caplog.clear()
    whorl.attach(whole("Qwen3VLForConditionalGeneration").model.visual, "learned-2d")
    assert "goes by no axis" not in caplog.text
    whorl.attach(tower, "nope")
    assert "takes an image for a bag of patches; try axial-rope:order=ij or p-rope-2d:order=ij" in caplog.text


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        ("learned-2d:grid=4@4", "has another table than .* of 6 x 6 by itself; try learned-2d:grid=6@6"),
        ("learned-2d:antialias=true", "has another table than"),
        ("sincos-2d", "has another table than"),
        ("learned:max_positions=36", "has another table than"),
    ],
)
def test_another_table_is_refused(encoding: str, reason: str) -> None:
    tower = whole("Qwen3VLForConditionalGeneration").model.visual
    with pytest.raises(ValueError, match=reason):
        whorl.attach(tower, encoding)
    assert "whorl_seam" not in vars(host_of(tower).attentions[0])


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        (
            "axial-rope:scale=4@4",
            "goes by where a patch stands between the ends of its image, .* as axial-rope:order=ij without a scale",
        ),
        ("learned-2d:grid=6@6", "adds vectors to patches, .* has no table .* try one that turns q and k"),
        ("learned-2d", "adds vectors to patches, .* has no table .* try one that turns q and k"),
        ("sincos-2d", "adds vectors to patches"),
        ("alibi", "it reads images; try alibi-2d, axial-rope"),
        ("fox", "has no meaning in an encoder"),
        ("rope", "positions of one axis, .* as axial-rope"),
        ("hope:train_length=16", "as hope-2d"),
        ("dinov3-rope", "goes by where a patch stands between the ends of its image"),
        ("hope-2d", "grid"),
    ],
)
def test_what_has_no_place_there_is_refused(encoding: str, reason: str) -> None:
    tower = whole("Qwen2VLForConditionalGeneration").model.visual
    with pytest.raises(ValueError, match=reason):
        whorl.attach(tower, encoding)
    assert "whorl_seam" not in vars(host_of(tower).attentions[0])


def test_what_reads_texts_says_so(model: Any, tmp_path: Path) -> None:
    tower = model.model.visual
    words = r"^\w+ reads images packed in one row, and this is done with models of texts"
    with pytest.raises(ValueError, match=words):
        open_host(tower)
    tower.save_pretrained(tmp_path)
    words = "reads images, and this is done with models of texts; try whorl inspect .*, whorl doctor .*, or in Python"
    with pytest.raises(ValueError, match=words):
        source(str(tmp_path))
