"""Whether an engine carries an encoding: what is known, and what export makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import whorl
from whorl.hosts import FAMILIES
from whorl.runtimes import RUNTIMES, engines
from whorl.runtimes.engines import ENGINES, carries, refusal, verdict
from whorl.runtimes.exporting import export
from whorl.runtimes.facts import FACTS
from whorl.runtimes.ran import RESULTS, Run
from whorl.runtimes.spelled import KINDS
from whorl.testing import tiny_model

from . import table
from .exports import llama, names
from .test_exporting import run


def test_the_page_says_what_the_table_says() -> None:
    assert table.PATH.read_text(encoding="utf-8") == table.page(), "run: python -m tests.runtimes.table"


def test_facts_are_of_engines_families_and_kinds_that_there_are() -> None:
    for fact in FACTS:
        assert fact.engine in ENGINES
        assert fact.result in RESULTS
        assert fact.how in ("run", "read")
        assert set(fact.families) <= FAMILIES.keys(), fact
        assert set(fact.kinds) <= KINDS.keys(), fact
    assert {engine.files for engine in ENGINES.values()} <= set(RUNTIMES)


@pytest.mark.parametrize(
    ("name", "family", "encoding", "result"),
    [
        ("transformers", "llama", "hope:train_length=40", "right"),
        ("transformers4", "llama", "hope:train_length=40", "refuses"),
        ("transformers4", "llama", "rope~yarn:factor=4,original=16", "right"),
        ("vllm", "llama", "hope:train_length=40", "right"),
        ("vllm", "cohere", "p-rope:p=0.5~linear:factor=2", "refuses"),
        ("sglang", "llama", "hope:train_length=40", "right"),
        ("sglang", "qwen3", "hope:train_length=40", "wrong"),
        ("sglang", "gemma3_text", "full_attention=rope~linear:factor=2/sliding_attention=rope", "wrong"),
        ("llama.cpp", "llama", "hope:train_length=40", "right"),
        ("llama.cpp", "llama", "partial-rope:fraction=0.5", "right"),
        ("llama.cpp", "llama", "rope~yarn:factor=4,original=16,beta_fast=8", "right"),
        ("convert_hf_to_gguf", "llama", "rope~yarn:factor=4,original=16,beta_fast=8", "wrong"),
        ("convert_hf_to_gguf", "qwen3", "rope~yarn:factor=4,original=16,beta_slow=2", "wrong"),
        ("convert_hf_to_gguf", "llama", "rope~yarn:factor=4,original=16,attention_factor=1.4", "wrong"),
        ("mlx", "qwen3", "rope~yarn:factor=4,original=16,beta_fast=8", "right"),
        ("mlx", "llama", "rope~yarn:factor=4,original=16", "right"),
        ("mlx", "llama", "rope~yarn:factor=4,original=16,truncate=false", "wrong"),
        ("mlx", "gemma2", "rope~linear:factor=2", "wrong"),
        ("mlx", "gemma3_text", "hope:train_length=40", "refuses"),
        ("exllama", "llama", "rope~yarn:factor=2,original=16", "wrong"),
        ("ctranslate2", "llama", "rope~linear:factor=2", "right"),
        ("vllm", "llama", "p-rope:p=0.5~linear:factor=2", "right"),
        ("mlx", "llama", "p-rope:p=0.5~linear:factor=2", "right"),
        ("vllm", "llama", "p-rope:p=0.5~yarn:factor=4,original=16,attention_factor=0.8", "right"),
        ("sglang", "llama", "p-rope:p=0.5~yarn:factor=4,original=16,attention_factor=0.8", "right"),
        ("mlx", "llama", "p-rope:p=0.5~yarn:factor=4,original=16,attention_factor=0.8", "wrong"),
        ("mlx", "llama4_text", None, "unknown"),
    ],
)
def test_what_an_engine_carries(name: str, family: str, encoding: str | None, result: str) -> None:
    model = tiny_model(family)
    if encoding is not None:
        whorl.attach(model, encoding)
    found = carries(name, model)
    assert found.result == result
    assert ENGINES[name].title in str(found)
    assert (refusal(found, model) is None) == (result in ("right", "unknown"))


@pytest.mark.parametrize(("name", "why"), [("llama.cpp", "fox"), ("vllm", "vLLM reads stock terms")])
def test_what_no_file_of_an_engine_can_say_is_not_called_carried(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        carries(name, whorl.attach(tiny_model("llama"), "fox"))


def test_a_run_goes_before_a_reading_and_says_how_far_off_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Run("vllm", "0.33.0", "hope:train_length=2048", "wrong", 9.2, 9.2, "2026-11-27", "smollm2-135m-instruct")
    older = Run("vllm", "0.31.0", "p-rope:p=0.5", "right", 7e-5, 9.2, "2026-11-26", "smollm2-135m-instruct")
    own = Run("vllm", "0.33.0", "rope~yarn:factor=4,original=2048,attention_factor=1.4", "wrong", 1, 2, "2026", "s")
    monkeypatch.setattr(engines, "ran", lambda: [older, row, own])
    found = verdict("vllm", "llama", ["proportional"])
    assert (found.result, found.how, found.version) == ("wrong", "run", "0.33.0")
    assert found.why == "logits of smollm2-135m-instruct 9.2 off, plain RoPE 9.2"
    assert verdict("vllm", "qwen3", ["proportional"]).how == "read", "a run is of its family"
    assert verdict("vllm", "llama", ["yarn"]).result == "right", "its own factor is to blame, not YaRN"
    assert verdict("vllm", "llama", ["yarn", "yarn: own attention"]).result == "wrong"
    monkeypatch.setattr(engines, "ran", lambda: [replace(older, encoding="rope~yarn:factor=4,original=2048")])
    assert verdict("vllm", "llama", ["yarn"]).how == "run"
    assert verdict("vllm", "llama", ["yarn", "yarn: mscale"]).how == "read", "of which a part was only read"


def test_export_for_an_engine_that_would_drop_the_encoding_writes_nothing(tmp_path: Path) -> None:
    model = llama("rope~yarn:factor=4,original=16,attention_factor=1.4")
    with pytest.raises(ValueError, match=r"mlx-lm \(0.32.2\) would run another model in silence.*--for transformers"):
        export(model, tmp_path / "out", engine="mlx")
    with pytest.raises(ValueError, match="transformers 4 .* refuses it, as run: KeyError"):
        export(llama("hope:train_length=40"), tmp_path / "out", engine="transformers4")
    with pytest.raises(ValueError, match="stock transformers cannot say alibi"):
        export(llama("alibi"), tmp_path / "out", engine="vllm")
    assert names(tmp_path) == []


def test_export_for_an_engine_writes_what_it_reads(tmp_path: Path) -> None:
    model = llama("hope:train_length=40")
    for name, file in (("vllm", "config.json"), ("llama.cpp", "model.gguf")):
        done = export(model, tmp_path / name, engine=name)
        assert (tmp_path / name / file).exists()
        assert done.engine is not None
        assert done.engine.result == "right"
    assert export(model, tmp_path / "plain").engine is None


def test_the_command_says_first_whether_the_engine_carries_it(tmp_path: Path) -> None:
    llama("hope:train_length=40").save_pretrained(tmp_path / "model")
    where = [str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    done = run(*where, "--for", "exllama")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("ExLlamaV3 (1.6.5) carries it, as read\n")
    refused = run(str(tmp_path / "model"), "--out", str(tmp_path / "not"), "--for", "transformers4")
    assert "transformers 4 (4.57.6) refuses it, as run" in refused.stdout
    assert "Nothing is written for it; --for transformers or --for vllm" in str(refused.exception)
    whorl.attach(llama(), "alibi").save_pretrained(tmp_path / "alibi")
    unsaid = run(str(tmp_path / "alibi"), "--out", str(tmp_path / "not"), "--for", "mlx")
    assert "mlx-lm reads stock terms, and stock llama has no place for a bias" in str(unsaid.exception)
    assert "unknown engine 'mxl'" in str(run(*where, "--for", "mxl").exception)
    assert not (tmp_path / "not").exists()


def test_a_model_with_parts_is_not_taken_for_its_text() -> None:
    """Older readers find no settings in a part of a config, so that what holds for the text's family does not."""
    text = tiny_model("gemma3_text")
    assert carries("mlx", text).result == "right"
    whole = torch.nn.Module()
    whole.config = SimpleNamespace(model_type="gemma3", get_text_config=lambda: text.config)
    assert carries("mlx", whole).result == "unknown"
