"""Models of images: any encoding of a grid, at any height and width, put on and taken off again."""

from __future__ import annotations

import copy
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import whorl
from tests.attaching.images import (
    Bias,
    Place,
    Turn,
    axial,
    check_that_what_is_taken_out_does_not_learn,
    dinov3,
    plain_truth,
    resampling,
)
from tests.contract import refused_here
from whorl.encodings.alibi import slopes
from whorl.hosts import IMAGES
from whorl.testing import tiny_image_model, tiny_model

HEAD_DIM = 16
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # as the models are built for
WIDE = torch.randn(2, 3, 16, 64, generator=torch.Generator().manual_seed(1))  # as many patches, of another grid
TALL = torch.randn(1, 3, 44, 24, generator=torch.Generator().manual_seed(2))  # its last 4 rows fill no patch
SIZES = {"square": PIXELS, "wide": WIDE, "tall": TALL}
ORDERLESS = ("nope", "log-n", "hope-2d:base=100,grid=4@4", "log-n+hope-2d:base=100,grid=4@4")  # no pair turns so fast
ENCODINGS = (
    "axial-rope",
    "p-rope-2d",
    "mixed-rope",
    "dinov3-rope",
    "liere",
    "sincos-2d",
    "learned-2d:grid=3@5",
    "euclidean-alibi",
    "irpe:on=qkv,method=cross",
    "irpe:mode=bias",
    "lookhere",
    "pape",
)


@pytest.fixture(autouse=True)
def handed_on(request: pytest.FixtureRequest) -> None:
    """Skips a family that is refused for its layers in this transformers, as DINOv2 is in 5.17."""
    callspec = getattr(request.node, "callspec", None)
    why = refused_here(callspec.params["family"]) if callspec is not None and "family" in callspec.params else None
    if why is not None:
        pytest.skip(why)


def states(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixels).last_hidden_state


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@cache
@torch.no_grad()
def rounding(family: str) -> float:
    """How far states in float32 are from those in float64, in stock code."""
    model = tiny_image_model(family)
    return 8 * far(states(model, PIXELS), states(copy.deepcopy(model).double(), PIXELS.double()))


