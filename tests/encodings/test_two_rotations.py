"""Self-Extend and ReRoPE: the distances that a model is shown, RoPE within the window, a real model past its length."""

from __future__ import annotations

import pytest
import torch
from tests.encodings.attended import attend, decoded, random_qkv
from transformers import AutoModelForCausalLM, AutoTokenizer

import whorl
from whorl.encodings import Shape, parse
from whorl.encodings.rerope import ReRoPE
from whorl.encodings.self_extend import SelfExtend
from whorl.testing import logits_and_budget, tiny_model

ENCODINGS = (
    SelfExtend(window=5, group=3),
    ReRoPE(window=5),
    ReRoPE(window=5, leak=0.25),
    SelfExtend(window=4, group=4),
)


def distance(encoding: SelfExtend | ReRoPE, i: int, j: int) -> float:
    """As the formulas have it, from the position of a query and of a key."""
    w = encoding.window
    assert w is not None
    if i - j < w:
        return i - j
    if isinstance(encoding, SelfExtend):
        return (i // encoding.group + w - w // encoding.group) - j // encoding.group
    return w + encoding.leak * (i - j - w)


def module_of(encoding, layout: str = "half", head_dim: int = 4):
    (effect,) = encoding.effects(Shape(head_dim=head_dim, heads=2, width=8, layout=layout, channels=6))
    return effect.module


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_logits_are_ropes_at_the_distances_of_the_formula(encoding, layout: str) -> None:
    """With the pairs of a partial head as complex numbers, and two channels that do not turn."""
    q, k, _ = random_qkv(tokens=17, width=6)
    qkv = (q, k, torch.randn(2, 2, 17, 6, dtype=torch.float64))
    start = torch.tensor([[100], [3]])
    _, weights = attend(module_of(encoding, layout), qkv, positions=torch.arange(17) + start)

    def pairs(x: torch.Tensor) -> torch.Tensor:
        a, b = (x[..., :2], x[..., 2:4]) if layout == "half" else (x[..., 0:4:2], x[..., 1:4:2])
        return torch.complex(a, b)

    frequencies = torch.tensor([1.0, 0.01], dtype=torch.float64)
    for b, h, i in ((0, 0, 16), (1, 1, 16), (0, 1, 9), (1, 0, 3)):
        logits = []
        for j in range(i + 1):
            turn = torch.polar(
                torch.ones(2).double(), frequencies * distance(encoding, int(start[b]) + i, int(start[b]) + j)
            )
            turned = (pairs(q[b, h, i]) * turn * pairs(k[b, h, j]).conj()).sum().real
            logits.append(0.5 * (turned + q[b, h, i, 4:] @ k[b, h, j, 4:]))
        torch.testing.assert_close(weights[b, h, i, : i + 1], torch.stack(logits).softmax(0), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_gradients_and_pieces(encoding) -> None:
    module = module_of(encoding)
    leaves = [x.requires_grad_() for x in random_qkv(batch=1, tokens=9, width=6)]
    assert torch.autograd.gradcheck(lambda *x: attend(module, x)[0], leaves)
    qkv = random_qkv(tokens=16, width=6)
    torch.testing.assert_close(decoded(module, qkv, [9, 1, 4, 1, 1]), attend(module, qkv)[0])


def test_the_window_is_a_quarter_of_the_training_length() -> None:
    model = whorl.attach(tiny_model("llama", max_position_embeddings=48), "rerope")
    assert {effect.window for effect in whorl.attached(model).effects} == {12}
    assert whorl.encoding_of(model).train_length == 48


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "cohere", "phi", "smollm3", "gpt_oss"])
@pytest.mark.parametrize(
    "encoding", ["self-extend:window=64", "rerope:window=64", "self-extend:window=4,group=1", "rerope:window=4,leak=1"]
)
def test_a_model_reads_as_with_rope_where_nothing_is_far(family: str, encoding: str) -> None:
    """Within the window; and past it in groups of one token, or where nothing is held back."""
    model = whorl.attach(tiny_model(family), "rope")
    tokens = torch.randint(3, 97, (2, 30))
    logits, budget = logits_and_budget(model, tokens)
    whorl.attach(model, encoding)
    assert (model(tokens).logits - logits).abs().max() < budget
    whorl.attach(model, encoding.split(":")[0] + ":window=4")
    assert (model(tokens).logits - logits).abs().max() > 100 * budget, "the comparison can fail"


@torch.no_grad()
@pytest.mark.parametrize("notation", ["self-extend", "rerope", "rerope:leak=0.05", "rerope+log-n"])
def test_a_real_model_reads_on_past_its_training_length(shared, notation: str) -> None:
    """babyllama-tok105, trained at 256 tokens: a loss of 1.1 there, and of 3.4 and more from 384 on with RoPE."""
    folder = str(shared / "fixtures" / "babyllama-tok105")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = (shared / "fixtures/text/tinystories_sample.txt").read_text()
    tokens = tokenizer(text, return_tensors="pt").input_ids[:, : 3 * 1020].view(3, 1020)

    def losses() -> torch.Tensor:
        """By position, the mean over the windows."""
        logits = model(tokens).logits[:, :-1].transpose(1, 2)
        return torch.nn.functional.cross_entropy(logits, tokens[:, 1:], reduction="none").mean(0)

    stock = losses()
    whorl.attach(model, notation)
    ours = losses()
    torch.testing.assert_close(ours[:63], stock[:63], rtol=1e-3, atol=1e-3)  # the window is 64
    assert stock[384:].mean() > 3.3
    assert ours[:256].mean() < stock[:256].mean() + 0.2
    assert ours[384:].mean() < 2


@pytest.mark.parametrize(
    ("notation", "why"),
    [
        ("self-extend:group=0", "group must be a whole number of at least 1"),
        ("rerope:window=0", "window must be a whole number of at least 1"),
        ("rerope:leak=2", r"leak .* must be in \[0, 1\], got 2"),
        ("rerope:base=1", "base must be a finite number above 1"),
        ("rope+rerope", "rope and rerope both rotate q and k"),
        ("self-extend+rerope", "both rotate q and k"),
    ],
)
def test_what_makes_no_sense(notation: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(notation)


@pytest.mark.parametrize("encoding", ["self-extend", "rerope"])
def test_a_model_that_normalises_by_channel_after_its_rotation_is_refused(encoding: str) -> None:
    """Turned after that norm, near keys would not be scored as the model was trained to; Llama 4's has no weights."""
    with pytest.raises(ValueError, match="hunyuan_v1_dense.* was trained to normalise them, channel by channel, after"):
        whorl.attach(tiny_model("hunyuan_v1_dense"), encoding)
    whorl.attach(tiny_model("llama4_text"), encoding)
