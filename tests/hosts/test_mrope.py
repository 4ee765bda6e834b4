"""Decoders of texts, images and films (Qwen2-VL to Qwen3-VL), whose pairs go by a time, a row or a column each
(M-RoPE), against their own code with other frequencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import whorl
from tests.hosts.test_closed import AXES, VISION
from whorl.conversion.extending import extend, save
from whorl.hosts import host_of
from whorl.hosts.transformers.families import MULTIMODAL
from whorl.hosts.transformers.rotary_module import axes_of_pairs
from whorl.testing import max_error, peaked

IMAGE = 90  # the token that stands for a piece of an image
GRID = torch.tensor([[1, 4, 6]])  # patches: 2 x 3 tokens, four patches each
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "experts_implementation": "eager"}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen2VLForConditionalGeneration": {"vision_config": {**VISION, "hidden_size": 64, "embed_dim": 32}},
    "Qwen2_5_VLForConditionalGeneration": {"vision_config": {**VISION, "intermediate_size": 48}},
    "Qwen3VLForConditionalGeneration": {"vision_config": {**VISION, "deepstack_visual_indexes": [0]}},
    "Qwen3VLMoeForConditionalGeneration": {
        "vision_config": {**VISION, "deepstack_visual_indexes": [0]},
        "text_config": {**AXES, **MOE},
    },
}
CONTIGUOUS, INTERLEAVED = (0, 0, 1, 1, 1, 2, 2, 2), (0, 1, 2, 0, 1, 2, 0, 1)  # of sections 2, 3 and 3


def whole(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    parts = {"text_config": AXES, **MODELS[name], **settings}
    return peaked(cls(cls.config_class(image_token_id=IMAGE, **parts))).eval()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return whole(request.param)


def inputs() -> dict[str, torch.Tensor]:
    """A row of tokens: some of a text, those of an image, and more of the text."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(3, 80, (1, 20), generator=generator)
    ids = torch.cat([text[:, :7], torch.full((1, 6), IMAGE), text[:, 7:]], 1)
    return {
        "input_ids": ids,
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": torch.randn(24, 3 * 2 * VISION["patch_size"] ** 2, generator=generator),
        "image_grid_thw": GRID,
    }


def logits_of(model: Any, **others: Any) -> torch.Tensor:
    return model(**{**inputs(), **others}).logits


def by_own_code(model: Any, frequencies: tuple[float, ...], amplitude: float = 1.0) -> torch.Tensor:
    """What its own code gives with these frequencies of all pairs; the model is as it was afterwards."""
    rotary = host_of(model).rotary
    was, rotary.attention_scaling = (rotary.inv_freq.clone(), rotary.attention_scaling), amplitude
    rotary.inv_freq.copy_(torch.tensor(frequencies, dtype=torch.float64))
    found = logits_of(model)
    rotary.attention_scaling = was[1]
    rotary.inv_freq.copy_(was[0])
    return found


def allowed(logits: torch.Tensor) -> float:
    return 4e-6 * float(logits.abs().max())


@torch.no_grad()
def test_its_own_is_rope_and_attaching_that_changes_nothing(model: Any) -> None:
    stock = logits_of(model)
    assert str(whorl.encoding_of(model)) == "rope:base=10000"
    whorl.attach(model, whorl.encoding_of(model))
    found = logits_of(model)
    assert 0 < max_error(found, stock) + 1e-12 < allowed(stock)
    whorl.detach(model)
    assert torch.equal(logits_of(model), stock)


@pytest.mark.parametrize("encoding", ["hope:train_length=40", "p-rope:p=0.5,keep=slowest", "rope:base=100", "nope"])
@torch.no_grad()
def test_it_is_its_own_code_with_other_frequencies(model: Any, encoding: str) -> None:
    stock = logits_of(model)
    whorl.attach(model, encoding)
    found = logits_of(model)
    spectrum = whorl.encoding_of(model).spectrum(16)
    turning = () if spectrum is None else spectrum.frequencies
    whorl.detach(model)
    assert max_error(found, by_own_code(model, (*turning, *[0.0] * (8 - len(turning))))) < allowed(stock)
    assert max_error(found, stock) > 1e-3


