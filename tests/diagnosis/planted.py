"""Planted faults: (the checks that must fail, what the fault is, a model with the fault)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

import whorl
from whorl.attaching import seams_of
from whorl.testing import tiny_model

from . import LLAMA3, LONGROPE, YARN, rope, rotary

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


def filled(value: float) -> Any:
    model = tiny_model("llama")
    rotary(model).inv_freq.fill_(value)
    return model


for _value in (0.0, 1.0, float("nan"), 1e30, -1.0):
    planted("initialised", f"buffers of {_value}")(lambda value=_value: filled(value))


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


@planted("settings", "frequencies of a step by wavelength, one and a half times as fast")
def _() -> Any:
    model = tiny_model("llama", **rope({**LLAMA3, "low_freq_factor": 4.0}))
    rotary(model).inv_freq[1:].mul_(1.5)
    return model


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


@planted("ignored cache", "a window in a family that masks by none: only caches read it")
def _() -> Any:
    return tiny_model("llama", sliding_window=24)


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


@planted("runs", "float16 that overflows, where float32 does not")
def _() -> Any:
    model = tiny_model("gpt2").half()
    model.transformer.h[1].mlp.c_proj.bias.data[:] = 65000.0
    model.transformer.h[2].mlp.c_proj.bias.data[:] = 65000.0
    return model


@planted("runs", "a weight that is not a number")
def _() -> Any:
    model = tiny_model("llama")
    model.model.norm.weight.data[0] = float("nan")
    return model


def _computing(model: Any, forward: Callable[..., Any]) -> Any:
    """The model with another forward in its rotary module, as somebody's own class would have."""
    module = rotary(model)
    module.__class__ = type("OwnRotaryEmbedding", (type(module),), {"forward": forward})
    return model


def _tables(angles: torch.Tensor, x: torch.Tensor, amplitude: float = 1.0) -> Any:
    both = torch.cat([angles, angles], -1)
    return (amplitude * both.cos()).to(x.dtype), (amplitude * both.sin()).to(x.dtype)


def _in_the_dtype_of_x(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
    return _tables(position_ids[..., None].to(x.dtype) * self.inv_freq.to(x.dtype), x)


def _by_matmul(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
    """Autocast takes a product of matrices down to its own dtype."""
    return _tables((self.inv_freq[None, :, None] @ position_ids[:, None].float()).mT, x)


def _always_short(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
    return _tables(position_ids[..., None] * self.original_inv_freq, x, self.attention_scaling)


def _switching_at(tokens: int) -> Callable[..., Any]:
    def forward(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        long = int(position_ids.max()) + 1 > tokens
        factors = torch.tensor(self.config.rope_parameters["long_factor" if long else "short_factor"])
        plain = 1e4 ** -(torch.arange(0, 16, 2) / 16)
        return _tables(position_ids[..., None] * plain / factors, x, self.attention_scaling)

    return forward


def _no_further(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
    return _tables(position_ids[..., None].clamp(max=62) * self.inv_freq, x)


@planted("angles", "angles in the dtype of a model in bfloat16")
def _() -> Any:
    return _computing(_in_bfloat16(tiny_model("llama")), _in_the_dtype_of_x)


@planted("angles", "angles in float16, at a length where it counts by halves")
def _() -> Any:
    model = tiny_model(
        "llama", max_position_embeddings=2048, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    )
    frequencies = rotary(model).inv_freq.clone()
    model.half()
    rotary(model).inv_freq = frequencies
    return _computing(model, _in_the_dtype_of_x)


@planted("angles", "angles by a product of matrices under the model's own autocast")
def _() -> Any:
    model = _computing(tiny_model("llama"), _by_matmul)
    own = model.forward
    model.forward = lambda *args, **kwargs: torch.autocast("cpu", torch.bfloat16)(own)(*args, **kwargs)
    return model


@planted("angles", "longrope that never takes its long list")
def _() -> Any:
    return _computing(tiny_model("llama", **rope(LONGROPE)), _always_short)


@planted("angles batch", "longrope that switches one token early")
def _() -> Any:
    return _computing(tiny_model("llama", **rope(LONGROPE)), _switching_at(31))


@planted("angles cache batch", "longrope that switches one token late")
def _() -> Any:
    return _computing(tiny_model("llama", **rope(LONGROPE)), _switching_at(33))


@planted("angles", "dynamic NTK that never grows")
def _() -> Any:
    settings = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    return _computing(tiny_model("llama", **rope(settings)), _always_short)


@planted("angles cache batch", "dynamic NTK that grows as if the length were another")
def _() -> Any:
    def forward(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        grown = max(1.0, 4.0 * (int(position_ids.max()) + 1) / 64 - 3.0 + 0.5 * (int(position_ids.max()) >= 64))
        plain = (1e4 * grown ** (16 / 14)) ** -(torch.arange(0, 16, 2) / 16)
        return _tables(position_ids[..., None] * plain, x)

    return _computing(tiny_model("llama", **rope({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0})), forward)


@planted("angles shift", "positions that stop before the declared length")
def _() -> Any:
    return _computing(tiny_model("llama"), _no_further)


def forgetting(change: Callable[[Any], Any]) -> Any:
    """A Llama with FoX attached, whose states are asked as `change` of the function says."""
    model = whorl.attach(tiny_model("llama"), "fox")
    for seam in seams_of(model):
        seam.scores[0].tokens = change(seam.scores[0].tokens)
    return model


@planted("gaps", "padding counts in a sum over tokens")
def _() -> Any:
    return forgetting(lambda ask: lambda hidden, positions, real, before: ask(hidden, positions, None, before))


@planted("cache packing states", "sums in bfloat16")
def _() -> Any:
    return forgetting(lambda ask: lambda *told: ask(*told).bfloat16())


@planted("order", "an encoder without positions")
def _() -> Any:
    return whorl.attach(tiny_model("bert"), "nope")
