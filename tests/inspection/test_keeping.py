"""A run that is stopped leaves what it read, and goes on after it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import whorl
from whorl.inspection import passes
from whorl.inspection.keeping import Kept
from whorl.results.inspection import Inspection, Summary
from whorl.sources import identity
from whorl.testing import peaked, tiny_model

IDS = torch.randint(3, 97, (4, 64), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The windows of each forward, of 64 tokens at most."""
    seen: list[int] = []
    real = passes.forward

    def counting(host: object, ids: torch.Tensor, watcher: object) -> None:
        seen.append(ids.shape[1])
        real(host, ids, watcher)

    monkeypatch.setattr(passes, "forward", counting)
    monkeypatch.setattr(passes, "BATCH_TOKENS", 64)
    return seen


def inspected(kept: Kept | None, told: list[Inspection], stop_at: str = "", after: int = 10) -> Inspection:
    """stop_at: Ctrl-C after so many windows of this stage."""

    @contextmanager
    def stage(name: str, steps: int) -> Iterator[object]:
        read = 0

        def advance(windows: int) -> None:
            nonlocal read
            read += windows
            if stop_at and name.startswith(stop_at) and read >= after:
                raise KeyboardInterrupt

        yield advance

    model = peaked(tiny_model("llama"))
    return whorl.inspect(
        model, IDS, train_length=32, random_windows=4, ablate=True, kept=kept, stage=stage, finished=told.append
    )


def test_ctrl_c_keeps_the_windows_that_were_read_and_the_next_run_reads_the_others(
    tmp_path: Path, forwards: list[int]
) -> None:
    whole = inspected(None, [])
    all_of_them = list(forwards)
    assert all_of_them == [32] * 4 + [32] * 2 + [64] * 4
    forwards.clear()
    told: list[Inspection] = []
    kept = Kept(tmp_path / "stages", of="this")
    kept.begin(whole.summary.plan)
    with pytest.raises(KeyboardInterrupt):
        inspected(kept, told, "random", 2)
    left = told[-1]
    assert left.summary.settings.random_windows == 2
    assert left.summary.u_shape.random is not None
    assert "2 of the 4 windows of the stage 'random tokens': it was interrupted" in left.summary.plan.left_out
    assert left.summary.absent["out_of_range"].startswith("not read yet")
    assert left.summary.absent["ablation"].startswith("not read yet")

    forwards.clear()
    told.clear()
    found = inspected(kept, told)
    assert forwards == [32] + [64] * 4, "two windows of random tokens, and what was to come"
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, atol=1e-5, err_msg=name)
    assert found.summary.plan == whole.summary.plan
    assert found.summary.u_shape.text.rise == pytest.approx(whole.summary.u_shape.text.rise)
    forwards.clear()
    again = inspected(kept, [])
    assert forwards == [], "nothing is read twice"
    assert again.summary.ablation == found.summary.ablation
    np.testing.assert_array_equal(again.departure, found.departure)


def test_ctrl_c_within_a_forward_leaves_whole_windows(forwards: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    real = passes.Pass._attention

    def stopped(self: passes.Pass, *arguments: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 2 * 3 * 2 + 2:  # two forwards of three layers and two windows: in the first layer of the third
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(passes.Pass, "_attention", stopped)
    told: list[Inspection] = []
    with pytest.raises(KeyboardInterrupt):
        inspected(None, told)
    assert told[-1].summary.plan.stage("text").read == 4
    assert np.isfinite(told[-1].norm_q).all()


def test_stages_of_something_else_are_not_gone_on_with(tmp_path: Path) -> None:
    plan = inspected(None, []).summary.plan
    kept = Kept(tmp_path / "stages", length=64)
    assert kept.plan() is None
    kept.begin(plan)
    (kept.folder / "text.npz").write_bytes(b"damaged")
    assert Kept(tmp_path / "stages", length=64).plan() == plan
    assert kept.sums("text", [], IDS) == {}, "what is damaged is read again"
    kept.begin(plan)
    assert (kept.folder / "text.npz").exists()
    Kept(tmp_path / "stages", length=32).begin(plan)
    assert not (kept.folder / "text.npz").exists()
    assert kept.plan() is None


def test_stages_in_a_folder_that_is_linked_are_taken_away_too(tmp_path: Path) -> None:
    plan = inspected(None, []).summary.plan
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "stages").symlink_to(tmp_path / "elsewhere")
    for anew in (False, True):
        (tmp_path / "elsewhere" / "text.npz").write_bytes(b"of another run")
        Kept(tmp_path / "stages", length=32).begin(plan, anew)
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["plan.json"]


def test_windows_of_other_tokens_are_read_anew(
    tmp_path: Path, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command, and a tokenizer that has changed or is another model's."""
    kept = Kept(tmp_path / "stages", of="this")
    kept.begin(inspected(None, []).summary.plan)
    first = inspected(kept, [])
    monkeypatch.setattr(sys.modules[__name__], "IDS", IDS.flip(0, 1))
    whole = inspected(None, [])
    forwards.clear()
    found = inspected(kept, [])
    assert forwards == [32] * 4 + [64] * 4, "random tokens are the same"
    np.testing.assert_array_equal(found.norm_q, whole.norm_q)
    assert found.summary.ablation == whole.summary.ablation != first.summary.ablation


def test_other_weights_are_something_else(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    before = identity([str(tmp_path)])
    assert identity([str(tmp_path)]) == before
    weights.write_bytes(b"other")
    assert identity([str(tmp_path)]) != before
    assert identity(["some/hub-name"]) == ["some/hub-name"]


def test_numbers_of_earlier_versions_load(tmp_path: Path) -> None:
    found = inspected(None, [])
    old = {key: value for key, value in found.summary.to_json().items() if key != "plan"}
    assert Summary.from_json(old) == replace(found.summary, plan=None)
    found.save(tmp_path)
    assert Inspection.load(tmp_path).summary.plan == found.summary.plan


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_report(sent: signal.Signals, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from whorl.data.corpus import train_tokenizer

    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32,
    )  # fmt: skip
    model, text = tmp_path / "model", tmp_path / "text.txt"
    LlamaForCausalLM(config).save_pretrained(model)
    text.write_text("One word after the other, and none of them is long.\n\n" * 200)
    train_tokenizer([text.read_text()], 300).save_pretrained(model)
    out = tmp_path / "out"
    command = ["inspect", str(model), "--text", str(text), "--length", "32", "--random-windows", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "whorl", *command, "--minutes", "0", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in a shell's background
    )  # fmt: skip
    request.addfinalizer(process.kill)
    assert process.stdout is not None
    plan = process.stdout.readline()
    assert plan == "the plan: text, in range: 8 windows of 32 tokens; random tokens: 1000000 windows of 32 tokens\n"
    while not process.stdout.readline().startswith("random tokens"):
        pass
    assert {path.name for path in out.glob("report.*")} == {"report.html"}, "the page after each stage"
    process.send_signal(sent)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "what was read is in" in errors
    summary = json.loads((out / "inspection.json").read_text())
    assert summary["plan"]["stages"][0]["read"] == 8
    assert summary["absent"]["out_of_range"].startswith("not read yet")
    assert Inspection.load(out).norm_q.shape == (2, 2, 8)
    assert "</html>" in (out / "report.html").read_text()
    assert "figures/usage.png" in (out / "report.md").read_text()
    assert (out / "figures" / "usage.png").exists()