@pytest.mark.parametrize("encoding", ["rope~yarn:factor=8", "frequencies:values=0@0@0@0@0@0@0@0,amplitude=1.5"])
@torch.no_grad()
def test_an_amplitude_is_kept(model: Any, encoding: str) -> None:
    whorl.attach(model, encoding)
    found, spectrum = logits_of(model), whorl.encoding_of(model).spectrum(16)
    whorl.detach(model)
    assert spectrum.amplitude > 1.1
    assert max_error(found, by_own_code(model, spectrum.frequencies, spectrum.amplitude)) < allowed(found)


@torch.no_grad()
def test_part_of_a_head_turns_by_the_axes_of_its_first_pairs(model: Any) -> None:
    """The same heads with their channels in another order: their own code turns the first four of all eight pairs."""
    whorl.attach(model, "partial-rope:fraction=0.5")
    found, stock = logits_of(model), whorl.encoding_of(model).spectrum(16).frequencies
    whorl.detach(model)
    order = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15])
    for attention in host_of(model).attentions:
        for name in ("q_proj", "k_proj", "q_norm", "k_norm"):
            for parameter in () if (part := getattr(attention, name, None)) is None else part.parameters():
                heads = parameter.view(-1, 16, *parameter.shape[1:])
                parameter.copy_(heads[:, order].reshape(parameter.shape))
    assert max_error(found, by_own_code(model, (*stock, 0, 0, 0, 0))) < allowed(found)


@torch.no_grad()
def test_times_rows_and_columns_are_told_apart(model: Any) -> None:
    """By positions that are given, [3, batch, tokens]: a shift of all is nothing, and one of each by itself is not."""
    whorl.attach(model, "rope:base=100")
    ids = inputs()["input_ids"].clamp(max=80)
    given = torch.stack([torch.arange(26) * n % 11 for n in (1, 2, 3)])[:, None]
    first = model(ids, position_ids=given).logits
    assert max_error(model(ids, position_ids=given + 5).logits, first) < 2 * allowed(first)
    for axis in range(3):
        moved = given.clone()
        moved[axis, :, 13:] += 3
        assert max_error(model(ids, position_ids=moved).logits, first) > 1e-3, axis


@torch.no_grad()
def test_of_a_text_it_is_what_qwen_does(model: Any) -> None:
    """One position for all three is what `rope` means elsewhere, given [batch, tokens] too."""
    ids = inputs()["input_ids"].clamp(max=80)
    whorl.attach(model, "hope:train_length=40")
    found = model(ids).logits
    for given in (torch.arange(26)[None], torch.arange(26).expand(3, 1, -1), torch.arange(26).expand(4, 1, -1)):
        assert max_error(model(ids, position_ids=given).logits, found) < allowed(found)


@torch.no_grad()
def test_what_is_generated_after_an_image_goes_on_from_it(model: Any) -> None:
    whorl.attach(model, "hope:train_length=40")
    given = inputs()
    made = model.generate(
        **given, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True, pad_token_id=0
    )
    ids = made.sequences
    again = logits_of(model, input_ids=ids, mm_token_type_ids=(ids == IMAGE).int())
    for i, logits in enumerate(made.logits):
        assert max_error(logits, again[:, 25 + i]) < allowed(again)


