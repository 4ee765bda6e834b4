"""Scalings: against the pins, every stock function of transformers, the papers' formulas, and on HoPE and p-RoPE."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from whorl.encodings import SCALINGS, Known, Layers, Scaled, Spectrum, Sum, from_dict, get_scaling, parse
from whorl.encodings.frequencies import Frequencies
from whorl.encodings.hope import HoPE
from whorl.encodings.p_rope import PRoPE
from whorl.encodings.partial_rope import PartialRoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings import (
    NTK,
    BaseChange,
    Clip,
    DynamicNTK,
    Linear,
    Llama3,
    LongRoPE,
    NTKByParts,
    Scaling,
    SoftClip,
    YaRN,
    from_stock,
)
from whorl.ops.rotation import rotate, rotation_tables

ROPE = RoPE().spectrum(128)
ONE_EACH: dict[str, str] = {
    **{name: get_scaling(name).example for name in SCALINGS},
    "longrope": "longrope:short_factor="
    + "@".join(["1.5"] * 32)
    + ",long_factor="
    + "@".join(["4"] * 32)
    + ",factor=4",
}


def close(ours: Spectrum, theirs: tuple[Any, float], rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(ours.frequencies, theirs[0], rtol=rtol, atol=0)
    assert ours.amplitude == pytest.approx(theirs[1], rel=1e-12)


# --- the pins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hf_dynamic_ntk", "hf_yarn", "hf_llama3"])
def test_frequencies_equal_the_pins(pins: dict, name: str) -> None:
    pin, config = pins[name], pins[name]["config"]
    encoding = {
        "hf_dynamic_ntk": "rope~dynamic-ntk:factor=10,original=2048",
        "hf_yarn": "rope~yarn:factor=10,original=2048",
        "hf_llama3": "rope~llama3:factor=10,original=2048",
    }[name]
    spectrum = parse(encoding).spectrum_at(config["head_dim"], config.get("seq_len", 2048))
    np.testing.assert_allclose(spectrum.frequencies, pin["expected"], atol=pin["atol"], rtol=pin["rtol"])
    assert spectrum.amplitude == (0.1 * math.log(10) + 1 if name == "hf_yarn" else 1)


@pytest.mark.parametrize(
    ("name", "tokens", "first"), [("keras_rope_linear2", 3, 0), ("keras_rope_linear5_offset12", 1, 12)]
)
def test_linear_turns_like_keras(pins: dict, name: str, tokens: int, first: int) -> None:
    pin = pins[name]
    spectrum = parse(f"rope~linear:factor={pin['config']['linear_factor']}").spectrum(4)
    x = torch.ones(1, tokens, 2, 4)
    turned, _ = rotate(x, None, rotation_tables(spectrum, torch.arange(tokens) + first), heads_dim=2)
    np.testing.assert_allclose(turned, pin["expected"], atol=pin["atol"], rtol=pin["rtol"])


def test_torchtune_checksums(pins: dict) -> None:
    pin = pins["torchtune_llama31_scaled_default"]
    c = pin["config"]
    torch.manual_seed(0)
    x = torch.randn(4, 2048, 32, 128)
    encoding = f"rope:base={c['base']}~llama3:factor={c['factor']},original={c['original']}"

    def checksums(encoding: str) -> tuple[float, float]:
        tables = rotation_tables(parse(encoding).spectrum(128), torch.arange(2048))
        turned, _ = rotate(x, None, tables, layout="interleaved", heads_dim=2)
        return float(turned.double().sum()), float(turned.max())

    _, total, largest = pin["expected"]
    assert checksums(encoding) == (pytest.approx(total, abs=pin["atol"]), pytest.approx(largest, abs=1e-4))
    assert abs(checksums("rope")[0] - total) > 100 * pin["atol"], "unscaled, it is another number"


# --- every stock function ---------------------------------------------------------------------------------------------


@contextmanager
def in_float64() -> Iterator[None]:
    """The same stock code with float64 where it asks for float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch, "float32", torch.float64)
        yield


def stock(config: Any, length: int | None = None, layer_type: str | None = None) -> tuple[np.ndarray, float]:
    settings = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
    function = ROPE_INIT_FUNCTIONS[settings["rope_type"]]
    frequencies, amplitude = function(config, torch.device("cpu"), seq_len=length, layer_type=layer_type)
    return frequencies.double().numpy(), float(amplitude)


DRAWS = 120


