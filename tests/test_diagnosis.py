"""whorl.doctor: every check fails on the fault that it is for, alone, and on nothing healthy."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import whorl
from whorl.diagnosis import CHECKS, Diagnosis, doctor
from whorl.diagnosis.meaning import Sizes, meant
from whorl.diagnosis.reading import measured
from whorl.hosts import ENCODERS
from whorl.testing import tiny_model

from .contract import DECODERS, EVERY, REFUSED, TOKENS, drawn, packs

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 2.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def rope(settings: dict[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": copy.deepcopy(settings)}


def rotary(model: Any) -> Any:
    return model.model.rotary_emb


# Healthy models


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_every_family_is_healthy(family: str) -> None:
    model = tiny_model(family)
    logits = model(TOKENS).logits
    found = doctor(model)
    assert found.failed == (), str(found)
    assert found.having("warn") == ()
    assert torch.equal(model(TOKENS).logits, logits), "the model is left as it was"
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    asked = found.having("pass")
    assert {"runs", "batch", "padding", "length"} <= set(asked)
    assert ("cache" in asked) == (family not in ENCODERS)
    assert ("packing" in asked) == packs(family)
    if family not in ("gpt2", "opt", "bert"):
        assert {"initialised", "precision", "settings", "ignored", "theta", "shift", "pattern", "base"} <= set(asked)


SCALED = [
    YARN,
    {**YARN, "truncate": False},
    {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
    {**YARN, "attention_factor": 1.3, "beta_fast": 8.0},
    LLAMA3,
    {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0},
    {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    {**LONGROPE, "long_factor": [1.0] * 8},
]


@pytest.mark.parametrize("settings", SCALED, ids=lambda s: s["rope_type"])
def test_scaled_models_are_healthy(settings: dict[str, Any]) -> None:
    found = doctor(tiny_model("llama", **rope(settings)))
    assert found.failed == (), str(found)
    assert found["settings"].status == "pass"
    assert (found["attention-factor"].status == "pass") == (settings["rope_type"] in ("yarn", "longrope"))


@pytest.mark.parametrize("family", ["llama", "phi", "qwen3_moe", "gemma4_text", "gpt_oss", "gpt2", "modernbert"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_is_healthy_when_loaded_so(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """from_pretrained(dtype=...) keeps the frequencies in float32."""
    tiny_model(family).save_pretrained(tmp_path)
    found = doctor(type(tiny_model(family)).from_pretrained(tmp_path, dtype=dtype))
    assert found.failed == (), str(found)


@pytest.mark.parametrize("family", ["llama", "gpt2", "llama4_text"])
@pytest.mark.parametrize("encoding", EVERY)
def test_attached_encodings_are_healthy(family: str, encoding: str) -> None:
    if (family, encoding) in REFUSED:
        pytest.skip(REFUSED[family, encoding])
    model = drawn(whorl.attach(tiny_model(family), encoding))
    logits = model(TOKENS).logits
    found = doctor(model)
    assert found.failed == (), str(found)
    assert torch.equal(model(TOKENS).logits, logits)
    assert str(whorl.encoding_of(model)) == encoding
    assert (found["shift"].status == "pass") == (encoding.partition(":")[0] not in ("sinusoidal", "learned"))


# The float64 formulas, against the stock code


@pytest.mark.parametrize("settings", [*SCALED, LONGROPE], ids=lambda s: s["rope_type"])
def test_what_settings_mean_is_what_stock_code_makes_of_them(settings: dict[str, Any]) -> None:
    model = tiny_model("llama", **rope(settings))
    done, _ = measured(rotary(model), "")
    meaning = meant(model.config.rope_parameters, Sizes(16, 64))
    assert done.frequencies == pytest.approx(meaning.frequencies, rel=2e-6)
    assert done.amplitude == pytest.approx(meaning.amplitude, rel=1e-6)


# Planted faults: (the checks that must fail, a model with the fault)

Plant = Callable[[], Any]
PLANTED: list[tuple[str, str, Plant]] = []


def planted(checks: str, what: str) -> Callable[[Plant], Plant]:
    def keep(plant: Plant) -> Plant:
        PLANTED.append((checks, what, plant))
        return plant

    return keep


@planted("precision", "model.to(bfloat16)")
def _() -> Any:
    return tiny_model("llama").to(torch.bfloat16)


@planted("precision", "half precision, by layer type")
def _() -> Any:
    return tiny_model("gemma3_text").half()


@planted("precision", "buffers rounded and cast back")
def _() -> Any:
    model = tiny_model("phi")
    rotary(model).inv_freq.copy_(rotary(model).inv_freq.bfloat16())
    return model


def _filled(value: float) -> Any:
    model = tiny_model("llama")
    rotary(model).inv_freq.fill_(value)
    return model


for _value in (0.0, 1.0, float("nan"), 1e30, -1.0):
    planted("initialised", f"buffers of {_value}")(lambda value=_value: _filled(value))


@planted("initialised", "left on the meta device")
def _() -> Any:
    model = tiny_model("gemma3_text")
    rotary(model).sliding_attention_inv_freq = rotary(model).sliding_attention_inv_freq.to("meta")
    return model


@planted("settings", "yarn set after load")
def _() -> Any:
    model = tiny_model("llama")
    model.config.rope_parameters = copy.deepcopy(YARN)
    return model


@planted("settings", "config.rope_scaling set after load")
def _() -> Any:
    model = tiny_model("llama")
    model.config.rope_scaling = {k: v for k, v in YARN.items() if k != "rope_theta"}
    return model


@planted("settings", "theta set after load, for one layer type")
def _() -> Any:
    model = tiny_model("gemma3_text")
    model.config.rope_parameters["full_attention"]["rope_theta"] = 5e5
    return model


@planted("settings", "theta changed by as little as rounding would")
def _() -> Any:
    model = tiny_model("llama")
    model.config.rope_parameters["rope_theta"] = 10020.0
    return model


@planted("settings", "buffers of another base")
def _() -> Any:
    model = tiny_model("glm")
    rotary(model).inv_freq.copy_(
        rotary(tiny_model("glm", **rope({**model.config.rope_parameters, "rope_theta": 5e4}))).inv_freq
    )
    return model


@planted("ignored", "a factor without a rope type")
def _() -> Any:
    return tiny_model("llama", **rope({"rope_type": "default", "rope_theta": 1e4, "factor": 4.0}))


@planted("ignored", "truncate by layer type, which stock code looks for in another place")
def _() -> Any:
    settings = {**YARN, "truncate": False, "beta_fast": 1.0, "beta_slow": 0.1, "original_max_position_embeddings": 32}
    return tiny_model("gemma3_text", **rope(dict.fromkeys(("full_attention", "sliding_attention"), settings)))


@planted("partial", "a family that turns whole heads")
def _() -> Any:
    return tiny_model("llama", **rope({"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}))


@planted("layer-types", "settings by layer type in a family with one table")
def _() -> Any:
    one = {"rope_type": "default", "rope_theta": 1e6}
    return tiny_model("llama", **rope({"full_attention": one, "sliding_attention": {**one, "rope_theta": 1e4}}))


@planted("theta", "config.rope_theta, which nothing reads")
def _() -> Any:
    model = tiny_model("llama")
    model.config.rope_theta = 5e5
    return model


@planted("attention-factor", "missing")
def _() -> Any:
    model = tiny_model("llama", **rope(YARN))
    rotary(model).attention_scaling = 1.0
    return model


@planted("attention-factor", "squared")
def _() -> Any:
    model = tiny_model("llama", **rope(YARN))
    rotary(model).attention_scaling **= 2
    return model


def _twice(module: Any, args: Any, out: Any) -> Any:
    return tuple(t * module.attention_scaling for t in out)


@planted("attention-factor", "applied again to cos and sin")
def _() -> Any:
    model = tiny_model("llama", **rope(YARN))
    rotary(model).register_forward_hook(_twice)
    return model


@planted("attention-factor", "applied again to the logits' scale")
def _() -> Any:
    model = tiny_model("llama", **rope(YARN))
    model.model.layers[1].self_attn.scaling *= rotary(model).attention_scaling ** 2
    return model


@planted("proportional", "Gemma 4's full layers, as partial rotary")
def _() -> Any:
    model = tiny_model("gemma4_text")
    partial = torch.zeros(16)
    partial[:4] = 1e6 ** -(torch.arange(0, 8, 2) / 8)
    rotary(model).full_attention_inv_freq.copy_(partial)
    return model


@planted("proportional", "partial rotary with the exponent over the whole head")
def _() -> Any:
    model = tiny_model("gpt_neox")
    model.gpt_neox.rotary_emb.inv_freq.copy_(1e4 ** -(torch.arange(0, 4, 2) / 16))
    return model


@planted("runs proportional", "Gemma 4's still pairs left out (Megatron-Bridge #4195)")
def _() -> Any:
    model = tiny_model("gemma4_text")
    module = rotary(model)
    module.full_attention_inv_freq = module.full_attention_inv_freq[:4].clone()
    return model


@planted("cache batch", "dynamic NTK, stock")
def _() -> Any:
    return tiny_model("llama", **rope({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}))


@planted("cache batch", "longrope with two lists, stock")
def _() -> Any:
    return tiny_model("llama", **rope(LONGROPE))


def _late(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    past = kwargs.get("past_key_values")
    if past is not None and past.get_seq_length() > 0:
        kwargs["position_ids"] = kwargs["position_ids"] + 1
    return args, kwargs


@planted("cache", "positions one off while decoding")
def _() -> Any:
    model = tiny_model("qwen3")
    model.model.register_forward_pre_hook(_late, with_kwargs=True)
    return model


def _mean_of_rows(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
    return out + 0.01 * out.mean(0, keepdim=True) if out.shape[0] > 1 else out


@planted("batch", "rows that are mixed")
def _() -> Any:
    model = tiny_model("mistral")
    model.get_input_embeddings().register_forward_hook(_mean_of_rows)
    return model


def _without_mask(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if isinstance(kwargs.get("attention_mask"), torch.Tensor):
        kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])
    return args, kwargs


@planted("padding", "the mask forgotten")
def _() -> Any:
    model = tiny_model("olmo2")
    model.model.register_forward_pre_hook(_without_mask, with_kwargs=True)
    return model


def _mask_of_ones(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if kwargs.get("attention_mask") is None and kwargs.get("past_key_values") is None:
        kwargs["attention_mask"] = torch.ones_like(kwargs["input_ids"])
    return args, kwargs


@planted("packing", "a mask given where documents were told apart by positions")
def _() -> Any:
    model = tiny_model("llama")
    model.model.register_forward_pre_hook(_mask_of_ones, with_kwargs=True)
    return model


def _positions_in_bfloat16(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {k: v.bfloat16() if k == "position_ids" else v for k, v in kwargs.items()}


@planted("shift", "positions in bfloat16")
def _() -> Any:
    model = tiny_model("llama")
    rotary(model).register_forward_pre_hook(_positions_in_bfloat16, with_kwargs=True)
    return model


def _adds_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    positions = kwargs["position_ids"]
    hidden = args[0] if args else kwargs["hidden_states"]
    added = 0.01 * torch.sin(positions / 10.0)[..., None].to(hidden)
    return (hidden + added, *args[1:]), kwargs


@planted("shift", "a second encoding left in the embedding")
def _() -> Any:
    model = tiny_model("llama")
    model.model.layers[0].register_forward_pre_hook(_adds_positions, with_kwargs=True)
    return model


def _in_bfloat16(model: Any) -> Any:
    """As from_pretrained(dtype=...) has it: the frequencies stay in float32."""
    frequencies = {name: b.clone() for name, b in rotary(model).named_buffers()}
    model = model.bfloat16()
    for name, buffer in frequencies.items():
        setattr(rotary(model), name, buffer)
    return model


@planted("shift", "the same in a model in bfloat16, whose rounding would hide it")
def _() -> Any:
    model = _in_bfloat16(tiny_model("llama"))
    model.model.layers[0].register_forward_pre_hook(_adds_positions, with_kwargs=True)
    return model


@planted("pattern", "a position-free layer that turns")
def _() -> Any:
    model = tiny_model("smollm3")
    model.model.layers[1].self_attn.use_rope = 1
    return model


@planted("pattern", "a rotary layer that does not turn")
def _() -> Any:
    model = tiny_model("llama4_text")
    model.model.layers[2].self_attn.use_rope = 0
    return model


@planted("pattern", "no_rope_layers in a family that does not read it")
def _() -> Any:
    return tiny_model("llama", no_rope_layers=[1, 0, 1])


@planted("pattern", "Exaone 4's full layer made a sliding one")
def _() -> Any:
    model = tiny_model("exaone4")
    full = next(layer.self_attn for layer in model.model.layers if not layer.self_attn.is_sliding)
    full.is_sliding = True
    return model


@planted("length", "a table shorter than declared")
def _() -> Any:
    model = tiny_model("gpt2")
    model.config.n_positions = model.config.max_position_embeddings = 128
    return model


@planted("length", "yarn that does not reach the declared length")
def _() -> Any:
    return tiny_model("llama", **rope({**YARN, "factor": 2.0}))


@planted("runs", "settings that stock code cannot run")
def _() -> Any:
    settings = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 0.5}
    return tiny_model("llama", **rope(settings))


@planted("runs", "a weight that is not a number")
def _() -> Any:
    model = tiny_model("llama")
    model.model.norm.weight.data[0] = float("nan")
    return model


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
@torch.no_grad()
@pytest.mark.parametrize(("checks", "what", "plant"), PLANTED, ids=[f"{c}: {w}" for c, w, _ in PLANTED])
def test_a_planted_fault_fails_its_check_and_no_other(checks: str, what: str, plant: Plant) -> None:
    found = doctor(plant())
    assert found.failed == tuple(sorted(checks.split(), key=[c.name for c in CHECKS].index)), str(found)
    for name in checks.split():
        finding = found[name]
        assert finding.measured, "a failure says what it measured"
        assert "raised" not in finding.measured or name == "runs"
        assert finding.why
        assert finding.remedy


@pytest.mark.parametrize(
    ("plant", "check", "measured_is"),
    [
        (lambda: tiny_model("llama").to(torch.bfloat16), "precision", "frequencies off by 0.37%, rounded to bfloat16"),
        (lambda: _filled(0.0), "initialised", "frequencies 0, 0, 0, ... (8 of them)"),
        (
            lambda: tiny_model("llama", no_rope_layers=[1, 0, 1]),
            "pattern",
            "layer 1 turns, and the config says otherwise",
        ),
        (
            lambda: tiny_model("llama", **rope({**YARN, "factor": 2.0})),
            "length",
            "yarn x 2 reaches from 16 to 32 tokens",
        ),
    ],
    ids=["rounded", "zeros", "pattern", "length"],
)
def test_a_failure_says_its_number(plant: Plant, check: str, measured_is: str) -> None:
    assert measured_is in doctor(plant())[check].measured


@pytest.mark.parametrize("settings", [{"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, LONGROPE])
def test_length_dependent_frequencies_leave_no_mark(settings: dict[str, Any]) -> None:
    model = tiny_model("llama", **rope(settings))
    before = {k: v.clone() for k, v in model.named_buffers()}
    state = {k: v for k, v in vars(rotary(model)).items() if not isinstance(v, dict)}
    doctor(model)
    assert all(torch.equal(v, before[k]) for k, v in model.named_buffers())
    assert {k: v for k, v in vars(rotary(model)).items() if not isinstance(v, dict)} == state


def test_a_forward_that_a_copy_shares_is_allowed_for() -> None:
    """Bound to the original, it gives the copy in float64 the same float32 logits: no error to go by."""
    model = tiny_model("llama")
    own = model.forward
    model.forward = lambda *args, **kwargs: own(*args, **kwargs)
    assert doctor(model).failed == ()


def test_doctor_draws_no_random_numbers() -> None:
    model = tiny_model("gpt_oss")  # whose packing is compared with a tiny model of the family
    state = torch.random.get_rng_state()
    doctor(model)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_in_training_stays_in_training() -> None:
    model = tiny_model("llama").train()
    assert doctor(model).healthy
    assert model.training


def test_the_length_asked_for() -> None:
    model = tiny_model("llama")
    assert doctor(model, length=64).healthy
    assert doctor(model, length=65).failed == ("length",)


# A base that is too small is a warning: Llama 2 itself falls short (docs/doctor.md)


@pytest.mark.parametrize(("base", "context", "warns"), [(500.0, 64, True), (1e4, 64, False), (1e4, 256, True)])
def test_a_small_base_is_a_warning(base: float, context: int, warns: bool) -> None:
    settings = rope({"rope_type": "default", "rope_theta": base})
    found = doctor(tiny_model("llama", max_position_embeddings=context, **settings))
    assert found.healthy
    assert (found.having("warn") == ("base",)) == warns, str(found)


def test_a_window_is_as_far_as_the_base_must_reach() -> None:
    wide = tiny_model("mistral", max_position_embeddings=4096, sliding_window=4096)
    assert doctor(wide)["base"].status == "warn"
    assert doctor(tiny_model("mistral", max_position_embeddings=4096))["base"].status == "pass"


# Directories


def changed(folder: Path, **entries: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config.update(entries)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path)
    return tmp_path


def test_a_directory_is_healthy(folder: Path) -> None:
    found = doctor(folder)
    assert found.healthy
    assert found["saved"].status == found["theta"].status == "pass"


def test_a_directory_in_half_precision_is_healthy(tmp_path: Path) -> None:
    tiny_model("phi").bfloat16().save_pretrained(tmp_path)
    found = doctor(tmp_path)
    assert found.healthy, str(found)
    assert found["precision"].status == "pass"


DIRECTORIES = [
    ("theta", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope settings without a theta"),
    ("theta", {"rope_theta": 5e5}, "config.json says 10000, 500000"),
]


@pytest.mark.parametrize(("check", "entries", "measured_is"), DIRECTORIES)
def test_a_config_with_a_fault(check: str, entries: dict[str, Any], measured_is: str, folder: Path) -> None:
    found = doctor(changed(folder, **entries))
    assert found.failed == (check,), str(found)
    assert measured_is in found[check].measured


def test_a_config_from_before_theta_passes_and_says_the_default(folder: Path) -> None:
    found = doctor(changed(folder, rope_parameters="gone"))
    assert found.healthy, str(found)
    assert "10000 by default" in found["theta"].measured


def test_a_tokenizer_that_lets_more_through(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 4096}))
    found = doctor(folder)
    assert found.failed == ("length",)
    assert "4,096 tokens through" in found["length"].measured
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    assert doctor(folder).healthy


@pytest.mark.parametrize(
    ("base", "dtype", "ok"), [(1e4, torch.float32, True), (1e4, torch.float16, True), (500.0, torch.float32, False)]
)
def test_rotary_buffers_among_the_weights(base: float, dtype: torch.dtype, ok: bool, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = (base ** -(torch.arange(0, 16, 2) / 16)).to(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = doctor(folder)
    assert found.failed == (() if ok else ("saved",)), str(found)


def test_a_record_that_contradicts_the_stock_settings(tmp_path: Path) -> None:
    whorl.attach(tiny_model("llama"), "hope:train_length=16").save_pretrained(tmp_path)
    assert doctor(tmp_path).healthy
    settings = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    found = doctor(changed(tmp_path, rope_parameters={**settings, "partial_rotary_factor": 0.9}))
    assert found.failed == ("saved",), str(found)
    assert "hope:train_length=16" in found["saved"].measured


def test_an_encoding_that_only_whorl_knows(tmp_path: Path) -> None:
    whorl.attach(tiny_model("llama"), "alibi").save_pretrained(tmp_path)
    found = doctor(tmp_path)
    assert found.healthy
    assert "whorl attached alibi" in found["settings"].measured


class Boom:
    """Unpickled, it writes a file."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self) -> Any:
        return Path.touch, (self.where,)