@pytest.mark.parametrize(
    "encoding",
    ["hope:train_length=40", "rope~yarn:factor=8", "partial-rope:fraction=0.5", "p-rope:p=0.5~linear:factor=2"],
)
@torch.no_grad()
def test_it_is_saved_with_its_sections_and_its_tower(model: Any, encoding: str, tmp_path: Path) -> None:
    whorl.attach(model, encoding)
    towers = "Qwen2" in type(model).__name__
    if towers:
        whorl.attach(model.model.visual, "axial-rope:base=300,order=ij")
    expected = logits_of(model)
    for _ in range(2):  # over an earlier save, too
        model.save_pretrained(tmp_path / "saved")
    loaded = whorl.load(tmp_path / "saved")
    assert str(whorl.encoding_of(loaded)) == str(whorl.encoding_of(model))
    assert torch.equal(logits_of(loaded), expected)
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())["text_config"]["rope_parameters"]
    assert saved["mrope_section"] == [2, 3, 3]
    assert whorl.doctor(tmp_path / "saved").failed == ()
    if encoding.startswith("partial"):  # its code turns whole heads
        with pytest.raises(ValueError, match="stock transformers cannot say"):
            whorl.export(model, tmp_path / "stock")
    elif towers:
        with pytest.raises(ValueError, match=r"axial-rope:base=300,order=ij on a part of a .*, model\.visual\."):
            whorl.export(model, tmp_path / "stock")
    else:
        whorl.export(model, tmp_path / "stock")
        stock = type(model).from_pretrained(tmp_path / "stock").eval()
        assert max_error(logits_of(stock), expected) < allowed(expected)


def test_what_an_encoding_on_its_tower_needs_is_said_of_a_folder_that_is_written(tmp_path: Path) -> None:
    model = whole("Qwen2_5_VLForConditionalGeneration")
    whorl.attach(model, "rope~yarn:factor=8")
    assert save(model, tmp_path / "text", None, 64) == "stock"
    whorl.attach(model.model.visual, "axial-rope:base=300,order=ij")
    said = "whorl.load (axial-rope:base=300,order=ij is attached to its part model.visual)"
    assert save(model, tmp_path / "both", None, 64) == said


@torch.no_grad()
def test_settings_of_its_text_are_taken_by_a_load(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    said = {**AXES["rope_parameters"], "rope_theta": 500.0}
    loaded = whorl.load(tmp_path, rope_parameters=said)
    assert str(whorl.encoding_of(loaded)) == "rope:base=500"
    found = logits_of(whorl.attach(model, "rope:base=500"))
    assert max_error(logits_of(loaded), found) < allowed(found)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was saved with rope:base=500, which rope_parameters do not change"):
        whorl.load(tmp_path, rope_parameters=said)


@torch.no_grad()
def test_its_text_alone(tmp_path: Path) -> None:
    for name in MODELS:
        text = whole(name).model.language_model
        assert text.config.model_type in MULTIMODAL
        stock = text(inputs()["input_ids"])[0]
        found = whorl.attach(text, "hope:train_length=40")(inputs()["input_ids"])[0]
        assert max_error(found, stock) > 1e-2
        assert torch.equal(whorl.detach(text)(inputs()["input_ids"])[0], stock)


def test_doctor_inspect_and_extend_read_them(model: Any) -> None:
    ids = torch.randint(3, 80, (8, 40), generator=torch.Generator().manual_seed(2))
    assert whorl.doctor(model, text_ids=ids).failed == ()
    best, _ = extend(model, 40, ids, train_length=20, method="yarn")
    assert (best.method, str(whorl.encoding_of(model))) == ("yarn", "rope:base=10000~yarn:factor=2,original=20")
    stock = whorl.inspect(whorl.detach(model), ids, train_length=20, random_windows=2, ablate=True).summary.ablation
    whorl.attach(model, "rope")
    attached = whorl.inspect(model, ids, train_length=20, random_windows=2, ablate=True).summary.ablation
    assert attached.cuts[0].past_change == pytest.approx(stock.cuts[0].past_change, abs=1e-5)
    assert abs(stock.cuts[0].past_change) > 1e-4
    whorl.attach(model, "hope:train_length=40")
    for text in (None, ids):
        found = whorl.doctor(model, text_ids=text)
        assert found.failed == ()
        assert {"cache", "batch", "padding", "shift"} <= set(found.having("pass"))


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        ("alibi", r"alibi does more than turn .* \(M-RoPE\), between which it has no distance; try rope, hope or"),
        ("rope+window:size=8", "window:size=8 does more than turn"),
        ("rope+log-n", "does more than turn"),
        ("fox", "does more than turn"),
        ("learned-rope", "does more than turn q and k by fixed frequencies"),
        ("randomized:length=128+rope", "does more than turn"),
        ("rope~dynamic-ntk:factor=2", "positions in .* have 3 axes and count none; try .*~ntk:factor=4"),
        ("axial-rope", "goes by rows and columns of one image, .* mrope_section says; try one"),
        ("frequencies:values=1@0.5,axes=0@1", r"says which axis .* mrope_section does; try one that says frequencies"),
    ],
)
def test_what_has_no_place_there_is_refused(encoding: str, reason: str) -> None:
    model = whole("Qwen2_5_VLForConditionalGeneration")
    with pytest.raises(ValueError, match=reason):
        whorl.attach(model, encoding)
    assert "whorl_seam" not in vars(host_of(model).attentions[0])