def drawn(kind: str, draw: int) -> tuple[Any, Scaled, int | None]:
    """A config with valid settings of this kind, what they mean, and a length."""
    r = random.Random(f"{kind} {draw}")
    head_dim = r.choice([16, 32, 64, 80, 96, 128, 256])
    share = r.choice([1.0, 1.0, 0.5, 0.25, 0.75])
    base = r.choice([500.0, 1e4, 1e4, 1.5e5, 5e5, 1e6])
    factor = r.choice([1, 1.0, 2, 4.0, 8, 16, r.uniform(1, 40)])
    original = r.choice([64, 200, 256, 512, 2048, 4096, 8192, 131072, r.randrange(16, 9000)])
    longest = int(original * r.choice([1, 2, 8, 32.5]))
    settings: dict[str, Any] = {"rope_type": kind, "rope_theta": base}
    if share < 1 or r.random() < 0.5:
        settings["partial_rotary_factor"] = share
    width, length = int(head_dim * share), None
    wanted: Scaling
    if kind in ("linear", "proportional"):
        settings["factor"] = factor
        wanted = Linear(factor)
    elif kind == "dynamic":
        settings["factor"] = factor
        longest = original
        length = r.choice([None, 1, original - 1, original, original + 1, 2 * original, r.randrange(1, 40 * original)])
        wanted = DynamicNTK(factor, original, step=1)
    elif kind == "llama3":
        low, high = r.choice(
            [(1.0, 4.0), (1, 4), (0.5, 2), (3.0, 3.0), (2.0, 32.0), (r.uniform(0.1, 2), r.uniform(2.5, 40))]
        )
        settings.update(factor=factor, low_freq_factor=low, high_freq_factor=high)
        wanted = Llama3(factor, original, low, high)
    elif kind == "yarn":
        settings["factor"] = factor
        options: dict[str, Any] = {}
        if r.random() < 0.6:
            options["beta_fast"], options["beta_slow"] = r.choice(
                [(32, 1), (32.0, 1.0), (8, 0.5), (64, 2), (4, 3.5), (2, 2)]
            )
        if r.random() < 0.6:
            options["truncate"] = r.random() < 0.5
        if (how := r.random()) < 0.25:
            options["attention_factor"] = r.choice([1.0, 0.7, 1.25])
        elif how < 0.6:
            options["mscale"], options["mscale_all_dim"] = r.choice(
                [(1.0, 1.0), (0.707, 0.707), (1.0, 0.5), (0.4, 1.2)]
            )
        settings.update(options)
        wanted = YaRN(factor, original, **options)
        if r.random() < 0.15:  # DeepSeek-V3's way: the factor is the ratio of the lengths
            settings["factor"] = None
            wanted = YaRN(longest / original, original, **options)
    else:
        assert kind == "longrope"
        short, long = ([r.uniform(1, s) for _ in range(width // 2)] for s in (2, 64))
        settings.update(short_factor=short, long_factor=long)
        length = r.choice([None, 1, original, original + 1, r.randrange(1, 8 * original)])
        if (how := r.random()) < 0.3:
            settings["attention_factor"] = r.choice([1.0, 1.19])
            wanted = LongRoPE(tuple(short), tuple(long), None, original, settings["attention_factor"])
        elif how < 0.6:
            settings["factor"] = factor
            wanted = LongRoPE(tuple(short), tuple(long), factor, original)
        else:  # Phi-3's way
            wanted = LongRoPE(tuple(short), tuple(long), longest / original, original)
    sizes = {"hidden_size": 2 * head_dim, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes.update(max_position_embeddings=longest, rope_parameters=settings)
    if kind == "longrope":
        config = Phi3Config(**sizes, original_max_position_embeddings=original, pad_token_id=0)
    else:
        if kind in ("yarn", "llama3"):
            settings["original_max_position_embeddings"] = original
        config = LlamaConfig(**sizes, head_dim=head_dim)
    inner = RoPE(base) if share == 1 else PRoPE(share, base) if kind == "proportional" else PartialRoPE(share, base)
    return config, Scaled(inner, wanted), length


@pytest.mark.parametrize("kind", ROPE_INIT_FUNCTIONS)
def test_every_stock_function_gives_the_same(kind: str) -> None:
    """Over random valid settings: to 1e-12 of stock code run in float64, and to float32's precision of it as it is."""
    lengths = 0
    for draw in range(DRAWS):
        config, encoding, length = drawn(kind, draw)
        spectrum = encoding.spectrum(config.hidden_size // 2)
        if encoding.length_dependent and length is not None:
            spectrum = encoding.spectrum_at(config.hidden_size // 2, length)
            lengths += spectrum != encoding.spectrum(config.hidden_size // 2)
        with in_float64():
            theirs = stock(config, length)
        # Phi-3's exponents stay float32 (.float()): off by up to 2^-24 each, times ln(base) in the frequency.
        close(spectrum, theirs, 1e-12 if kind != "longrope" else math.log(1e6) * 2**-24)
        # As it is: float32's exponents, and a ramp (float32, up to 1) whose error s multiplies next to theta / s.
        factor = getattr(encoding.scalings[0], "factor", None) or 1
        close(spectrum, stock(config, length), 2**-24 * (2 * math.log(1e6) + 40 * factor))
        # and the settings read as what was meant
        assert from_stock(config.rope_parameters, config.max_position_embeddings) == encoding.scalings
    assert lengths > DRAWS / 5 or kind not in ("dynamic", "longrope")


def test_hunyuan_alpha_is_ntk() -> None:
    from transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense import (
        HunYuanDenseV1Config,
        HunYuanDenseV1RotaryEmbedding,
    )

    settings = {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 1e4}
    config = HunYuanDenseV1Config(hidden_size=256, num_attention_heads=2, head_dim=128, rope_parameters=dict(settings))
    ours = Scaled(RoPE(), from_stock(settings)).spectrum(128)
    close(ours, (HunYuanDenseV1RotaryEmbedding(config).inv_freq.numpy(), 1), 2e-6)
    assert from_stock(settings) == (NTK(1000.0),)


# --- where stock does otherwise ---------------------------------------------------------------------------------------


def llama(**settings: Any) -> LlamaConfig:
    sizes = {"hidden_size": 256, "num_attention_heads": 2, "max_position_embeddings": 8192}
    return LlamaConfig(**sizes, rope_parameters={"rope_theta": 1e4, **settings})


def test_stock_ignores_truncate_by_layer_type_and_this_does_not() -> None:
    def config(truncate: bool) -> Gemma3TextConfig:
        full = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0, "original_max_position_embeddings": 4096}
        parameters = {
            "full_attention": {**full, "truncate": truncate},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
        return Gemma3TextConfig(head_dim=128, rope_parameters=parameters)

    rounded, exact = (stock(config(t), layer_type="full_attention") for t in (True, False))
    np.testing.assert_array_equal(rounded[0], exact[0])  # stock: no difference
    for truncate, same in ((True, True), (False, False)):
        scalings = from_stock(config(truncate).rope_parameters["full_attention"])
        ours = Scaled(RoPE(1e6), scalings).spectrum(128)
        assert np.allclose(ours.frequencies, rounded[0], rtol=1e-5, atol=0) == same


def test_stock_ignores_one_mscale_without_the_other_and_deepseek_does_not() -> None:
    settings = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}

    def deepseek(scale: float, mscale: float) -> float:
        return 0.1 * mscale * math.log(scale) + 1.0

    plain = stock(llama(**settings))[1]
    for given, wanted in (
        ({"mscale": 0.707}, deepseek(40, 0.707)),
        ({"mscale_all_dim": 0.8}, deepseek(40, 1) / deepseek(40, 0.8)),
        ({}, deepseek(40, 1)),
    ):
        assert stock(llama(**settings, **given))[1] == plain
        assert from_stock({**settings, **given})[0](ROPE).amplitude == pytest.approx(wanted, rel=1e-15)
    assert deepseek(40, 0.707) < plain - 0.1


@pytest.mark.parametrize(
    ("settings", "stock_gives"),
    [
        ({"original_max_position_embeddings": 24, "beta_slow": 8}, "kept"),
        ({"original_max_position_embeddings": 6}, "divided but for the first"),  # its index rounds up to 0
        ({"original_max_position_embeddings": 6, "truncate": False}, "kept"),
        ({"original_max_position_embeddings": 10**6, "rope_theta": 20.0}, "divided"),
    ],
)
def test_stock_turns_the_ramp_around_where_no_pair_lies_on_it(settings: dict, stock_gives: str) -> None:
    """All pairs too slow for beta_slow must be divided, all fast enough for beta_fast kept, as in the paper."""
    settings = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, **settings}
    spectrum = RoPE(settings["rope_theta"]).spectrum(128)
    turns = [settings["original_max_position_embeddings"] / w for w in spectrum.wavelengths]
    kept, divided = np.array(spectrum.frequencies), np.array(spectrum.frequencies) / 4
    if min(turns) > 32:
        wanted = kept
    else:
        assert max(turns) < settings.get("beta_slow", 1)
        wanted = divided
    (yarn,) = from_stock(settings)
    np.testing.assert_allclose(yarn(spectrum).frequencies, wanted, rtol=1e-14)
    first_kept = np.concatenate([kept[:1], divided[1:]])
    theirs = {"kept": kept, "divided": divided, "divided but for the first": first_kept}[stock_gives]
    np.testing.assert_allclose(stock(llama(**settings))[0], theirs, rtol=1e-5)


@pytest.mark.parametrize("turns", [1.0, 4.0])
def test_llama3_without_a_band_is_a_step(turns: float) -> None:
    """Llama 4 Scout ships so. A pair right at the step is kept; stock divides 0 by 0 for it."""
    settings = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": turns, "high_freq_factor": turns}
    settings["original_max_position_embeddings"] = 512
    (llama3,) = from_stock(settings)
    wanted = [f if 512 / w > turns else f / 8 for f, w in zip(ROPE.frequencies, ROPE.wavelengths, strict=True)]
    np.testing.assert_allclose(llama3(ROPE).frequencies, wanted, rtol=1e-14)
    np.testing.assert_allclose(stock(llama(**settings))[0], wanted, rtol=1e-5)
    at = 2 * math.pi * turns / 512
    assert llama3(Spectrum((at, at * (1 - 1e-9)), 4)).frequencies == pytest.approx((at, at / 8))
    wavelength = float(np.float32(2 * math.pi))  # of the first pair, in stock's float32
    edge = {**settings, "original_max_position_embeddings": wavelength * turns}
    assert np.isnan(stock(llama(**edge))[0]).tolist() == [True] + [False] * 63


# --- the papers' formulas, and composition ----------------------------------------------------------------------------


def test_closed_forms() -> None:
    d, s = 128, 4.0
    i = np.arange(d // 2)

    def frequencies(encoding: str) -> tuple[float, ...]:
        return parse(encoding).spectrum(d).frequencies

    theta = 10000.0 ** (-2 * i / d)
    np.testing.assert_allclose(frequencies("rope~linear:factor=4"), theta / s, rtol=1e-14)
    base = 10000.0 * s ** (d / (d - 2))
    np.testing.assert_allclose(frequencies("rope~ntk:factor=4"), base ** (-2 * i / d), rtol=1e-13)
    np.testing.assert_allclose(frequencies("rope~base-change:base=5e5"), 5e5 ** (-2 * i / d), rtol=1e-13)
    assert frequencies("rope~clip:wavelength=512") == HoPE(512).spectrum(d).frequencies
    # dynamic: at s times the original length, factor 1, it is ntk by s; and it is continuous at the original length
    dynamic = parse("rope~dynamic-ntk:factor=1,original=1000,step=1")
    np.testing.assert_allclose(dynamic.spectrum_at(d, 4000).frequencies, frequencies("rope~ntk:factor=4"), rtol=1e-14)
    np.testing.assert_allclose(dynamic.spectrum_at(d, 1001).frequencies, theta, rtol=2e-3)
    assert dynamic.spectrum_at(d, 1000) == dynamic.spectrum(d) == RoPE().spectrum(d)


def test_soft_clip_is_the_taper_of_clipped_rope_on_its_band() -> None:
    """2602.05258's code: the last 20 of 64 frequencies x 0.5 (1 + cos(linspace(0, pi, 20)))."""
    w = RoPE().spectrum(128).wavelengths
    for wavelength in (w[43], 0.5 * (w[43] + w[44])):
        got = np.array(SoftClip(wavelength)(ROPE).frequencies)
        expected = np.array(ROPE.frequencies)
        expected[-20:] *= 0.5 * (1 + np.cos(np.linspace(0, np.pi, 20)))
        np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-20)
        assert got[44] == ROPE.frequencies[44]
        assert got[63] == 0
    assert SoftClip(1e9)(ROPE) == ROPE
    assert SoftClip(0.5 * (w[62] + w[63]))(ROPE) == ROPE, "a lone pair keeps its frequency"
    assert Clip(w[43])(ROPE).turning == tuple(range(44))
    # HoPE's still pairs are not in the band: it ends on the last pair that turns
    hope = HoPE(512).spectrum(128)
    last = len(hope.turning) - 1
    soft = SoftClip(w[last - 3])(hope).frequencies
    tapered = np.array(hope.frequencies[last - 2 : last + 1]) * (1, 0.5, 0)
    np.testing.assert_allclose(soft[last - 2 : last + 1], tapered, rtol=1e-14, atol=1e-20)
    assert soft[: last - 2] == hope.frequencies[: last - 2]


def test_longrope_takes_the_short_list_up_to_the_original_length_and_the_long_one_past_it() -> None:
    encoding = parse("rope~longrope:short_factor=1@2,long_factor=4@8,factor=4,original=1000")
    short, long = encoding.spectrum_at(4, 1000), encoding.spectrum_at(4, 1001)
    np.testing.assert_allclose(short.frequencies, [1, 0.01 / 2])
    np.testing.assert_allclose(long.frequencies, [1 / 4, 0.01 / 8])
    assert short == encoding.spectrum(4)
    assert short.amplitude == long.amplitude == math.sqrt(1 + math.log(4) / math.log(1000))
    assert not parse("rope~longrope:short_factor=4@8,long_factor=4@8,factor=4,original=1000").length_dependent
    # how whorl saves a still pair in stock terms (stock_terms.NEVER): past float32, so still in stock and still here
    assert LongRoPE((1.0, 1e39), (1.0, 1e39), attention_factor=1)(RoPE().spectrum(4)).turning == (0,)


INNERS = ["hope:train_length=100", "p-rope:p=0.5", "p-rope:p=0.5,keep=slowest", "partial-rope:fraction=0.5", "rope"]


@pytest.mark.parametrize("scaling", ONE_EACH.values(), ids=ONE_EACH)
@pytest.mark.parametrize("inner", INNERS)
def test_still_pairs_stay_still_and_the_rest_goes_as_in_rope(inner: str, scaling: str) -> None:
    if "original=" not in scaling and "longrope" in scaling:
        scaling += ",original=4096"
    head_dim = 128 if inner.startswith("partial") else 64
    bare = parse(inner).spectrum(head_dim)
    whole = parse("rope").spectrum(bare.width)
    encoding, rope = parse(f"{inner}~{scaling}"), parse(f"rope~{scaling}")
    for length in (10, 4096, 10**5):
        scaled, wanted = encoding.spectrum_at(head_dim, length), rope.spectrum_at(bare.width, length)
        assert (scaled.width, scaled.head_dim, scaled.amplitude) == (bare.width, head_dim, wanted.amplitude)
        assert scaled.width == whole.width
        turning = [i for i in bare.turning if wanted.frequencies[i] > 0]
        if scaling.startswith("soft-clip"):  # its band is made of the pairs that turn
            assert set(scaled.turning) <= set(bare.turning)
            continue
        assert list(scaled.turning) == turning
        np.testing.assert_allclose(
            [scaled.frequencies[i] for i in turning], [wanted.frequencies[i] for i in turning], rtol=1e-12
        )
    nothing = parse(f"p-rope:p=0~{scaling}").spectrum_at(64, 10**5)
    assert nothing.turning == ()


def test_scalings_compose_in_turn() -> None:
    linear_then_yarn = parse("rope~linear:factor=2~yarn:factor=4,original=2048,attention_factor=1.5").spectrum(128)
    halved = RoPE().spectrum(128)
    halved = Spectrum(tuple(f / 2 for f in halved.frequencies), 128)
    # half the frequencies in 2048 tokens turn as often as whole ones in 1024
    other = NTKByParts(4, 1024)(RoPE().spectrum(128))
    np.testing.assert_allclose(linear_then_yarn.frequencies, [f / 2 for f in other.frequencies], rtol=1e-13)
    twice = parse("rope~yarn:factor=2,original=512~linear:factor=2").spectrum(64)
    assert twice.amplitude == YaRN(2).amplitude
    amplified = Frequencies((1.0, 0.01), amplitude=3.0)
    assert Scaled(amplified, YaRN(2, 512)).spectrum(4).amplitude == 3 * YaRN(2).amplitude
    # a dynamic one in the middle: what follows sees the spectrum of that length
    chain = parse("rope~dynamic-ntk:factor=2,original=100~linear:factor=2")
    assert chain.length_dependent
    assert chain.spectrum_at(64, 300) == Linear(2)(NTK(5)(RoPE().spectrum(64)))
    assert chain.spectrum(64) == Linear(2)(RoPE().spectrum(64))
    assert halved.frequencies == Linear(2)(ROPE).frequencies


def test_the_base_is_read_off_float32_tables_too() -> None:
    rounded = Frequencies(tuple(float(np.float32(f)) for f in RoPE(5e5).spectrum(128).frequencies))
    for scaling in (YaRN(8, 4096), BaseChange(1e6)):
        ours = scaling(rounded.spectrum(128))
        np.testing.assert_allclose(ours.frequencies, scaling(RoPE(5e5).spectrum(128)).frequencies, rtol=1e-6)


def test_an_unset_original_length_is_the_training_length() -> None:
    hope = parse("hope:train_length=4096~yarn:factor=4")
    assert hope.spectrum(128) == parse("hope:train_length=4096~yarn:factor=4,original=4096").spectrum(128)
    assert str(hope.filled(Known(train_length=128))) == "hope:train_length=4096~yarn:factor=4,original=4096"
    assert str(parse("hope~linear:factor=2").filled(Known(train_length=128))) == "hope:train_length=128~linear:factor=2"
    hope = parse("hope~yarn:factor=2").filled(Known(train_length=64))
    assert str(hope) == "hope:train_length=64~yarn:factor=2,original=64"
    rope = parse("rope~yarn:factor=4~llama3:factor=8,original=512")
    assert str(rope.filled(Known(train_length=64))) == "rope~yarn:factor=4,original=64~llama3:factor=8,original=512"
    with pytest.raises(ValueError, match="yarn needs original.*try yarn:factor=4,original=2048"):
        rope.spectrum(64)
    with pytest.raises(ValueError, match="dynamic-ntk needs original"):
        parse("rope~dynamic-ntk:factor=2").spectrum_at(64, 10)


# --- notation and JSON ------------------------------------------------------------------------------------------------

NOTATIONS = [
    *(f"rope~{notation}" for notation in ONE_EACH.values()),
    "rope~yarn:factor=4,original=256",
    "hope:train_length=256~linear:factor=2",
    "hope:train_length=4096~yarn:factor=4",
    "rope:base=500000~yarn:factor=2.5,original=256,beta_fast=8,beta_slow=0.5,truncate=false,mscale=0.7,mscale_all_dim=1.1",
    "p-rope:p=0.5~base-change:base=2000000~ntk:factor=2~soft-clip:wavelength=900.5",
    "frequencies:values=1@0.5~linear:factor=2",
    "rope~longrope:short_factor=1@1.25,long_factor=2@33.5,original=4096,attention_factor=1.19",
    "rope~longrope:short_factor=1,long_factor=2,factor=3",
    "rope~linear:factor=2+window:size=32",
    "rope~linear:factor=2+window:size=32/nope",
    "full_attention=rope~yarn:factor=4/sliding_attention=hope~linear:factor=2",
]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_notation_and_json_round_trip(notation: str) -> None:
    encoding = parse(notation)
    assert str(encoding) == notation
    assert parse(str(encoding)) == encoding
    again = from_dict(json.loads(json.dumps(encoding.to_dict(), allow_nan=False)))
    assert again == encoding
    assert hash(again) == hash(encoding)
    assert str(again) == notation


def test_python_and_notation_say_the_same() -> None:
    chain = Scaled(Scaled(HoPE(64), Linear(2)), [Clip(512)])
    assert parse("hope:train_length=64~linear:factor=2~clip:wavelength=512") == chain
    assert chain.to_dict() == {
        "name": "scaled",
        "inner": {"name": "hope", "train_length": 64},
        "scalings": [{"name": "linear", "factor": 2}, {"name": "clip", "wavelength": 512}],
    }
    assert isinstance(parse("rope~linear:factor=2+alibi"), Sum)
    assert isinstance(parse("rope~linear:factor=2/nope"), Layers)
    assert parse("rope~yarn:factor=2,truncate=False") == Scaled(RoPE(), YaRN(2, truncate=False))
    assert parse("rope~linear:factor=2").kinds == ("rotate",)
    with pytest.raises(AttributeError):
        chain.inner = RoPE()  # type: ignore[misc]


def test_every_scaling_is_registered_and_cites_its_paper() -> None:
    def below(cls: type[Scaling]) -> set[type[Scaling]]:
        return {cls}.union(*(below(c) for c in cls.__subclasses__())) - {Scaling}

    assert {get_scaling(name) for name in SCALINGS} == below(Scaling)
    for name in SCALINGS:
        cls = get_scaling(name)
        assert cls.name == name
        assert cls.title
        assert cls.paper in (cls.__doc__ or "")
        parse(f"rope~{cls.example}")


# --- errors -----------------------------------------------------------------------------------------------------------

REFUSED = [
    ("rope~yarnn:factor=2", "unknown scaling 'yarnn'; did you mean 'yarn'"),
    ("rope~dynamic_ntk:factor=2", "did you mean 'dynamic-ntk'"),
    ("rope~zzz", "unknown scaling 'zzz'; `whorl list`"),
    ("yarn:factor=4", "yarn is no encoding but a scaling of one; write rope~yarn:factor=4,original=2048"),
    ("rope~hope", "hope is an encoding, and after a '~' comes a scaling"),
    ("rope~", "a scaling is missing after a '~'"),
    ("rope~~linear:factor=2", "a scaling is missing after a '~'"),
    ("rope~linear", "linear needs factor; try linear:factor=2"),
    ("rope~longrope:factor=2", "longrope needs short_factor; try longrope:short_factor=1@1"),
    ("rope~linear:fac=2", "linear has no argument 'fac'; it takes factor"),
    ("rope~linear:factor", "cannot read 'factor'"),
    ("rope~linear:factor=2,factor=3", "'factor' stands twice"),
    ("rope~linear:factor=0.5", "at least 1 .*, got 0.5"),
    ("rope~ntk:factor=nan", "at least 1 .*, got nan"),
    ("rope~yarn:factor=inf", "finite number of at least 1 .*, got inf"),
    ("rope~dynamic-ntk:factor=two", "factor must be a number, got 'two'"),
    ("rope~llama3:factor=0", "at least 1 .*, got 0"),
    ("rope~yarn:factor=2,original=0", "original must be a whole number of at least 1, got 0"),
    ("rope~yarn:factor=2,original=20.5", "original must be a whole number"),
    ("rope~yarn:factor=2,beta_fast=0", "beta_fast must be finite and above 0"),
    ("rope~yarn:factor=2,beta_fast=1,beta_slow=2", "beta_fast must not be below beta_slow .*, got 1 and 2"),
    ("rope~ntk-by-parts:factor=2,truncate=maybe", "truncate must be true or false, got 'maybe'"),
    ("rope~yarn:factor=2,attention_factor=0", "attention_factor must be finite and above 0"),
    ("rope~yarn:factor=2,mscale=-1", "mscale must be finite and not negative, got -1"),
    ("rope~yarn:factor=2,attention_factor=1,mscale_all_dim=1", "leaves nothing for mscale_all_dim; give one"),
    ("rope~longrope:short_factor=1@2,long_factor=1,factor=2", "one number per pair each, got 2 and 1"),
    ("rope~longrope:short_factor=1@x,long_factor=1@2,factor=2", "short_factor must be numbers joined by '@'"),
    ("rope~longrope:short_factor=1@2,long_factor=1@0,factor=2", "long_factor must be finite numbers above 0"),
    ("rope~longrope:short_factor=1,long_factor=1", "needs factor .* or attention_factor"),
    ("rope~longrope:short_factor=1,long_factor=1,factor=2,attention_factor=2", "one of them"),
    ("rope~longrope:short_factor=1,long_factor=1,factor=2,original=1", "at least 2 tokens"),
    ("rope~llama3:factor=8,low_freq_factor=5", "high_freq_factor must not be below low_freq_factor, got 4 and 5"),
    ("rope~base-change:base=1", "above 1, got 1"),
    ("rope~clip:wavelength=0", "wavelength must be finite and above 0"),
    ("rope~soft-clip:wavelength=inf", "wavelength must be finite and above 0"),
    ("alibi~linear:factor=2", "linear scales the frequencies of one rotary encoding, and alibi is none"),
    ("nope~yarn:factor=2", "try rope~yarn:factor=2"),
    ("rope+window:size=8~linear:factor=2", "and window:size=8 is none"),
    (
        "rope~dynamic-ntk:factor=2~longrope:short_factor=1,long_factor=2,factor=2",
        "dynamic-ntk and longrope both depend on the length",
    ),
    ("rope~linear:factor=2+hope", "both turn q and k"),
]


@pytest.mark.parametrize(("notation", "message"), REFUSED)
def test_nonsense_is_refused_when_built(notation: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(notation)


NOT_OF_THIS_SPECTRUM = [
    ("rope~llama3:factor=8,original=512~yarn:factor=2,original=512", "yarn needs frequencies that fall as base"),
    ("frequencies:values=0.1@0.2@0.4~base-change:base=5e5", "have no one base"),
    ("frequencies:values=1@1@1~base-change:base=5e5", "have no one base"),
    ("p-rope:p=0.04~yarn:factor=2,original=512", "yarn reads the base off two turning pairs, and this spectrum has 1"),
    ("frequencies:values=0.5~ntk:factor=2", "ntk .* needs at least 2 pairs; this spectrum has 1"),
    (
        "frequencies:values=0.5~dynamic-ntk:factor=2,original=512",
        "dynamic-ntk .* needs at least 2 pairs; this spectrum",
    ),
    ("rope~longrope:short_factor=1@2,long_factor=1@2,factor=2,original=512", "has 2 numbers, and .* has 32 pairs"),
    ("hope~linear:factor=2", "hope needs the length that the model is trained at"),
]


@pytest.mark.parametrize(("notation", "message"), NOT_OF_THIS_SPECTRUM)
def test_what_a_spectrum_does_not_carry_is_refused(notation: str, message: str) -> None:
    encoding = parse(notation)
    with pytest.raises(ValueError, match=message):
        encoding.spectrum(64)


def test_python_is_refused_alike() -> None:
    with pytest.raises(ValueError, match="at least one scaling, got none; rope alone"):
        Scaled(RoPE(), ())
    with pytest.raises(ValueError, match="Scaled takes scalings .*, got RoPE"):
        Scaled(RoPE(), [RoPE()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="a scaling's JSON form is an object with a 'name'"):
        from_dict({"name": "scaled", "inner": {"name": "rope"}, "scalings": [{"factor": 2}]})
    with pytest.raises(ValueError, match="linear has no argument 'original'"):
        from_dict({"name": "scaled", "inner": {"name": "rope"}, "scalings": [{"name": "linear", "original": 2}]})
    for length in (0, 2.5):
        with pytest.raises(ValueError, match="length must be a whole number of at least 1"):
            parse("rope~linear:factor=2").spectrum_at(64, length)


def test_from_stock_reads_the_old_words_and_the_default() -> None:
    assert from_stock({"rope_theta": 1e4}) == from_stock({"rope_type": "default", "factor": None}) == ()
    assert from_stock({"type": "linear", "factor": 2.0}) == (Linear(2),)
    assert from_stock({"rope_type": "proportional", "partial_rotary_factor": 0.25}) == ()
    yarn = {"rope_type": "yarn", "factor": 4.0, "beta_fast": None, "attention_factor": 1.2, "mscale": 1.0}
    assert from_stock(yarn, 2048) == (YaRN(4, 2048, attention_factor=1.2),)
    phi = {"rope_type": "longrope", "short_factor": [1], "long_factor": [2.0], "original_max_position_embeddings": 64}
    assert from_stock(phi, 32) == (LongRoPE((1,), (2,), 1, 64),)
    assert LongRoPE((1,), (2,), 1, 64).to_dict()["long_factor"] == [2.0], "a list, as JSON has it"


FROM_STOCK = [
    ({"rope_type": "axial"}, "no scaling says rope_type 'axial'; known are default, linear"),
    (
        {"rope_type": "default", "mrope_section": [16, 24, 24]},
        "no scaling says mrope_section under rope_type 'default'",
    ),
    ({"rope_type": "yarn", "factor": 16.0, "llama_4_scaling_beta": 0.1}, "no scaling says llama_4_scaling_beta"),
    ({"rope_type": "linear", "factor": 2.0, "attention_factor": 1.0}, "attention_factor under rope_type 'linear'"),
    ({"full_attention": {"rope_type": "default"}, "sliding_attention": None}, "go by layer type"),
    ({"rope_type": "linear"}, "rope_type 'linear' needs factor"),
    ({"rope_type": "linear", "factor": 0.5}, "at least 1 .*, got 0.5"),
    ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic' needs max_position_embeddings"),
    ({"rope_type": "yarn", "factor": 2.0}, "'yarn' needs max_position_embeddings"),
    (
        {"rope_type": "yarn", "original_max_position_embeddings": 512},
        "needs max_position_embeddings where it has no factor",
    ),
    ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, "needs low_freq_factor"),
    ({"rope_type": "longrope", "original_max_position_embeddings": 8192}, "needs short_factor"),
]


@pytest.mark.parametrize(("settings", "message"), FROM_STOCK)
def test_from_stock_says_what_it_cannot(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_stock(settings)
