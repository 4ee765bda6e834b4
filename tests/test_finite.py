"""NaN and infinities: whatever reads a model stops and names the weight, or the first module that gives one."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import whorl
from tests import texts
from whorl import finite
from whorl.conversion.converting import Diverged, Healing, convert, evaluated, language, train_on
from whorl.conversion.extending import choose, extend
from whorl.conversion.needle import retrieval
from whorl.inspection import ablation
from whorl.runtimes.exporting import export
from whorl.testing import peaked, tiny_model

IDS = torch.randint(3, 97, (2, 60), generator=torch.Generator().manual_seed(0))
WEIGHT = "model.layers.1.mlp.up_proj.weight"


class Letters:
    """A tokenizer of one token per byte, below 97."""

    bos_token_id = unk_token_id = eos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [byte % 97 for byte in text.encode()]}


def broken(value: float = math.nan, name: str = WEIGHT) -> Any:
    """One value of one weight is not a number, or infinite."""
    model = peaked(tiny_model("llama"), 3.0).eval()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[5] = value
    return model


def overflowing() -> Any:
    """Weights are finite, and the output of one module is not."""
    model = tiny_model("llama").eval()
    with torch.no_grad():
        model.get_parameter(WEIGHT).fill_(1e30)
        model.get_parameter("model.layers.1.mlp.gate_proj.weight").fill_(1e30)
    return model


def heal(model: Any) -> Any:
    task: Any = SimpleNamespace(settings=SimpleNamespace(text="nothing is read of it"))
    return convert(model, "hope", task, Healing(1, 20), Path("nowhere"))


READERS = {
    "inspect": lambda model: whorl.inspect(model, IDS, train_length=20),
    "extend": lambda model: extend(model, 60, IDS, train_length=20),
    "convert": heal,
    "export": lambda model: export(model, "nowhere/at/all"),
    "export gguf": lambda model: export(model, "nowhere/at/all", runtime="gguf"),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("reader", READERS)
def test_a_weight_that_is_not_finite_is_named(reader: str, value: float, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"weights that are not finite: {WEIGHT} \(1 of [\d,]+\)\. Nothing measured"):
        READERS[reader](broken(value))
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_does_not_begin_with_weights_that_are_not_finite(tmp_path: Path) -> None:
    from whorl.training.models import build_model
    from whorl.training.settings import Settings

    broken().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} has weights that are not finite: {WEIGHT}"):
        build_model(Settings(model=str(tmp_path)), 97, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_and_a_tied_or_half_broken_model(dtype: torch.dtype) -> None:
    assert finite.not_finite(tiny_model("gpt2").to(dtype)) == []
    model = broken(math.inf, "model.norm.weight").to(dtype)
    model.get_parameter(WEIGHT).data.fill_(math.nan)
    found = finite.not_finite(model)
    assert [name.split()[0] for name in found] == [WEIGHT, "model.norm.weight"]
    with torch.device("meta"):
        assert finite.not_finite(tiny_model("llama")) == []


def test_the_first_module_whose_output_is_not_finite_is_named(tmp_path: Path) -> None:
    where = r"first output that is not finite is that of model\.layers\.1\.mlp"
    with pytest.raises(ValueError, match=f"hidden states of LlamaForCausalLM are not finite: the {where}"):
        whorl.inspect(overflowing(), IDS, train_length=20, random_windows=0)
    with pytest.raises(ValueError, match=f"untouched model are not finite in range; none: the {where}"):
        extend(overflowing(), 60, IDS, train_length=20)
    with pytest.raises(ValueError, match=f"losses are not finite: the {where}"):
        ablation.losses(overflowing(), IDS, None)
    with pytest.raises(ValueError, match=f"losses are not finite with pairs from 3 on not rotating: the {where}"):
        ablation.losses(overflowing(), IDS, 3)
    with pytest.raises(ValueError, match=f"the logits at 120 tokens are not finite: the {where}"):
        retrieval(overflowing(), Letters(), [5] * 200, [120], [0.5], trials=1)
    with pytest.raises(ValueError, match=f"model's own logits are not finite: the {where}"):
        export(overflowing(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_hidden_key_is_minus_infinity_and_no_fault() -> None:
    model = whorl.attach(peaked(tiny_model("llama")), "rope+window:size=8", impl="reference")
    assert finite.first_not_finite(model, IDS).startswith("every module's output is finite")
    whorl.inspect(model, IDS, train_length=20, random_windows=0)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_method_without_finite_losses_is_never_kept(caplog: pytest.LogCaptureFixture) -> None:
    model = peaked(tiny_model("llama"), 3.0).eval()
    from whorl.conversion import extending

    measured = extending.loss_by_position

    def spoiled(model: Any, windows: torch.Tensor, *rest: Any) -> torch.Tensor:
        losses = measured(model, windows, *rest)
        if "yarn" in str(whorl.encoding_of(model)) or "window" in str(whorl.encoding_of(model)):
            losses[3] = math.nan
        return losses

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(extending, "loss_by_position", spoiled)
        best, tried = extend(model, 60, IDS, train_length=20)
        assert best.finite
        assert [t.method for t in tried if not t.finite] == [
            "yarn", "window of 2", "window of 5", "window of 10", "window of 20",
        ]  # fmt: skip
        assert "losses that are not finite with the method yarn: every module's output" in caplog.text
        whorl.detach(model)
        with pytest.raises(ValueError, match="no method gives finite losses; yarn: "):
            extend(model, 60, IDS, train_length=20, method="yarn")
    nan = extending.Tried("nan", best.encoding, torch.tensor([math.nan]), math.nan, math.nan)
    high = extending.Tried("high", best.encoding, torch.tensor([9.0]), 9.0, 9.0)
    assert choose(tried[0], [nan, high], 0.2, or_none=False) is high


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Documents of real source files, and their tokenizer beside them."""
    return str(texts.lay(tmp_path_factory.mktemp("text")))


