"""save_pretrained and whorl.load: natively where stock can say it, loudly where it cannot. The round trip of every pair
of the contract's families is in tests/contract."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file

import whorl
from tests.contract import DECODERS, ENCODINGS, TOKENS, difference, drawn
from whorl.attaching.stock import stock_form
from whorl.hosts import StockForm
from whorl.testing import logits_and_budget, tiny_model

NATIVE = ("rope", "hope", "p-rope", "nope", "partial-rope")

WITHOUT_WHORL = """
    import json, os, sys, tempfile
    sys.modules["whorl"] = None  # importing it fails
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(1)
    folder, = sys.argv[1:]
    tokens = torch.tensor(json.load(open(f"{folder}/tokens.json")))
    logits, errors = {}, {}
    for name in sorted(d for d in os.listdir(folder) if os.path.isdir(f"{folder}/{d}")):
        try:
            model = AutoModelForCausalLM.from_pretrained(f"{folder}/{name}").eval()
            with torch.no_grad():
                logits[name] = model(tokens).logits
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    assert not any(m == "whorl" or m.startswith("whorl.") for m, v in sys.modules.items() if v is not None)
    save_file(logits, f"{folder}/logits.safetensors")
    json.dump(errors, open(f"{folder}/errors.json", "w"))
"""


def test_stock_transformers_load_what_it_can_say_and_refuse_the_rest(tmp_path) -> None:
    """In a process where whorl cannot be imported: equal logits on every rotary decoder, a loud failure for ALiBi."""
    expected, budgets = {}, {}
    for family in DECODERS:
        model = tiny_model(family)
        for name in (*NATIVE, "alibi", "learned"):
            drawn(whorl.attach(model, ENCODINGS[name]))
            native = isinstance(stock_form(model), StockForm)
            if not native and name != "alibi":
                continue
            assert name != "alibi" or not native
            model.save_pretrained(tmp_path / f"{family} {name}")
            if native:
                expected[f"{family} {name}"], budgets[f"{family} {name}"] = logits_and_budget(model, TOKENS)
    (tmp_path / "tokens.json").write_text(json.dumps(TOKENS.tolist()))
    subprocess.run([sys.executable, "-c", textwrap.dedent(WITHOUT_WHORL), str(tmp_path)], check=True)

    logits = load_file(tmp_path / "logits.safetensors")
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert logits.keys() == expected.keys()
    for name, value in expected.items():
        assert difference(logits[name], value) < budgets[name], name
    for encoding in ("rope", "hope", "p-rope"):
        assert sum(name.split()[1] == encoding for name in expected) >= 28
    assert errors.keys() == {f"{family} alibi" for family in DECODERS}
    for error in errors.values():
        assert "whorl.load(directory)" in error


@torch.no_grad()
def test_a_natively_saved_model_goes_on_being_stock(tmp_path) -> None:
    """Loaded without whorl, saved again, and loaded with it: still HoPE. A changed setting is not papered over."""
    from transformers import AutoModelForCausalLM

    model = whorl.attach(tiny_model("llama"), "hope:train_length=16")
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path / "a")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert whorl.attached(stock) is None
    assert whorl.encoding_of(stock) == whorl.HoPE(train_length=16, base=10000.0)
    stock.save_pretrained(tmp_path / "b")
    again = whorl.load(tmp_path / "b")
    assert whorl.attached(again).encoding == whorl.HoPE(train_length=16, base=10000.0)
    assert difference(again(TOKENS).logits, logits) < budget
    detached = whorl.detach(again)
    assert difference(detached(TOKENS).logits, logits) < budget, "it is HoPE in stock terms below"
    assert str(whorl.encoding_of(detached)) == "p-rope:p=0.125,base=10000"

    config = json.loads((tmp_path / "b" / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 777.0
    config["rope_parameters"]["partial_rotary_factor"] = 1.0
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    assert str(whorl.encoding_of(AutoModelForCausalLM.from_pretrained(tmp_path / "b"))) == "rope:base=777"
    with pytest.raises(
        ValueError, match=r"says rope:base=777 in stock terms and hope:train_length=16,base=10000 under 'whorl'"
    ):
        whorl.load(tmp_path / "b")


def test_a_checkpoint_without_whorl_loads_as_stock_does(tmp_path) -> None:
    model = tiny_model("qwen3")
    model.save_pretrained(tmp_path)
    again = whorl.load(tmp_path)
    assert type(again) is type(model)
    assert whorl.attached(again) is None


@torch.no_grad()
def test_other_heads_dtypes_and_shards(tmp_path) -> None:
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(tiny_model("llama").config)
    config.num_labels = 3
    model = drawn(whorl.attach(AutoModelForSequenceClassification.from_config(config).eval(), "t5"))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = whorl.load(tmp_path).eval()
    assert type(again) is type(model)
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    next(whorl.attached(model).parameters()).add_(1)
    model.save_pretrained(tmp_path)  # in one file, and the index of the pieces stays
    assert (tmp_path / "model.safetensors.index.json").exists()
    again = whorl.load(tmp_path).eval()
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    half = whorl.load(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    model.model.save_pretrained(tmp_path / "base")  # by itself, the base model keeps it too
    base = whorl.load(tmp_path / "base").eval()
    assert type(base) is type(model.model)
    assert torch.equal(base(TOKENS).last_hidden_state, model.model(TOKENS).last_hidden_state)


def test_missing_weights_are_not_papered_over(tmp_path) -> None:
    model = drawn(whorl.attach(tiny_model("llama"), "t5"))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    ours = [k for k in weights if ".whorl.effects" in k]
    assert len(ours) == 1
    save_file({k: v for k, v in weights.items() if k not in ours}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks the learned parameters \['effects.0.weight'\] of t5"):
        whorl.load(tmp_path)
    save_file({k: v for k, v in weights.items() if "q_proj" not in k}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing \['model.layers.0.self_attn.q_proj.weight'"):
        whorl.load(tmp_path)


def test_what_whorl_keeps_among_the_weights_is_read_as_strictly_as_they_are(tmp_path) -> None:
    model = drawn(whorl.attach(tiny_model("llama"), "t5"))
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    (ours,) = (k for k in weights if ".whorl.effects" in k)
    (record,) = (k for k in weights if k.endswith("._extra_state"))
    for change, said in (
        ({ours: weights[ours][:, :-1].contiguous()}, r"of another shape than t5's: effects\.0\.weight \(\[.* there, "),
        ({f"{ours}x": weights[ours].clone()}, r"holds effects\.0\.weightx of an encoding, and t5 has none such"),
        ({record: torch.zeros(3)}, r"record of the encoding among the weights is damaged \(a tensor of torch.float32"),
        ({record: weights[record][:-2].clone()}, "record of the encoding among the weights is damaged"),
    ):
        save_file({**weights, **change}, file, {"format": "pt"})
        with pytest.raises(ValueError, match=said):
            whorl.load(tmp_path)


def test_a_variant_alone_is_named(tmp_path) -> None:
    tiny_model("llama").save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(ValueError, match=r"its weights are of a variant; load it with variant='fp16'"):
        whorl.load(tmp_path)
    assert whorl.load(tmp_path, variant="fp16")


def test_detach_gives_the_stock_save_back(tmp_path) -> None:
    model = tiny_model("llama")
    whorl.detach(whorl.attach(model, "alibi"))
    assert "save_pretrained" not in model.__dict__
    model.save_pretrained(tmp_path)
    assert "whorl" not in (tmp_path / "config.json").read_text()


# --- through other libraries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["hope:train_length=16,base=500", "t5"])
def test_the_trainer_saves_and_resumes(encoding: str, tmp_path) -> None:
    from transformers import Trainer, TrainingArguments

    data = [{"input_ids": row, "labels": row} for row in torch.randint(3, 97, (16, 24))]

    def train(folder, steps: int, resume: str | None = None):
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, save_steps=2, per_device_train_batch_size=4, report_to="none",
            learning_rate=1e-2, use_cpu=True, disable_tqdm=True, lr_scheduler_type="constant",
        )  # fmt: skip
        trainer = Trainer(whorl.attach(tiny_model("llama"), encoding), arguments, train_dataset=data)
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model(folder)
        return trainer.model.eval()

    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "part", 2)
    resumed = train(tmp_path / "part", 4, resume=str(tmp_path / "part" / "checkpoint-2"))
    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    with torch.no_grad():
        logits, budget = logits_and_budget(whole, TOKENS)
        for folder in (tmp_path / "whole", tmp_path / "whole" / "checkpoint-4"):
            again = whorl.load(folder).eval()
            assert str(whorl.encoding_of(again)) == encoding
            assert difference(again(TOKENS).logits, logits) < budget
    if encoding == "t5":
        with pytest.raises(ValueError, match="whorl.load"):
            type(whole).from_pretrained(tmp_path / "whole" / "checkpoint-4")


def test_accelerate_saves(tmp_path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(drawn(whorl.attach(tiny_model("llama"), "t5")))
    inner = accelerator.unwrap_model(model)
    inner.save_pretrained(
        tmp_path, save_function=accelerator.save, state_dict=accelerator.get_state_dict(model), is_main_process=True
    )
    again = whorl.load(tmp_path).eval()
    assert torch.equal(again(TOKENS).logits, inner(TOKENS).logits)


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:Could not find a config file:UserWarning"
)
def test_peft_adapters_keep_the_encoding_of_their_base(tmp_path) -> None:
    from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model

    def adapter(model):
        config = LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.0, task_type="CAUSAL_LM")
        lora = get_peft_model(model, config).eval()
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        return lora

    def unknown():
        return pytest.warns(UserWarning, match=r"\['whorl'\] for class LoraConfig")

    tiny_model("llama").save_pretrained(tmp_path / "stock")
    whorl.attach(tiny_model("llama"), "alibi").save_pretrained(tmp_path / "alibi")

    # attached in memory to a stock base: the adapter says the encoding, so a stock load of it fails
    lora = adapter(whorl.attach(whorl.load(tmp_path / "stock"), "hope:train_length=16"))
    logits = lora(TOKENS).logits.detach()
    lora.save_pretrained(tmp_path / "adapter")
    with unknown(), pytest.raises(ValueError, match=r"use whorl.load\(directory\).*encoding hope:train_length=16,base"):
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    again = whorl.load(tmp_path / "adapter").eval()
    assert str(whorl.encoding_of(again)) == "hope:train_length=16,base=10000"
    assert torch.equal(again(TOKENS).logits, logits)

    # loaded from its own directory: the adapter names that directory, which says all
    lora = adapter(whorl.load(tmp_path / "alibi"))
    logits = lora(TOKENS).logits.detach()
    lora.save_pretrained(tmp_path / "adapter2")
    with unknown(), pytest.raises(ValueError, match="use whorl.load"):
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter2")
    again = whorl.load(tmp_path / "adapter2").eval()
    assert torch.equal(again(TOKENS).logits, logits)

    # merged, it is a model like any other
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert difference(whorl.load(tmp_path / "merged").eval()(TOKENS).logits, logits) < 1e-5

    # learned parameters are not in an adapter, and their loss is not silent
    lora = adapter(whorl.attach(whorl.load(tmp_path / "stock"), "t5"))
    with pytest.warns(UserWarning, match="does not write the learned parameters"):
        lora.save_pretrained(tmp_path / "adapter3")
    with pytest.raises(ValueError, match="saved without the learned parameters effects.0.weight of t5"):
        whorl.load(tmp_path / "adapter3")


def test_the_name_is_put_back(tmp_path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    model = whorl.load(tmp_path)
    assert model.name_or_path == os.fspath(tmp_path)
    for encoding in ("alibi", "rope:base=500"):
        whorl.attach(model, encoding)
        assert model.name_or_path == f"{tmp_path} with the positional encoding whorl:{encoding}"
    assert whorl.detach(model).name_or_path == os.fspath(tmp_path)