def drawn(model: Any) -> Any:
    """The encoding's own parameters moved from where they start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in whorl.attached(model).parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("family", IMAGES)
@torch.no_grad()
def test_attaching_what_is_there_changes_nothing_and_detaching_gives_back_the_bits(family: str) -> None:
    model = tiny_image_model(family)
    stock, own = states(model, PIXELS), whorl.encoding_of(model)
    state = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    table = "learned-2d:grid=4@4" + ",antialias=true" * (family == "dinov2_with_registers")
    assert str(own) == ("dinov3-rope:base=100" if family == "dinov3_vit" else table)
    assert whorl.parse(str(own)) == own
    whorl.attach(model, own)
    assert far(states(model, PIXELS), stock) < rounding(family)
    for encoding in ENCODINGS:
        drawn(whorl.attach(model, encoding))
        assert whorl.encoding_of(model).name == encoding.partition(":")[0]
        assert whorl.encoding_of(model).name == own.name or far(states(model, PIXELS), stock) > 20 * rounding(family)
    whorl.detach(model)
    assert torch.equal(states(model, PIXELS), stock)
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == state
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert whorl.encoding_of(model) == own


def distances(heads: int) -> Bias:
    return lambda row, column, at, by: [-s * math.hypot(row - at, column - by) for s in slopes(heads)]


TRUTHS: dict[str, tuple[Turn | None, Bias | None]] = {
    "nope": (None, None),
    "axial-rope": (axial(HEAD_DIM), None),
    "axial-rope:order=ij,base=30": (axial(HEAD_DIM, 30.0, "ij"), None),
    "hope-2d": (axial(HEAD_DIM, cut=4), None),
    "p-rope-2d:p=0.5": (axial(HEAD_DIM, cut=20), None),
    "mixed-rope:rotate=false": (axial(HEAD_DIM, 10.0), None),
    "dinov3-rope:base=100": (dinov3(HEAD_DIM), None),
    "alibi-2d": (None, distances(2)),
    "euclidean-alibi": (None, distances(2)),
    "axial-rope+euclidean-alibi": (axial(HEAD_DIM), distances(2)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("encoding", TRUTHS)
@pytest.mark.parametrize("family", IMAGES)
@pytest.mark.matrix(times=1)
@torch.no_grad()
def test_any_size_equals_a_plain_attention_on_its_grid(family: str, encoding: str, size: str) -> None:
    model, pixels = tiny_image_model(family), SIZES[size]
    truth = plain_truth(model, pixels, *TRUTHS[encoding])
    same_precision = plain_truth(model, pixels, *TRUTHS[encoding], dtype=torch.float32)
    allowed = 4 * far(same_precision, truth) + torch.finfo(torch.float32).eps
    whorl.attach(model, encoding)
    assert far(states(model, pixels), truth) < allowed
    if "alibi" not in encoding and "mixed" not in encoding:  # biases and learned frequencies are float32
        assert far(states(model.double(), pixels.double()), truth) < 1e-12


@pytest.mark.parametrize("family", IMAGES)
@torch.no_grad()
def test_vectors_of_buckets_equal_a_plain_attention_with_one_for_class_tokens(family: str) -> None:
    """On 5 x 3 patches; each layer has the same table here, of 7 x 7 buckets by rows and columns, and one more."""
    model = whorl.attach(tiny_image_model(family), "irpe")
    table = 0.5 * torch.randn(50, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    for parameter in whorl.attached(model).parameters():
        parameter.copy_(table[None])
    found = states(model, TALL)

    def bucket(i: Place, j: Place) -> int:
        far = (0, 1, 2, 2, 3)  # of 0 to 4 patches
        if i is None or j is None:
            return 49
        down, along = (math.copysign(far[abs(a - b)], a - b) for a, b in zip(i, j, strict=True))
        return int(7 * (down + 3) + along + 3)

    def change(q: torch.Tensor, k: torch.Tensor, at: list[Place]) -> torch.Tensor:
        buckets = torch.tensor([[bucket(i, j) for j in at] for i in at])
        return torch.einsum("bhqd,qkd->bhqk", q, table.to(q.dtype)[buckets])

    stock = whorl.detach(model)
    truth = plain_truth(stock, TALL, change=change)
    allowed = (
        4 * far(plain_truth(stock, TALL, change=change, dtype=torch.float32), truth) + torch.finfo(torch.float32).eps
    )
    assert far(found, truth) < allowed
    assert far(plain_truth(stock, TALL), truth) > 100 * allowed


@pytest.mark.parametrize("family", IMAGES)
@torch.no_grad()
def test_heads_that_look_up_and_down_equal_a_plain_attention(family: str) -> None:
    """On 5 x 3 patches; the first layer of two is thrice as steep as the last, and class tokens see all."""
    model = whorl.attach(tiny_image_model(family), "lookhere:view=180")
    assert str(whorl.encoding_of(model)) == "lookhere:view=180,layers=2"
    found, stock = states(model, TALL), whorl.detach(model)

    def added(i: Place, j: Place, head: int) -> float:
        if i is None or j is None:
            return 0.0
        down = j[0] - i[0]
        return -math.hypot(down, j[1] - i[1]) if (down <= 0 if head == 0 else down >= 0) else -math.inf

    def truth(dtype: torch.dtype, first: float = 1.5, last: float = 0.5) -> torch.Tensor:
        slopes = iter((first, last))  # times 2, and 1/2 of the first heads

        def change(q: torch.Tensor, k: torch.Tensor, at: list[Place]) -> torch.Tensor:
            each = [[[added(i, j, head) for j in at] for i in at] for head in range(2)]
            return next(slopes) * torch.tensor(each, dtype=q.dtype)

        return plain_truth(stock, TALL, change=change, dtype=dtype)

    right = truth(torch.float64)
    allowed = 4 * far(truth(torch.float32), right) + torch.finfo(torch.float32).eps
    assert far(found, right) < allowed
    assert far(truth(torch.float64, 0.5, 1.5), right) > 100 * allowed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", IMAGES)
@torch.no_grad()
def test_its_own_encoding_at_another_size_is_what_stock_code_does_there(family: str, size: str) -> None:
    model, pixels = tiny_image_model(family), SIZES[size]
    stock = model(pixels, **resampling(model)).last_hidden_state
    whorl.attach(model, whorl.encoding_of(model))
    assert far(states(model, pixels), stock) < rounding(family)


@pytest.mark.parametrize(
    "encoding", ["axial-rope", "mixed-rope", "liere", "euclidean-alibi", "irpe", "lookhere", "pape"]
)
@torch.no_grad()
def test_rows_are_not_columns_and_the_number_of_tokens_says_no_grid(encoding: str) -> None:
    """The same patches in the same order, as one grid and as another; and the image on its side."""
    model = drawn(whorl.attach(tiny_image_model("siglip_vision_model"), encoding))
    patches = torch.randn(16, 3, 8, 8)

    def laid(rows: int, columns: int) -> torch.Tensor:
        return patches.view(rows, columns, 3, 8, 8).permute(2, 0, 3, 1, 4).reshape(1, 3, 8 * rows, 8 * columns)

    square, wide, tall = (states(model, laid(*grid)) for grid in ((4, 4), (2, 8), (8, 2)))
    assert far(wide, square) > 1e-2
    assert far(wide, tall) > 1e-2


@pytest.mark.parametrize("encoding", [*ENCODINGS, "sincos-2d+axial-rope", "learned-2d+mixed-rope"])
@pytest.mark.parametrize("family", IMAGES)
@pytest.mark.matrix(times=1)
@torch.no_grad()
def test_a_saved_model_loads_with_what_it_learned_and_stock_code_refuses_it(
    family: str, encoding: str, tmp_path: Path
) -> None:
    model = drawn(whorl.attach(tiny_image_model(family), encoding))
    model.save_pretrained(tmp_path)
    loaded = whorl.load(tmp_path)
    assert whorl.encoding_of(loaded) == whorl.encoding_of(model)
    assert torch.equal(states(loaded, WIDE), states(model, WIDE))
    with pytest.raises((OSError, ValueError), match=r"use whorl\.load"):
        transformers.AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("family", ["vit", "dinov3_vit", "siglip_vision_model"])
@pytest.mark.matrix(times=1)
def test_gradients_reach_what_is_learned_and_checkpointing_changes_none(family: str, encoding: str) -> None:
    model = whorl.attach(tiny_image_model(family), encoding).train()
    for size in (WIDE, PIXELS):  # one after the other: nothing of the first is left
        model.zero_grad()
        states(model, size).square().mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for name, parameter in whorl.attached(model).named_parameters():
        assert not parameter.numel() or parameter.grad.any(), name
    model.gradient_checkpointing_enable()
    model.zero_grad()
    states(model, PIXELS).square().mean().backward()
    for name, grad in found.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encoding", ["axial-rope", "learned-2d:grid=4@4"])
@pytest.mark.parametrize("family", IMAGES)
def test_what_is_taken_out_does_not_learn(family: str, encoding: str) -> None:
    check_that_what_is_taken_out_does_not_learn(tiny_image_model(family).train(), encoding, PIXELS)


@torch.no_grad()
def test_images_of_several_sizes_follow_one_another_and_copies_have_their_own() -> None:
    model = whorl.attach(tiny_image_model("vit"), "axial-rope+euclidean-alibi")
    first, twin = states(model, WIDE), copy.deepcopy(model)
    states(model, TALL)
    assert torch.equal(states(model, WIDE), first)
    whorl.detach(model)
    assert torch.equal(states(twin, WIDE), first)


def test_that_rows_and_columns_change_places_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """In the model whose own pairs go by rows first; to those that turn nothing themselves either order is as good."""
    for family, order, told in (("dinov3_vit", "xy", True), ("dinov3_vit", "ij", False), ("vit", "xy", False)):
        caplog.clear()
        whorl.attach(tiny_image_model(family), f"axial-rope:order={order}")
        said = "its own, dinov3-rope:base=100, take rows for columns; order=ij gives each pair its own axis"
        assert (said in caplog.text) is told


def test_what_a_training_draws_for_its_own_rotation_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """DINOv3 scales its coordinates anew in every forward; an attached encoding goes by the image's own."""
    model = tiny_image_model("dinov3_vit").train()
    assert not torch.equal(states(model, PIXELS), states(model, PIXELS))
    whorl.attach(model, whorl.encoding_of(model))
    assert "moves or scales the places of patches" in caplog.text
    assert "(pos_embed_rescale=2)" in caplog.text
    assert torch.equal(states(model, PIXELS), states(model, PIXELS))
    caplog.clear()
    whorl.attach(tiny_image_model("vit"), "axial-rope")
    assert not caplog.text


