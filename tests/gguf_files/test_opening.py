"""Models read from GGUF files, against the models that the files were written of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import whorl
from whorl.runtimes.exporting import export
from whorl.runtimes.gguf import GGUF_FILE
from whorl.sources import source
from whorl.testing import logits_and_budget, max_error

from ..runtimes.exports import TOKENS, llama

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")

from .written import FAMILIES, small, written  # noqa: E402

OWN = {
    "stock": None,
    "rope": "rope:base=5e5",
    "hope": "hope:train_length=40",
    "p-rope": "p-rope:p=0.5",
    "nope": "nope",
    "yarn": "rope~yarn:factor=4,original=16",
    "hope and yarn": "hope:train_length=40~yarn:factor=4",
    "partial": "partial-rope:fraction=0.5",
    "amplitude": "frequencies:values=1@0.5@0.3@0.2@0.1@0.05@0.02@0.01,amplitude=1.25",
}
REAL = {"smollm2-135m-instruct": "rope:base=100000", "gemma-3-270m": None}


@torch.no_grad()
@pytest.mark.parametrize("name", OWN)
def test_what_export_wrote_comes_back_with_its_encoding_and_logits(name: str, tmp_path: Path) -> None:
    model = llama(OWN[name])
    export(model, tmp_path / "out", runtime="gguf")
    again = whorl.load(tmp_path / "out" / GGUF_FILE)
    logits, budget = logits_and_budget(model, TOKENS)
    assert max_error(again(TOKENS).logits, logits) <= budget
    found = whorl.encoding_of(again)
    if name == "partial":  # the channels of a head come in another order, so that no name fits
        assert found.values == (1.0, *found.values[1:4], 0, 0, 0, 0)
    else:
        assert found == whorl.encoding_of(model)
    if name == "hope":  # and it is seen when the factors are not read
        assert max_error(whorl.detach(again)(TOKENS).logits, logits) > 100 * budget


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("notation", [None, "nope", "p-rope:p=0.5"])
def test_so_do_other_architectures(architecture: str, notation: str | None, tmp_path: Path) -> None:
    if architecture != "gemma3" and notation == "p-rope:p=0.5":
        pytest.skip("llama.cpp turns all pairs of Qwen 2 and 3")
    if (architecture, notation) == ("gemma3", "nope"):
        notation = "full_attention=nope/sliding_attention=p-rope:p=0.75"
    model = small(architecture)
    if notation is not None:
        whorl.attach(model, notation)
    again = whorl.load(export(model, tmp_path / "out", runtime="gguf").path)
    logits, budget = logits_and_budget(model, TOKENS)
    assert max_error(again(TOKENS).logits, logits) <= budget
    assert whorl.encoding_of(again) == whorl.encoding_of(model)
    if notation == "p-rope:p=0.5":  # the base of whole heads, which another encoding would take
        assert again.config.rope_parameters == model.config.rope_parameters


@torch.no_grad()
@pytest.mark.parametrize("name", ["stock", "hope", "partial"])
def test_a_model_that_was_read_is_saved_clean(name: str, tmp_path: Path) -> None:
    export(llama(OWN[name]), tmp_path / "out", runtime="gguf")
    read = whorl.load(tmp_path / "out")  # the folder holds one file
    logits, budget = logits_and_budget(read, TOKENS)
    read.save_pretrained(tmp_path / "saved")
    again = whorl.load(tmp_path / "saved")
    assert torch.equal(again(TOKENS).logits, logits)
    assert whorl.encoding_of(again) == whorl.encoding_of(read)
    config = (tmp_path / "saved" / "config.json").read_text()
    assert "quantization" not in config
    assert str(tmp_path) not in config
    exported = export(read, tmp_path / "exported", runtime="gguf")
    assert max_error(whorl.load(exported.path)(TOKENS).logits, logits) <= budget
    if name == "stock":
        from transformers import AutoModelForCausalLM

        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        assert torch.equal(stock(TOKENS).logits, logits)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_architecture_gives_the_logits_of_its_model(architecture: str, tied: bool, tmp_path: Path) -> None:
    if not tied and architecture in ("gemma", "gemma2"):
        pytest.skip("llama.cpp has no place for a head of its own in Gemma and Gemma 2")
    model = small(architecture, tie_word_embeddings=tied)
    again = whorl.load(written(model, tmp_path / "small.gguf", architecture))
    assert type(again) is type(model)
    logits, budget = logits_and_budget(model, TOKENS)
    assert max_error(again(TOKENS).logits, logits) <= budget
    assert whorl.encoding_of(again) == whorl.encoding_of(model)


@torch.no_grad()
def test_biases_are_read(tmp_path: Path) -> None:
    model = small("llama", attention_bias=True, mlp_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
    again = whorl.load(written(model, tmp_path / "small.gguf", "llama"))
    logits, budget = logits_and_budget(model, TOKENS)
    assert max_error(again(TOKENS).logits, logits) <= budget


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    model = small("qwen2")
    lacking = written(model, tmp_path / "lacking.gguf", "qwen2", {"block_count": 4})
    with pytest.raises(ValueError, match=r"missing blk\.3\.attn_k\.bias, .*, not known to it none"):
        whorl.load(lacking)
    none = written(model, tmp_path / "none.gguf", "qwen2", {"block_count": 10**5})
    with pytest.raises(ValueError, match=r"says block_count 100000, and holds \d\d tensors in all"):
        whorl.load(none)
    more = written(model, tmp_path / "more.gguf", "qwen2", {"block_count": 2})
    with pytest.raises(ValueError, match=r"missing none, not known to it blk\.2\."):
        whorl.load(more)
    narrow = written(model, tmp_path / "narrow.gguf", "qwen2", {"feed_forward_length": 64})
    with pytest.raises(
        ValueError, match=r"of another shape blk\.0\.ffn_gate\.weight is \(96, 128\) and not \(64, 128\)"
    ):
        whorl.load(narrow)
    short = tmp_path / "short.gguf"
    short.write_bytes(written(model, tmp_path / "whole.gguf", "qwen2").read_bytes()[:-4000])
    with pytest.raises(ValueError, match=r"ends before .* does: it is not whole"):
        whorl.load(short)
    short.write_bytes(short.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cannot read .*short\.gguf: its header ends early"):
        source(str(short))  # as every command names its model, before it asks for a tokenizer


def test_a_dtype_is_taken_as_from_pretrained_takes_it(tmp_path: Path) -> None:
    path = written(small("llama"), tmp_path / "small.gguf", "llama")
    for how in ({"dtype": torch.bfloat16}, {"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}):
        assert whorl.load(path, **how).dtype == torch.bfloat16, how
    assert whorl.load(path, dtype="auto").dtype == torch.float32
    with pytest.raises(ValueError, match="dtype must be one of torch"):
        whorl.load(path, dtype="half-a-float")


def test_what_is_asked_for_a_hub_or_an_adapter_is_refused(tmp_path: Path) -> None:
    path = written(small("qwen2"), tmp_path / "small.gguf", "qwen2")
    with pytest.raises(ValueError, match=r"revision are of the hub, and .*small\.gguf is a file"):
        whorl.load(path, revision="main")
    with pytest.raises(ValueError, match="is a model and no adapter"):
        whorl.load(path, base=object())


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest) -> Path:
    """A pretrained model, of which nobody ships the weights."""
    folder = os.environ.get("WHORL_MODELS")
    if folder is None:
        pytest.skip("WHORL_MODELS names no folder with the pretrained models")
    path = Path(folder) / f"{request.param}.gguf"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    return path


@torch.no_grad()
def test_a_pretrained_model_is_what_transformers_reads_and_is_saved_clean(real: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    read = whorl.load(real)
    theirs = AutoModelForCausalLM.from_pretrained(real.parent, gguf_file=real.name)
    state = theirs.state_dict()
    assert state.keys() == read.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in read.state_dict().items())
    if REAL[real.stem]:
        assert str(whorl.encoding_of(read)) == REAL[real.stem]
    else:
        window = "+window:size=512"
        assert str(whorl.encoding_of(read)) == (
            f"full_attention=rope:base=1000000/sliding_attention=rope:base=10000{window}"
        )
    logits = read(TOKENS).logits
    del theirs, state
    read.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(TOKENS).logits, logits)