SMALL: dict[str, Any] = {
    "train_length": 32, "lengths": ("1x", "2x"), "tokens": 12 * 4 * 32, "batch_size": 4, "tail": 8, "windows": 4,
    "precision": "fp32", "quiet": True,
}  # fmt: skip


def test_a_trial_that_diverges_stops_and_the_others_go_on(text: str, tmp_path: Path, monkeypatch) -> None:
    from whorl.training import trainer as training

    started = training._Watch.on_train_begin

    def spoiling(self: Any, args: Any, state: Any, control: Any, model: Any = None, **how: Any) -> None:
        started(self, args, state, control)
        if "window" in str(whorl.encoding_of(model)):
            with torch.no_grad():
                model.get_parameter("model.norm.weight")[0] = math.nan

    monkeypatch.setattr(training._Watch, "on_train_begin", spoiling)
    results = whorl.compare(["rope", "rope+window:size=8"], text=text, out=tmp_path / "out", **SMALL)
    sound, diverged = results.trials
    assert sound.train.diverged is None
    assert (diverged.train.diverged, diverged.train.tokens) == (1, 4 * 32), "one step, and no more"
    assert all(math.isnan(row.values["tail"]) for row in diverged.evaluations["perplexity"])
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Its training diverged and was stopped at step 1 (seed 0)." in report
    assert "| diverged | diverged |" in report
    trial = str(tmp_path / "out" / "trials" / diverged.id)
    from whorl.inspection.reporting import run

    with pytest.raises(ValueError, match=r"has weights that are not finite: model\.embed_tokens"):
        run([trial], windows=1, length=64, out=tmp_path / "inspect")
    assert not (tmp_path / "inspect").exists()


@pytest.mark.full
def test_a_healing_that_diverges_stops_and_says_at_which_step(text: str, tmp_path: Path) -> None:
    settings = {k: v for k, v in SMALL.items() if k != "quiet"}
    whorl.compare(["rope"], text=text, out=tmp_path / "run", quiet=True, **settings)
    (tokenizer,) = map(str, (tmp_path / "run" / "trials").glob("*/tokenizer"))
    task = language(text, tokenizer, 32, (32,), 4, 8)
    model = tiny_model("llama", vocab_size=task.vocab_size).eval()
    healing = Healing(4 * 8 * 32, 32, batch_size=8, precision="fp32")
    kept = evaluated(model, task)
    assert math.isfinite(kept[32])

    def spoil(step: int, steps: int) -> None:
        if step == 2:
            with torch.no_grad():
                model.get_parameter(WEIGHT)[0] = math.nan

    with pytest.raises(Diverged, match="its loss is nan at step 3 of 4; try a lower learning rate than 0.0005"):
        train_on(model, task, healing, tmp_path, spoil, [])
    with pytest.raises(ValueError, match="the loss at 32 tokens is not finite; the first output that is not finite"):
        evaluated(model, task)


def test_a_control_that_diverges_does_not_lose_the_healed_model(monkeypatch, tmp_path: Path) -> None:
    from whorl.conversion import converting

    monkeypatch.chdir(tmp_path)

    def train(model: Any, task: Any, healing: Any, folder: Path, *_: Any) -> list[Any]:
        if folder.name == "control":
            raise Diverged("its loss is nan at step 3")
        return []

    monkeypatch.setattr(converting, "train_on", train)
    monkeypatch.setattr(converting, "evaluated", lambda model, task, update: {20: 1.0})
    report = heal(tiny_model("llama"))
    assert (report.healed, report.control) == ({20: 1.0}, None)
    assert report.control_diverged == "its loss is nan at step 3"
    assert json.dumps(report.to_json(), allow_nan=False)
