"""biased_attention() says which argument does not fit, what it was and what it must be."""

from __future__ import annotations

import pytest
import torch
from attention_cases import data, modules

from whorl.encodings.biases import RelativeBias
from whorl.ops import biased_attention
from whorl.ops.visible import DenseVisible

MASK = torch.ones(2, 1, 5, 5, dtype=torch.bool)
POSITIONS = torch.arange(5)[None]
FLOATS = "float64, float32, bfloat16 or float16"

BAD = {
    f"q must be {FLOATS}, got int64": {"q": torch.ones(2, 4, 5, 8, dtype=torch.int64)},
    f"v must be {FLOATS}, got complex64": {"v": torch.ones(2, 2, 5, 8, dtype=torch.complex64)},
    "q, k and v must be of one dtype, got bfloat16, float32, float32": {"q": torch.ones(2, 4, 5, 8).bfloat16()},
    "q, k and v must be of one dtype, got float32, float64, float32": {"k": torch.ones(2, 2, 5, 8).double()},
    "q, k and v must be of one dtype, got float32, float32, float16": {"v": torch.ones(2, 2, 5, 8).half()},
    "k must be on q's device cpu, got meta": {"k": torch.ones(2, 2, 5, 8, device="meta")},
    "v must be on q's device cpu, got meta": {"v": torch.ones(2, 2, 5, 8, device="meta")},
    "query_positions must be on q's device cpu, got meta": {"query_positions": POSITIONS.to("meta")},
    "key_positions must be on q's device cpu, got meta": {"key_positions": POSITIONS.to("meta")},
    "mask must be on q's device cpu, got meta": {"mask": MASK.to("meta")},
    "sinks must be on q's device cpu, got meta": {"sinks": torch.ones(4, device="meta")},
    "what is learned must be on q's device cpu, got BucketBias on meta": {
        "biases": [m.to("meta") for m in modules("t5")]
    },
    "what is learned must be on q's device cpu, got Sequential on meta": {
        "biases": [torch.nn.Sequential(torch.nn.Linear(1, 1, device="meta"))]
    },
    "query_positions must be int64 or int32, got float32": {"query_positions": POSITIONS.float()},
    "key_positions must be int64 or int32, got int16": {"key_positions": POSITIONS.short()},
    "mask must be bool, True where a key may be seen, got float32": {"mask": MASK.float()},
    r"mask must be \[batch, heads, queries, keys\] = \[2, 4, 5, 5\], where each may be 1, got \[2, 1, 5, 6\]": {
        "mask": torch.ones(2, 1, 5, 6, dtype=torch.bool)
    },
    r"mask must be .* got \[2, 2, 5, 5\]": {"mask": MASK.expand(2, 2, 5, 5)},
    r"mask must be .* got \[5, 5\]": {"mask": MASK[0, 0]},
    r"mask must be .* got \[2, 1\]": {"mask": MASK[:, :, 0, 0]},
    r"sinks must hold one number for each of 4 heads, got \(4,\) int64": {"sinks": torch.ones(4, dtype=torch.int64)},
    "q must have no more tokens than k where causal is True, got 6 and 5": {
        "q": torch.ones(2, 4, 6, 8), "query_positions": torch.arange(6)[None], "causal": True
    },
    "softcap must be positive or None, got 0.0": {"softcap": 0.0},
    "softcap must be positive or None, got -1.0": {"softcap": -1.0},
    "softcap must be positive or None, got nan": {"softcap": float("nan")},
    "dropout must be at least 0 and below 1, got 1.0": {"dropout": 1.0},
    "dropout must be at least 0 and below 1, got -0.1": {"dropout": -0.1},
    "q's 4 heads must be a multiple of k's 0": {"k": torch.ones(2, 0, 5, 8), "v": torch.ones(2, 0, 5, 8)},
    "mask must be of 5 queries and 5 keys, got a DenseVisible of 5 and 6": {
        "mask": DenseVisible(torch.ones(1, 1, 5, 6, dtype=torch.bool), 5, 6)
    },
}  # fmt: skip


def call(**arguments) -> torch.Tensor:
    q, k, v = data(5, 5, 8, torch.float32)
    usual = {"q": q, "k": k, "v": v, "biases": modules("t5"), "scale": 1.0}
    usual |= {"query_positions": POSITIONS, "key_positions": POSITIONS}
    return biased_attention(**usual | arguments)[0]


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**BAD[message])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_fits_passes(dtype: torch.dtype) -> None:
    q, k, v = data(5, 5, 8, dtype)
    for shape in ((1, 1, 1, 5), (2, 4, 5, 5), (1, 4, 5, 1)):
        mask = torch.ones(shape, dtype=torch.bool)
        out = call(q=q, k=k, v=v, mask=mask, key_positions=POSITIONS.int(), sinks=torch.ones(4), causal=True)
        assert out.dtype == dtype


def test_autocast_may_leave_q_and_k_wider_than_v() -> None:
    """Qwen 3's norms of q and k give float32 under autocast, and v is what the projection gave."""
    v = torch.ones(2, 2, 5, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert call(v=v).dtype == torch.bfloat16
        with pytest.raises(ValueError, match=f"v must be {FLOATS}, got int32"):
            call(v=v.int())


IMPLS = ["auto", "reference", "cpu", "blocked", "flex"]


def fixed() -> dict[str, torch.Tensor]:
    return dict(zip("qkv", data(5, 5, 8, torch.float32), strict=True))


@pytest.mark.parametrize("positions", ["consecutive", "with gaps"])
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("heads", [2, 3, 5, 8])
@pytest.mark.parametrize("notation", ["alibi", "t5", "kerple"])
def test_a_bias_has_one_head_or_as_many_as_the_queries(notation: str, heads: int, impl: str, positions: str) -> None:
    """A loop would read past the numbers of too few heads, and take other heads' of too many."""
    at = POSITIONS if positions == "consecutive" else POSITIONS * POSITIONS
    if impl == "cpu" and positions == "with gaps":
        pytest.skip("positions with gaps are not for the loops")
    how = {**fixed(), "query_positions": at, "key_positions": at, "causal": True, "impl": impl}
    biases = modules("window:size=3") + modules(notation, heads)
    for parameter in biases[1].parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match=f"is a bias of {heads} heads and q has 4; give one for each head of q, or a"):
        call(biases=biases, **how)
    alone, for_each = modules("alibi", 1), modules("alibi", 4)
    for_each[0].slopes = alone[0].slopes * 4
    assert torch.equal(call(biases=alone, **how), call(biases=for_each, **how))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_bias_that_answers_for_other_distances_is_refused(impl: str) -> None:
    class Short(RelativeBias):
        def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
            return -distance[..., 1:].float()[None]

    with pytest.raises(ValueError, match=r"Short must give a bias \[.*heads.*\] = .*, where each may be 1, got"):
        call(biases=[Short()], impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_bias_that_is_the_same_at_every_distance(impl: str) -> None:
    class Constant(RelativeBias):
        def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
            return torch.full((1,) * (1 + distance.dim()), 0.7)

    given = fixed()
    expected = call(**given, biases=[], impl="reference")
    torch.testing.assert_close(call(**given, biases=[Constant()], impl=impl), expected)