@pytest.mark.parametrize("encoding", ["mixed-rope", "liere"])
def test_transformers_trainer_leaves_learned_frequencies_out_of_weight_decay(encoding: str, tmp_path: Path) -> None:
    """As published (RoPE-ViT, 2403.13298)."""
    model = whorl.attach(tiny_image_model("vit"), encoding)
    trainer = transformers.Trainer(model, transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    decayed = {*trainer.get_decay_parameter_names(model)}
    own = {name for name, _ in model.named_parameters() if "whorl" in name}
    assert own
    assert not own & decayed
    assert any(name.endswith("attention.q_proj.weight") or "query" in name for name in decayed)


@torch.no_grad()
def test_a_classifier_has_the_encoding_of_what_it_holds() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8)
    model = transformers.ViTForImageClassification(config).eval()
    logits = model(PIXELS).logits
    whorl.attach(model, "axial-rope")
    assert whorl.attached(model) is whorl.attached(model.vit)
    assert model(WIDE).logits.shape == (2, 2)
    assert torch.equal(whorl.detach(model)(PIXELS).logits, logits)


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        ("rope", "turns pairs by positions of one axis, and a position in ViTModel has 2; .* as axial-rope"),
        ("hope", "as hope-2d$"),
        ("p-rope", "as p-rope-2d$"),
        ("alibi", "try alibi-2d, axial-rope, hope-2d, lookhere or irpe.* positions of one axis, and these have 2"),
        ("t5", "try axial-rope, alibi-2d, hope-2d, lookhere or irpe.* positions of one axis"),
        ("learned", "stand on a grid; try learned-2d, sincos-2d"),
        ("window:size=4", "positions of one axis"),
        ("frequencies:values=1@1,axes=0@6", "turns pairs by 7 axes"),
    ],
)
def test_what_goes_by_tokens_in_a_row_is_refused_on_a_grid(encoding: str, reason: str) -> None:
    model = tiny_image_model("vit")
    with pytest.raises(ValueError, match=reason):
        whorl.attach(model, encoding)
    assert whorl.attached(model) is None


