"""extend: every method measured, the best kept and written, so that stock transformers load it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import whorl
from whorl.conversion import extending
from whorl.conversion.extending import METHODS, candidates, choose, extend, loss_by_position
from whorl.conversion.running import overlapping, run_extend
from whorl.encodings import parse
from whorl.testing import peaked, tiny_model

IDS = torch.randint(3, 97, (2, 60), generator=torch.Generator().manual_seed(0))


def test_what_each_method_is() -> None:
    named = {m: [str(e) for _, e in candidates(parse("hope:train_length=64"), m, 64, 256)] for m in METHODS}
    assert named["linear"] == ["hope:train_length=64~linear:factor=4"]
    assert named["yarn"] == ["hope:train_length=64~yarn:factor=4,original=64"]
    assert named["window"] == [f"hope:train_length=64+window:size={n}" for n in (8, 16, 32, 64)]
    (_, layered), *_ = candidates(parse("rope+window:size=32/nope"), "ntk", 64, 128)
    assert str(layered) == "rope~ntk:factor=2+window:size=32/nope"
    with pytest.raises(ValueError, match="unknown method 'yarm'; give auto or one of linear, ntk"):
        candidates(parse("rope"), "yarm", 64, 128)


def test_loss_by_position_is_the_models_own() -> None:
    model = tiny_model("llama").eval()
    losses = loss_by_position(model, IDS)
    with torch.no_grad():
        loss = model(IDS, labels=IDS).loss
    assert float(losses.mean()) == pytest.approx(float(loss), rel=1e-5)
    ignored = int(IDS[0, 5])
    some = loss_by_position(model, IDS, ignored)
    other = IDS[1, 5] == ignored
    assert other or float(some[4]) != float(losses[4])


def test_the_best_is_kept_and_the_rest_undone() -> None:
    model = peaked(tiny_model("llama"), 3.0).eval()
    untouched = loss_by_position(model, IDS)
    best, tried = extend(model, 60, IDS, train_length=20)
    assert torch.equal(tried[0].by_position, untouched)
    assert [t.method for t in tried][:6] == ["none", "linear", "ntk", "ntk-by-parts", "yarn", "llama3"]
    assert str(whorl.encoding_of(model)) == str(best.encoding)
    torch.testing.assert_close(loss_by_position(model, IDS), best.by_position)
    assert best.past == min(t.past for t in tried[1:] if t.in_range <= tried[0].in_range + 0.2)
    whorl.detach(model)
    assert torch.equal(loss_by_position(model, IDS), untouched)


def test_auto_prefers_methods_that_keep_the_loss_in_range() -> None:
    def tried(name: str, in_range: float, past: float) -> extending.Tried:
        return extending.Tried(name, parse("rope"), torch.zeros(1), in_range, past)

    none, ruins, keeps = tried("none", 1.0, 4.0), tried("ruins", 3.0, 1.0), tried("keeps", 1.1, 2.0)
    assert choose([none, ruins, keeps], 0.2) is keeps
    assert choose([none, ruins, keeps], 5.0) is ruins
    assert choose([none, ruins], 0.2) is ruins, "all of them, where none keeps it"


@pytest.mark.parametrize(("family", "method"), [("llama", "yarn"), ("llama", "window"), ("gpt_neox", "ntk")])
def test_the_written_directory_has_the_same_losses_without_whorl(family: str, method: str, tmp_path: Path) -> None:
    model = peaked(tiny_model(family), 3.0).eval()
    best, _ = extend(model, 60, IDS, train_length=20, method=method)
    how = extending.save(model, tmp_path / "out", None, 60)
    again = whorl.load(tmp_path / "out")
    torch.testing.assert_close(loss_by_position(again.eval(), IDS), best.by_position, atol=1e-5, rtol=1e-5)
    assert how.startswith("stock")
    script = (
        "import sys, torch; sys.modules['whorl'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()\n"
        "ids = torch.load(sys.argv[2], weights_only=True)\n"
        "with torch.no_grad(): print(float(model(ids, labels=ids).loss))"
    )
    torch.save(IDS, tmp_path / "ids.pt")
    command = [sys.executable, "-c", script, str(tmp_path / "out"), str(tmp_path / "ids.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    assert float(done.stdout) == pytest.approx(float(best.by_position.mean()), rel=1e-4)


def test_bad_input_says_what_to_try(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="was trained at 64 tokens already, and 64 were asked for"):
        extend(model, 64, IDS, train_length=64)
    with pytest.raises(ValueError, match="windows of 60 tokens show nothing past the training length, 64; give a text"):
        extend(model, 128, IDS, train_length=64)
    with pytest.raises(
        ValueError, match="scales the frequencies of one rotary encoding, and nope is none|none of the meth"
    ):
        extend(whorl.attach(tiny_model("llama"), "nope"), 60, IDS, train_length=20, method="yarn")
    text = tmp_path / "short.txt"
    text.write_text("a b c\n\nd e f\n")

    class Letters:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [ord(c) for c in text]}

    with pytest.raises(ValueError, match="fewer than the 100 asked for; give a longer text"):
        overlapping(str(text), Letters(), 100, 4)


def test_the_real_checkpoint_reads_four_times_as_far(shared: Path, tmp_path: Path) -> None:
    """babyllama-tok105, trained at 256: its loss from 768 on falls from above 4, and stock transformers agree."""
    name, text = str(shared / "fixtures" / "babyllama-tok105"), str(shared / "fixtures/text/tinystories_sample.txt")
    best, tried, how = run_extend(name, 1020, text=text, train_length=256, out=tmp_path / "out", windows=6)
    untouched, by_name = tried[0], {t.method: t for t in tried}
    past = {t.method: float(t.by_position[768:].mean()) for t in tried}
    assert past["none"] > 4
    assert past["yarn"] < 1.0
    assert past[best.method] < 0.8 < past["yarn"]
    assert best.in_range <= untouched.in_range + 0.2
    assert best is min(by_name.values(), key=lambda t: t.past)
    assert how.startswith("stock")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    from whorl.comparison.corpus import load_tokenizer

    tokenizer = load_tokenizer(name)
    ids = overlapping(text, tokenizer, 1020, 6)
    stock = loss_by_position(again, ids, tokenizer.unk_token_id)
    torch.testing.assert_close(stock, best.by_position, atol=2e-3, rtol=1e-4)
    assert (tmp_path / "out" / "loss.png").stat().st_size > 5000
    assert json.loads((tmp_path / "out" / "extension.json").read_text())["loads"] == how