def test_a_pickle_is_never_opened(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import pickle

    ran = tmp_path_factory.mktemp("elsewhere") / "ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Boom(ran)))
    found = doctor(folder)
    assert found.healthy
    assert "left alone: pytorch_model.bin" in found["saved"].measured
    (folder / "model.safetensors").rename(folder / "of_something_else.safetensors")
    with pytest.raises(ValueError, match="no file named model.safetensors"):
        doctor(folder)
    (folder / "of_something_else.safetensors").unlink()
    with pytest.raises(ValueError, match="only pickled weights \\(pytorch_model.bin\\), which are never opened"):
        doctor(folder)
    assert not ran.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert ran.exists(), "the pickle would have run"


def test_code_in_the_directory_is_never_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    ran = tmp_path_factory.mktemp("elsewhere") / "ran"
    (folder / "modeling_mine.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    code = {"AutoConfig": "modeling_mine.C", "AutoModelForCausalLM": "modeling_mine.M"}
    found = doctor(changed(folder, auto_map=code))
    assert found.healthy, "a known model type needs none of it"
    assert "modeling_mine.M" in found["saved"].measured
    with pytest.raises(ValueError, match="model type|custom code|trust_remote_code"):
        doctor(changed(folder, model_type="mine"))
    assert not ran.exists()


def test_bad_input_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no directory"):
        doctor(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        doctor(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match="no safetensors"):
        doctor(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot read"):
        doctor(tmp_path)
    with pytest.raises(ValueError, match="two tokens or more"):
        doctor(tiny_model("llama"), text_ids=torch.tensor([3]))
    with pytest.raises(ValueError, match="from 3 to 97, and the model has 97 tokens"):
        doctor(tiny_model("llama"), text_ids=torch.tensor([3, 97]))
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(hidden_size=8, num_hidden_layers=1))
    with pytest.raises(ValueError, match="no known seam"):
        doctor(mamba)


# A real model


@pytest.fixture(scope="module")
def babyllama(shared: Path) -> Path:
    return shared / "fixtures" / "babyllama-tok105"


@pytest.fixture(scope="module")
def story(shared: Path, babyllama: Path) -> torch.Tensor:
    from transformers import AutoTokenizer

    text = (shared / "fixtures" / "text" / "tinystories_sample.txt").read_text()
    return torch.tensor(AutoTokenizer.from_pretrained(babyllama)(text)["input_ids"])


def test_the_real_checkpoint_is_healthy(babyllama: Path, story: torch.Tensor) -> None:
    for found in (doctor(babyllama), doctor(babyllama, text_ids=story)):
        assert found.healthy, str(found)
        assert found["layout"].status == "pass"
        assert found.having("warn") == ("base",), "one distance of 256"
        assert "at 1 of 256 distances" in found["base"].measured


def loaded(babyllama: Path) -> Any:
    return whorl.load(babyllama).eval()


@torch.no_grad()
def rearranged(model: Any, order: torch.Tensor) -> Any:
    """The rows of q and k, head by head, in another order."""
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj"):
            weight = getattr(layer.self_attn, name).weight
            weight.copy_(weight.view(-1, 16, weight.shape[1])[:, order].reshape(weight.shape))
    return model


def test_rows_in_the_other_layout(babyllama: Path, story: torch.Tensor) -> None:
    """What a conversion without its permutation gives."""
    interleaved = torch.arange(16).view(2, 8).T.flatten()
    found = doctor(rearranged(loaded(babyllama), interleaved), text_ids=story)
    assert found.failed == ("layout",), str(found)


def test_a_share_of_the_head_by_the_loss(babyllama: Path, story: torch.Tensor) -> None:
    """Seven of eight pairs as p-RoPE are healthy, and as partial rotary (rows in its order) are found out."""

    def declared(theta: float, order: torch.Tensor | None) -> Diagnosis:
        config = loaded(babyllama).config
        config.rope_parameters = {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": 0.875}
        model = transformers.LlamaForCausalLM.from_pretrained(babyllama, config=config).eval()
        return doctor(model if order is None else rearranged(model, order), text_ids=story)

    healthy = declared(1e4, None)
    assert healthy.healthy, str(healthy)
    assert "under the other reading" in healthy["proportional"].measured
    # Frequencies base^(-2i/14) are those of 1e4^(-2i/16) at this base, on channels i and i + 7.
    partial = torch.tensor([*range(7), *range(8, 15), 7, 15])
    assert declared(1e4 ** (14 / 16), partial).failed == ("proportional",)


def test_a_model_that_cannot_read_says_nothing(babyllama: Path, story: torch.Tensor) -> None:
    found = doctor(tiny_model("llama", vocab_size=105), text_ids=story)
    assert found["layout"].status == "n/a"
    assert "does not read this text" in found["layout"].measured


# The command


def run(*arguments: str) -> Any:
    import typer
    from typer.testing import CliRunner

    from whorl.cli.doctor import doctor as command

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def test_the_command(folder: Path) -> None:
    done = run(str(folder))
    assert done.exit_code == 0, done.output
    assert "Cached decoding equals a full forward" in done.output
    done = run(str(folder), "--length", "100")
    assert done.exit_code == 1
    assert "asked for 100 tokens, and the config declares 64" in " ".join(done.output.split())
    assert "why:" in done.output
    done = run(str(folder), "--length", "100", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert [f["check"] for f in found["findings"] if f["status"] == "fail"] == ["length"]
    assert not found["healthy"]


def test_the_command_with_a_text(babyllama: Path, shared: Path, folder: Path) -> None:
    text = str(shared / "fixtures" / "text" / "tinystories_sample.txt")
    done = run(str(babyllama), "--text", text, "--json")
    assert done.exit_code == 0
    layout = next(f for f in json.loads(done.stdout)["findings"] if f["check"] == "layout")
    assert layout["status"] == "pass"
    with pytest.raises(ValueError, match="needs the model's own tokenizer"):
        raise run(str(folder), "--text", text).exception


def test_every_check_is_planted_and_documented() -> None:
    faults = " ".join(checks for checks, _, _ in PLANTED).split()
    elsewhere = {"layout", "base", "saved"}  # a real model, a warning, a directory
    assert {c.name for c in CHECKS} == set(faults) | elsewhere
    page = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text(encoding="utf-8")
    for check in CHECKS:
        assert f"| `{check.name}` |" in page, f"docs/doctor.md lacks {check.name}"
    assert len(PLANTED) >= 15


def test_frequencies_that_go_by_each_query_are_healthy() -> None:
    """whorl's dynamic NTK depends on the query's own position, so that cache and batch pass and shift is not asked."""
    found = doctor(whorl.attach(tiny_model("llama").eval(), "rope~dynamic-ntk:factor=4,original=16"))
    assert found["shift"].status == "n/a"
    assert found["cache"].status == found["batch"].status == "pass"