ON_GRID = ["axial-rope", "p-rope-2d", "hope-2d", "mixed-rope", "dinov3-rope", "sincos-2d", "learned-2d"]


@pytest.mark.parametrize("encoding", [*ON_GRID, "learned-2d:grid=4@4", "hope-2d~ntk:factor=2", "rope/hope-2d"])
def test_what_goes_by_a_grid_is_refused_in_a_row_before_anything_else_is_asked_for(encoding: str) -> None:
    with pytest.raises(
        ValueError, match=r"goes by rows and columns, and a position in .*LlamaForCausalLM\) has 1 axis"
    ):
        whorl.attach(tiny_model("llama"), encoding)


def test_an_image_without_a_whole_patch_is_refused() -> None:
    model = whorl.attach(tiny_image_model("vit"), "axial-rope")
    with pytest.raises(ValueError, match="an image of 4 x 32 pixels holds no patch of 8 x 8"):
        model(torch.randn(1, 3, 4, 32))


def test_another_attention_that_would_drop_the_encoding_is_refused() -> None:
    model = whorl.attach(tiny_image_model("siglip_vision_model"), "axial-rope")
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="somebody has set 'sdpa', which would drop it"):
        model(PIXELS)


@torch.no_grad()
def test_logits_may_be_scaled_by_the_number_of_patches() -> None:
    """At as many tokens as it is trained with, scaling by their logarithm does nothing; with more it does."""
    model = tiny_image_model("siglip_vision_model")
    large = torch.randn(1, 3, 64, 64)
    plain = [states(whorl.attach(model, "axial-rope"), pixels) for pixels in (PIXELS, large)]
    scaled = [states(whorl.attach(model, "axial-rope+log-n"), pixels) for pixels in (PIXELS, large)]
    assert far(scaled[0], plain[0]) < rounding("siglip_vision_model")
    assert far(scaled[1], plain[1]) > 1e-3


@pytest.mark.parametrize(
    "notation", ["fox", "cope", "path", "stick-breaking", "alibi", "t5", "window:size=8", "linear"]
)
def test_encodings_of_texts_are_refused_with_some_that_go_by_a_grid(notation: str) -> None:
    model = tiny_image_model("vit")
    first = "alibi-2d, axial-rope" if notation == "alibi" else "axial-rope, alibi-2d"
    with pytest.raises(ValueError, match=f"try {first}") as refused:
        whorl.attach(model, notation)
    assert "rope, t5 or alibi" not in str(refused.value)
    for name in ("axial-rope", "alibi-2d", "hope-2d"):
        whorl.attach(model, name)


@torch.no_grad()
def test_pixels_that_fill_no_patch_change_nothing() -> None:
    model = whorl.attach(tiny_image_model("vit"), "axial-rope")
    pixels = torch.randn(1, 3, 50, 60)
    assert torch.equal(model(pixels).last_hidden_state, model(pixels[..., :48, :56]).last_hidden_state)


@pytest.mark.parametrize("encoding", [*ORDERLESS, *ENCODINGS, "nope/axial-rope", "log-n+learned-2d"])
def test_a_model_that_is_told_no_places_is_said_to_take_an_image_for_a_bag(
    encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And what it is told of is what it sees: patches in another order, under the same encoding."""
    model = tiny_image_model("vit")
    with caplog.at_level("WARNING", logger="whorl"):
        whorl.attach(model, encoding)
    told = [record.getMessage() for record in caplog.records if "bag of patches" in record.getMessage()]
    assert len(told) == (encoding in ORDERLESS)
    if encoding in ORDERLESS:
        assert told[0].startswith(f"{whorl.encoding_of(model)} tells this ViTModel nothing of where patches stand")
        other = PIXELS.unflatten(-1, (4, 8)).flip(-2).flatten(-2)  # columns of patches the other way round
        with torch.no_grad():
            states, moved = (model(pixels).last_hidden_state[:, 1:] for pixels in (PIXELS, other))
        assert torch.allclose(moved.unflatten(1, (4, 4)).flip(2).flatten(1, 2), states, atol=1e-4)
