"""Stock transformers: a directory with the encoding in stock terms (`whorl.attaching.stock` says which)."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from whorl import finite
from whorl.attaching import attach, attached
from whorl.attaching.reading import encoding_of, same_rotations, stock_encoding
from whorl.attaching.saving import save_for_all
from whorl.attaching.seams import attached_to_parts
from whorl.attaching.stock import stock_form
from whorl.hosts import open_host, tokens_of
from whorl.hosts.transformers.rope_settings import by_layer_type
from whorl.numerics import allowance, in_float64, max_error, too_large_to_copy
from whorl.runtimes.base import Check, Runtime, Written
from whorl.runtimes.facts import DROPPED
from whorl.runtimes.spelled import KINDS, kinds_of

CAVEAT = (
    "llama.cpp's convert_hf_to_gguf.py drops the encoding, or a number of it, from this folder ({}); for llama.cpp, "
    "whorl export --runtime gguf"
)
TOKENS = 48  # of each of the two rows that a written directory is compared on


@dataclass(frozen=True)
class HF(Runtime):
    """Config, safetensors in the model's own dtype, and tokenizer, as `save_pretrained` writes them."""

    name = "hf"
    title = "stock transformers"

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Self:
        if "dtype" in options:
            raise ValueError(
                f"dtype={options['dtype']!r} is of the matrices of GGUF files; an hf directory keeps the model's own; "
                "leave it out, or take the runtime gguf"
            )
        return super().of_options(options)

    def refuse(self, model: Any) -> str | None:
        if on_parts := attached_to_parts(model):
            at, encoding = next(iter(on_parts.items()))
            return (
                f"stock transformers cannot say {encoding} on a part of a {type(model).__name__}, {at}. Keep it with "
                "model.save_pretrained(directory), and read that with whorl.load(directory)"
            )
        form = None if attached(model) is None else stock_form(model)
        if not isinstance(form, str):
            return None
        return (
            f"stock transformers cannot say {encoding_of(model)} on a {type(model).__name__}: {form}. "
            "Keep it with model.save_pretrained(directory), and read that with whorl.load(directory)"
        )

    def write(self, model: Any, folder: Path, tokenizer: Any) -> Written:
        save_for_all(model, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        encoding = "the model's own" if attached(model) is None else str(encoding_of(model))
        told = "none given"
        if tokenizer is not None:
            told, largest = type(tokenizer).__name__, max(tokenizer.get_vocab().values())
            rows = tokens_of(model)
            if largest >= rows:
                told += f", which has the token id {largest}, and the model {rows} embeddings"
        dropped = ", ".join(KINDS[kind] for kind in _dropped(folder))
        return Written(folder, encoding, told, CAVEAT.format(dropped) if dropped else "")

    @torch.no_grad()
    def check(self, model: Any, written: Written) -> Check:
        """Loads the folder as anybody would, in one process, and compares logits (without a head, hidden states)."""
        training = model.training
        model.eval()
        try:
            half = torch.finfo(model.dtype).bits < 32
            # The stock model, a module in float64, and a float32 copy of what is in half precision.
            room = too_large_to_copy(model, 8 + 4 * half) is None
            ours = copy.deepcopy(model).float() if half and room else model
            ids = _some_tokens(model)
            outputs, truth = _outputs(ours, ids), None
            if room:
                with suppress(RuntimeError, NotImplementedError), in_float64(ours):  # code without float64 kernels
                    truth = _outputs(ours, ids)
            allowed, truth = allowance(outputs, truth), None  # 200 MiB of a Gemma
            stock = _stock_class(model).from_pretrained(written.folder, dtype=ours.dtype, use_safetensors=True)
            assert attached(stock) is None
            error = max_error(_outputs(stock.to(model.device).eval(), ids), outputs)
            if not error <= allowed:
                allowed += _moved_by_rounded_frequencies(stock, ours, ids, outputs)
        finally:
            model.train(training)
        what = "hidden states" if ours is getattr(ours, "base_model", None) else "logits"
        finite.check_values(outputs, f"the model's own {what} are not finite", model, ids)
        return Check(f"loaded by stock transformers: {what} of {ids.numel()} tokens", error, allowed)


def _dropped(folder: Path) -> list[str]:
    """What a written config says of its rotation, or that of a layer type, and llama.cpp does not run after its own
    converter (kinds of `spelled`)."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    settings = text.get("rope_parameters") or {}
    flat = [one for one in by_layer_type(settings).values() or (settings,) if one]
    said = [kind for one in flat for kind in kinds_of(one, text["max_position_embeddings"])]
    return [kind for kind in dict.fromkeys(said) if kind in DROPPED]


def _outputs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """What a forward gives first: the logits of a head, or the hidden states of a model without one."""
    found = model(ids)[0]
    assert isinstance(found, torch.Tensor)
    return found


def _moved_by_rounded_frequencies(stock: Any, ours: Any, ids: torch.Tensor, outputs: torch.Tensor) -> float:
    """How far the outputs of an attached model are moved by the stock module's own frequencies, which are float32 and
    where they are blended (YaRN, Llama 3) off by more than a rounding. 0 where they are not the model's at all."""
    host = open_host(stock)
    if attached(ours) is None or host.rotary is None:
        return 0.0
    own = stock_encoding(host)
    if not same_rotations(host, own, encoding_of(ours)):
        return 0.0
    return max_error(_outputs(attach(copy.deepcopy(ours), own), ids), outputs)


def _stock_class(model: Any) -> Any:
    """The class that a person would load the directory with: the causal LM's auto class, or the model's own."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    auto = type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return (
        AutoModelForCausalLM if auto and MODEL_FOR_CAUSAL_LM_MAPPING[type(model.config)] is type(model) else type(model)
    )


def _some_tokens(model: Any) -> torch.Tensor:
    """Two rows of ids, the same for every model of a vocabulary, as long as a table of positions allows."""
    config = model.config.get_text_config()
    length = min(TOKENS, getattr(config, "max_position_embeddings", None) or TOKENS)
    drawn = torch.randint(config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    return drawn.to(model.device)