@pytest.mark.parametrize("name", MODELS)
def test_which_pair_goes_by_what_is_read_from_its_own_code(name: str) -> None:
    with torch.device("meta"):
        host = host_of(whole(name))
    assert host.pair_axes == (CONTIGUOUS if "Qwen2" in name else INTERLEAVED)


def with_settings(name: str, **settings: Any) -> Any:
    said = {**AXES["rope_parameters"], **settings}
    return whole(name, text_config={**AXES, **MODELS[name].get("text_config", {}), "rope_parameters": said})


@pytest.mark.parametrize(
    ("name", "sections"),
    [("Qwen2_5_VLForConditionalGeneration", [16, 24, 24]), ("Qwen3VLForConditionalGeneration", [4, 4])],
)
def test_sections_of_other_heads_are_refused(name: str, sections: list[int]) -> None:
    said = ", ".join(map(str, sections))
    with pytest.raises(ValueError, match=rf"mrope_section \[{said}\] does not share out the 8 pairs"):
        whorl.encoding_of(with_settings(name, mrope_section=sections))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_scaling_of_its_own_is_read(name: str) -> None:
    model = with_settings(name, rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
    stock = logits_of(model)
    assert max_error(logits_of(whorl.attach(model, whorl.encoding_of(model))), stock) < allowed(stock)
    model = with_settings(name, rope_type="dynamic", factor=4.0, mrope_interleaved=True)
    own = whorl.encoding_of(model)
    assert str(own) == "rope:base=10000~dynamic-ntk:factor=4,original=64,step=1"
    with pytest.raises(ValueError, match="count none; try"):
        whorl.attach(model, own)
    assert str(whorl.encoding_of(whorl.attach(model, "rope~ntk:factor=4"))) == "rope:base=10000~ntk:factor=4"


@pytest.mark.parametrize(
    ("name", "sections", "pinned"),
    [
        ("Qwen2VLForConditionalGeneration", [16, 24, 24], "Qwen2-VL sections [16,24,24] axis per pair"),
        ("Qwen3VLForConditionalGeneration", [24, 20, 20], "Qwen3-VL interleaved [24,20,20]"),
    ],
)
def test_of_whole_heads_it_is_what_is_pinned(name: str, sections: list[int], pinned: str, shared: Path) -> None:
    pins = json.loads((shared / "pins" / "encodings_2021_2026.json").read_text())["mrope"]
    settings = {**AXES["rope_parameters"], "mrope_section": sections}
    text = {**AXES, "hidden_size": 512, "head_dim": 128, "rope_parameters": settings}
    with torch.device("meta"):
        host = host_of(whole(name, text_config=text))
    assert "".join("thw"[axis] for axis in host.pair_axes) == pins[pinned]
    assert axes_of_pairs(host.rotary) == host.pair_axes
