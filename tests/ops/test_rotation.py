"""rotate(): pins in both layouts, the complex-number oracle, gradients, dtypes, odd shapes and strides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from whorl.encodings import Spectrum, parse
from whorl.ops import rotate, rotation_tables
from whorl.testing import error_budget, max_error


def turned_complex(x: torch.Tensor, positions: torch.Tensor, spectrum: Spectrum, layout: str) -> torch.Tensor:
    """The paper's construction in float64: a pair of x [batch, heads, tokens, d] is one complex number."""
    half = spectrum.width // 2
    out = x.double().clone()
    for i, frequency in enumerate(spectrum.frequencies):
        a, b = (i, i + half) if layout == "half" else (2 * i, 2 * i + 1)
        angles = positions.double() * frequency
        turn = torch.polar(torch.full_like(angles, spectrum.amplitude), angles)[:, None]
        pair = torch.complex(x[..., a].double(), x[..., b].double()) * turn
        out[..., a], out[..., b] = pair.real, pair.imag
    return out


ENCODINGS = ["rope", "hope:train_length=64", "p-rope:p=0.5,keep=slowest", "partial-rope:fraction=0.5", "p-rope:p=0"]


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("head_dim", [2, 4, 24, 64])
def test_equals_complex_multiplication(layout: str, encoding: str, head_dim: int) -> None:
    if encoding.startswith("partial") and head_dim == 2:
        pytest.skip("half of one pair does not turn")
    spectrum = parse(encoding).spectrum(head_dim)
    positions = torch.tensor([[0, 1, 7, 1000], [3, 2, 1, 0]])
    q, k = torch.randn(2, 3, 4, head_dim).double(), torch.randn(2, 1, 4, head_dim).double()
    tables = rotation_tables(spectrum, positions, torch.float64)
    for x, turned in zip((q, k), rotate(q, k, tables, layout=layout), strict=True):
        torch.testing.assert_close(turned, turned_complex(x, positions, spectrum, layout), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_amplitude_scales_every_channel_in_a_pair(layout: str) -> None:
    spectrum = Spectrum((1.0, 0.5, 0.0, 0.0), head_dim=12, amplitude=1.3)
    positions, x = torch.tensor([[5, 9]]), torch.randn(1, 2, 2, 12).double()
    turned, _ = rotate(x, None, rotation_tables(spectrum, positions, torch.float64), layout=layout)
    expected = turned_complex(x, positions, spectrum, layout)
    torch.testing.assert_close(turned, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(turned[..., 8:], x[..., 8:])


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_channels_that_do_not_turn_are_untouched_bits(layout: str) -> None:
    q = torch.randn(2, 4, 9, 64, dtype=torch.bfloat16)
    tables = rotation_tables(parse("hope:train_length=128").spectrum(64), torch.arange(9))
    turned, _ = rotate(q, None, tables, layout=layout)
    still = [c for c in range(64) if (c % 32 if layout == "half" else c // 2) >= 11]
    assert torch.equal(turned[..., still], q[..., still])
    assert not torch.equal(turned, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("encoding", ["rope", "hope:train_length=64"])
def test_arithmetic_is_float32_whatever_the_input(dtype: torch.dtype, encoding: str) -> None:
    """Error against float64 within one rounding of the result: only the cast back may cost anything."""
    spectrum = parse(encoding).spectrum(64)
    positions = torch.arange(1_000_000, 1_000_000 + 257)
    x = torch.randn(1, 2, 257, 64).to(dtype)
    exact = rotation_tables(spectrum, positions, torch.float64)
    truth, _ = rotate(x.double(), None, exact)
    turned, _ = rotate(x, None, rotation_tables(spectrum, positions))
    assert turned.dtype == dtype
    rounding = torch.finfo(dtype).eps * float(truth.abs().max())
    assert max_error(turned, truth) <= rounding / 2 + 4e-6 * (dtype == torch.float32)


def test_gradients_are_exact() -> None:
    tables = rotation_tables(
        parse("hope:train_length=16").spectrum(8), torch.tensor([[0, 5, 3], [1, 2, 8]]), torch.float64
    )
    q = torch.randn(2, 2, 3, 8, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, 1, 3, 8, dtype=torch.float64, requires_grad=True)
    for layout in ("half", "interleaved"):
        assert torch.autograd.gradcheck(lambda a, b, layout=layout: rotate(a, b, tables, layout=layout), (q, k))


def test_token_major_and_strided_inputs() -> None:
    tables = rotation_tables(parse("rope").spectrum(16), torch.arange(5))
    heads_first = torch.randn(2, 3, 5, 16)
    turned, _ = rotate(heads_first, None, tables)
    token_major, _ = rotate(heads_first.transpose(1, 2), None, tables, heads_dim=2)
    assert torch.equal(token_major.transpose(1, 2), turned)
    wide = torch.randn(2, 3, 5, 32)
    strided, _ = rotate(wide[..., ::2], None, tables)
    assert torch.equal(strided, rotate(wide[..., ::2].contiguous(), None, tables)[0])


def test_dot_products_depend_on_distance_alone() -> None:
    spectrum = parse("rope").spectrum(64)
    q, k = torch.randn(1, 1, 1, 64).expand(1, 1, 9, 64), torch.randn(1, 1, 1, 64).expand(1, 1, 9, 64)

    def products(shift: int) -> torch.Tensor:
        a, b = rotate(q.double(), k.double(), rotation_tables(spectrum, torch.arange(9) + shift, torch.float64))
        return a @ b.transpose(-1, -2)

    assert max_error(products(1_000_003), products(0)) < 1e-7
    assert max_error(products(0)[..., 1:, 1:], products(0)[..., :-1, :-1]) < 1e-12


PINNED = ["keras_rope_pos0_identity", "keras_flax_rope_2d_positions", "keras_rope_half_ones_pos3_d6"]


@pytest.mark.parametrize("name", PINNED)
def test_half_layout_equals_the_pins(pins: dict, name: str) -> None:
    pin, config = pins[name], pins[name]["config"]
    if name.endswith("ones_pos3_d6"):
        x, positions = torch.ones(1, 1, 1, 6), torch.tensor([[3]])
    else:
        shape = (1, 2, 1, 16) if "pos0" in name else (2, 2, 1, 16)
        x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
        positions = torch.tensor(config["positions"])
    tables = rotation_tables(parse("rope").spectrum(x.shape[-1]), positions)
    turned, _ = rotate(x, None, tables, heads_dim=2)
    expected = np.array(pin["expected"])
    np.testing.assert_allclose(turned.numpy().reshape(expected.shape), expected, atol=pin["atol"], rtol=pin["rtol"])


def test_interleaved_layout_equals_the_pins(pins: dict) -> None:
    pin = pins["roformer_rotary_interleaved"]
    x = (torch.arange(2 * 12 * 16 * 64).float() / 100).view(2, 12, 16, 64)
    tables = rotation_tables(parse("rope").spectrum(64), torch.arange(16))
    turned, _ = rotate(x, None, tables, layout="interleaved")
    np.testing.assert_allclose(turned[0, 0, :6, :8], pin["expected"], atol=pin["atol"], rtol=pin["rtol"])


def test_torchtune_checksums(pins: dict) -> None:
    pin = pins["torchtune_rope_sum_max"]
    torch.manual_seed(0)
    x = torch.randn(4, 2048, 32, 128)
    tables = rotation_tables(parse("rope").spectrum(128), torch.arange(2048))
    turned, _ = rotate(x, None, tables, layout="interleaved", heads_dim=2)
    _, total, largest = pin["expected"]
    assert float(turned.double().sum()) == pytest.approx(total, rel=pin["rtol"])
    assert float(turned.max()) == pytest.approx(largest, rel=pin["rtol"])
    pin = pins["torchtune_phi3_half"]
    torch.manual_seed(0)
    x = torch.randn(4, 60, 32, 96)
    tables = rotation_tables(parse("rope").spectrum(96), torch.arange(60))
    turned, _ = rotate(x, None, tables, heads_dim=2)
    assert float(turned.double().sum()) == pytest.approx(pin["expected"][1], rel=pin["rtol"])


def test_fairseq_pin(pins: dict) -> None:
    pin = pins["fairseq_rotary_T3_C2"]
    x = torch.tensor(pin["config"]["input"]).permute(1, 2, 0, 3)  # T,B,H,D -> B,H,T,D
    turned, _ = rotate(x, None, rotation_tables(parse("rope").spectrum(2), torch.arange(3)))
    np.testing.assert_allclose(turned.permute(2, 0, 1, 3), pin["expected"], atol=pin["atol"], rtol=0)


def test_layouts_are_the_same_up_to_a_permutation() -> None:
    tables = rotation_tables(parse("rope").spectrum(16), torch.arange(6))
    x = torch.randn(1, 2, 6, 16)
    permuted = x.unflatten(-1, (2, 8)).transpose(-1, -2).flatten(-2)
    half, _ = rotate(x, None, tables)
    interleaved, _ = rotate(permuted, None, tables, layout="interleaved")
    assert torch.equal(interleaved, half.unflatten(-1, (2, 8)).transpose(-1, -2).flatten(-2))


def test_error_budget_is_derived() -> None:
    x = torch.randn(100)
    truth, budget = error_budget(torch.sin, (x,), torch.bfloat16)
    assert max_error(torch.sin(x.bfloat16()), truth) <= budget < 0.05


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_runs_where_whorl_is_not(strict: bool) -> None:
    class Turning(torch.nn.Module):
        spectrum = parse("hope:train_length=64").spectrum(32)

        def forward(self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return rotate(q * 1, k * 1, rotation_tables(self.spectrum, positions), inplace=True)

    given = (torch.randn(1, 2, 9, 32), torch.randn(1, 1, 9, 32), torch.arange(9)[None])
    program = torch.export.export(Turning(), given, strict=strict)
    assert not [node.target for node in program.graph.nodes if "whorl" in str(node.target)]
    for x, y in zip(program.module()(*given), Turning()(*given), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("learns", [True, False])
def test_tokens_that_share_memory(learns: bool) -> None:
    """A view by `unfold`, whose like is laid out otherwise; and such a gradient."""
    tables = rotation_tables(parse("rope").with_defaults().spectrum(8), torch.arange(4)[None], torch.float32)
    row = torch.randn(1, 1, 11)
    found = []
    for of in (lambda x: x, torch.Tensor.contiguous):
        q = of(row.unfold(2, 8, 1)).requires_grad_(learns)
        out, k = rotate(q, q, tables)
        found.append([out, k])
        if learns:
            found[-1] += torch.autograd.grad(out, [q], of(row.unfold(2, 8, 1)))
    assert all(map(torch.equal, *found))


def test_a_graph_knows_how_tokens_that_share_memory_are_laid_out() -> None:
    tables = rotation_tables(parse("rope").with_defaults().spectrum(8), torch.arange(4)[None], torch.float32)
    q = torch.randn(1, 1, 11).unfold(2, 8, 1)
    with torch.no_grad():
        expected = rotate(q, q, tables)[0]
        found = torch.compile(lambda q: rotate(q, q, tables)[0], backend="aot_eager", fullgraph=True)(q)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()
    fake = torch.empty_strided(q.shape, q.stride(), device="meta")
    meta = (x.to("meta") for x in (tables.cos, tables.sin))
    (like, _) = torch.ops.whorl.rotate(fake, None, *meta, 0, 8, "half", 1, 1, "auto")
    assert like.stride() == expected.stride()
