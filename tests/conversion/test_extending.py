"""extend: every method measured, the best kept and written, so that stock transformers load it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract import drawn
from transformers import AutoModelForCausalLM

import whorl
from whorl.conversion import extending
from whorl.conversion.extending import (
    METHODS,
    changes,
    choose,
    extend,
    extended,
    loss_by_position,
    see_new_distances,
    summed,
)
from whorl.conversion.folders import overlapping
from whorl.data.corpus import load_tokenizer
from whorl.encodings import parse
from whorl.hosts import open_host
from whorl.results.extension import Extension
from whorl.testing import peaked, tiny_model
from whorl.training.trials import load_trial

IDS = torch.randint(3, 97, (2, 60), generator=torch.Generator().manual_seed(0))


def candidates(notation: str, method: str, train_length: int, to: int, family: str = "llama") -> list[str]:
    host = open_host(tiny_model(family))
    encoding = parse(notation)
    return [str(extended(host, encoding, change, train_length)) for _, change in changes(method, train_length, to)]


def test_what_each_method_is() -> None:
    named = {m: candidates("hope:train_length=64", m, 64, 256) for m in METHODS}
    assert named["linear"] == ["hope:train_length=64~linear:factor=4"]
    assert named["yarn"] == ["hope:train_length=64~yarn:factor=4,original=64"]
    assert named["window"] == [f"hope:train_length=64+window:size={n}" for n in (8, 16, 32, 64)]
    assert candidates("rope+window:size=80/nope", "ntk", 64, 128) == ["rope~ntk:factor=2+window:size=80/nope"]
    assert candidates("rope+window:size=80", "window", 64, 128)[0] == "rope+window:size=8", (
        "in the place of a wider one"
    )
    with pytest.raises(ValueError, match="unknown method 'yarm'; did you mean 'yarn'"):
        changes("yarm", 64, 128)


def test_only_layers_that_see_new_distances_are_changed() -> None:
    """The tiny llama has three layers, the gemma3 two types of them, with a window of 24 in one."""
    assert candidates("rope+window:size=64/rope", "linear", 64, 128) == ["rope+window:size=64/rope~linear:factor=2"]
    assert candidates("rope+window:size=65/rope", "linear", 64, 128) == [
        "rope~linear:factor=2+window:size=65/rope~linear:factor=2"
    ]
    assert candidates("rope+window:size=32/nope", "window", 64, 128)[0] == "rope+window:size=32/nope+window:size=8"
    model = tiny_model("gemma3_text")
    host = open_host(model)
    assert set(zip(host.layer_types, host.windows, strict=True)) == {
        ("full_attention", None),
        ("sliding_attention", 24),
    }
    own = str(whorl.encoding_of(model))
    assert own == "full_attention=rope:base=1000000/sliding_attention=rope:base=10000+window:size=24"
    for method in ("yarn", "base=5e5", "window"):
        for found in candidates(own, method, 24, 96, "gemma3_text"):
            full, sliding = found.split("/")
            assert sliding == "sliding_attention=rope:base=10000+window:size=24"
            assert full != own.split("/")[0]
    assert candidates("rope", "linear", 24, 96, "gemma3_text") == [
        "full_attention=rope~linear:factor=4/sliding_attention=rope"
    ], "an encoding of one for all is split by the host's own windows"
    for notation, why in (("rope+window:size=64", "no distance is new to it"), ("rope+window:size=8/nope", "not turn")):
        with pytest.raises(ValueError, match=why):
            candidates(notation, "yarn", 64, 128)


def test_chunks_within_the_training_length_show_nothing_new() -> None:
    model = tiny_model("llama4_text")
    host, chunk = open_host(model), model.config.attention_chunk_size
    assert "chunked_attention" in host.layer_types
    encoding = whorl.encoding_of(model)
    for length, seen in ((chunk, False), (chunk - 1, True)):
        found = see_new_distances(host, encoding, length)
        assert dict(zip(host.layer_types, found, strict=True))["chunked_attention"] is seen


def test_a_gemma_is_extended_where_distances_are_new_and_saved_in_stock_terms(tmp_path: Path) -> None:
    model = peaked(tiny_model("gemma3_text"), 3.0).eval()
    local = str(whorl.encoding_of(model)).split("/")[1]
    best, tried = extend(model, 60, IDS, train_length=24, method="yarn")
    assert str(best.encoding).endswith(f"/{local}")
    assert "yarn" in str(best.encoding).split("/")[0]
    assert extending.save(model, tmp_path / "out", None, 60) == "stock"
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(loss_by_position(stock, IDS), best.by_position, atol=1e-5, rtol=1e-5)
    everywhere = whorl.attach(peaked(tiny_model("gemma3_text"), 3.0), str(best.encoding).split("/")[0].split("=", 1)[1])
    assert float((loss_by_position(everywhere, IDS) - best.by_position).abs().max()) > 1e-3, "it is another model"
    _, tried = extend(peaked(tiny_model("gemma3_text"), 3.0).eval(), 60, IDS, train_length=24)
    assert [t.method for t in tried][-1] == "window of 24"
    assert all(str(t.encoding).endswith(f"/{local}") for t in tried)


def test_a_model_that_sees_no_new_distance_is_not_extended() -> None:
    model = tiny_model("mistral")
    assert set(open_host(model).windows) == {24}
    with pytest.raises(ValueError, match="every layer of this MistralForCausalLM sees no further than the training le"):
        extend(model, 60, IDS, train_length=24)
    assert whorl.attached(model) is None


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
    assert best.past == min(t.past for t in tried if t.whole_context and t.in_range <= tried[0].in_range + 0.2)
    if whorl.attaching.attached(model) is not None:
        whorl.detach(model)
    assert torch.equal(loss_by_position(model, IDS), untouched)


def test_auto_prefers_methods_that_keep_the_loss_in_range() -> None:
    def tried(name: str, in_range: float, past: float) -> extending.Tried:
        return extending.Tried(name, parse("rope"), torch.zeros(1), in_range, past)

    none, ruins, keeps = tried("none", 1.0, 4.0), tried("ruins", 3.0, 1.0), tried("keeps", 1.1, 2.0)
    assert choose(none, [ruins, keeps], 0.2) is keeps
    assert choose(none, [ruins, keeps], 5.0) is ruins
    assert choose(none, [ruins], 0.2) is none, "the model as it is, where none keeps it"
    assert choose(none, [ruins], 0.2, or_none=False) is ruins, "a method that is asked for by its name"
    worse = tried("worse", 1.0, 4.1)
    assert choose(none, [worse], 0.2) is none, "and where none is lower"
    lost = extending.Tried("none", parse("rope"), torch.tensor([float("nan")]), 1.0, float("nan"))
    assert choose(lost, [worse], 0.2) is worse


def test_the_model_as_it_is_is_kept_where_no_method_reads_better(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(
        model: torch.nn.Module, windows: torch.Tensor, ignored: int | None = None, _: Any = None
    ) -> torch.Tensor:
        return loss_by_position(model, windows, ignored) + int("~" in str(whorl.encoding_of(model)))

    monkeypatch.setattr(extending, "loss_by_position", losses)
    model = tiny_model("llama").eval()
    best, tried = extend(model, 60, IDS, train_length=20)
    assert best is tried[0]
    assert whorl.attaching.attached(model) is None, "untouched"
    asked, _ = extend(model, 60, IDS, train_length=20, method="ntk")
    assert asked.method == "ntk"


def test_what_an_encoding_has_learned_is_measured_and_written() -> None:
    model = drawn(whorl.attach(tiny_model("llama").eval(), "rope+fox"))
    gates = {k: v.clone() for k, v in whorl.attached(model).named_parameters()}
    best, _ = extend(model, 60, IDS, train_length=20, method="yarn")
    assert "yarn" in str(whorl.encoding_of(model))
    assert all(torch.equal(x, gates[k]) for k, x in whorl.attached(model).named_parameters())
    again = loss_by_position(model, IDS)
    assert torch.allclose(again, best.by_position, atol=1e-6), "as it was measured"


def test_a_target_within_the_training_length_is_refused_before_the_text_is_read(
    trial: tuple[Path, str], tmp_path: Path
) -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match="was trained at 32 tokens already, and 16 were asked for"):
        whorl.extend(str(trial[0]), 16, text=trial[1], out=tmp_path / "out", say=said.append)
    assert said == ["trained at 32 tokens, its trial says"]


@pytest.mark.parametrize("learnt", [True, False])
def test_a_model_that_does_not_read_the_text_is_said_to(
    learnt: bool, trial: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods were ranked by differences of 2e-5 nats of a model that had learnt nothing."""
    monkeypatch.setattr(extending, "loss_by_position", lambda *_: torch.full((63,), 3.0 if learnt else 6.5))
    said: list[str] = []
    whorl.extend(str(trial[0]), 64, text=trial[1], windows=8, out=tmp_path / "out", say=said.append)
    (line, *others) = [one for one in said if "that the counts of its tokens alone give" in one] or [""]
    assert not others
    assert bool(line) != learnt
    assert learnt or line.startswith("in range the model has 6.500 nats per token on this text, more than the ")


def test_a_longer_length_in_the_config_is_kept_and_said(trial: tuple[Path, str], tmp_path: Path) -> None:
    """A model that says 128 tokens, extended as one of 32; and converted as one of 32."""
    from whorl.sources import source

    model, said = source(str(trial[0])).model(), []
    model.config.max_position_embeddings = 128
    model.save_pretrained(tmp_path / "model")
    source(str(trial[0])).tokenizer().save_pretrained(tmp_path / "model")
    how = {"train_length": 32, "text": trial[1], "windows": 2}
    read: dict[str, list[tuple[int, int]]] = {}

    def stage(name: str) -> Any:
        return lambda done, of: read.setdefault(name, []).append((done, of))

    whorl.extend(str(tmp_path / "model"), 64, out=tmp_path / "longer", stage=stage, say=said.append, **how)
    assert list(read) == ["the methods"]
    assert read["the methods"][-1] == (2 * 10, 2 * 10), "windows: untouched, five scalings and four windows"
    assert whorl.load(tmp_path / "longer").config.max_position_embeddings == 128
    assert "the methods read 2 windows of 64 tokens each; how long that takes is told after the first" in said
    (line,) = (one for one in said if "max_position_embeddings" in one)
    assert "128 tokens, more than 64: max_position_embeddings stays as it is, which a scaling from 32 to 64" in line


@pytest.mark.parametrize(("added", "worse"), [(1.0, True), (-1.0, False)])
def test_a_method_asked_for_by_name_that_is_no_better_is_kept_and_said(
    added: float, worse: bool, trial: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(model: torch.nn.Module, windows: torch.Tensor, *others: Any) -> torch.Tensor:
        return loss_by_position(model, windows, *others) + added * ("linear" in str(whorl.encoding_of(model)))

    monkeypatch.setattr(extending, "loss_by_position", losses)
    said: list[str] = []
    found = whorl.extend(
        str(trial[0]), 64, method="linear", text=trial[1], windows=2, out=tmp_path / "longer", say=said.append
    )
    assert found.method == "linear"
    assert (
        "linear reads the last quarter of 64 tokens no better than the model as it is, which --method auto would keep"
        in said
    ) == worse


@torch.no_grad()
def test_an_adapter_is_merged_before_it_is_changed(trial: tuple[Path, str], tmp_path: Path) -> None:
    """What is written is one model, which stock code reads; an adapter in one folder with its model is refused."""
    from peft import LoraConfig, get_peft_model

    base, text = load_trial(trial[0]), trial[1]
    tokenizer = load_tokenizer(str(trial[0] / "tokenizer"))
    for part in ("base", "adapter", "both"):
        tokenizer.save_pretrained(tmp_path / part)
    for part in ("base", "both"):
        base.save_pretrained(tmp_path / part)
    of_stock = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = get_peft_model(of_stock, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    for part in ("adapter", "both"):
        lora.save_pretrained(tmp_path / part)
    said: list[str] = []
    how = {"text": text, "windows": 2, "say": said.append}
    whorl.extend(str(tmp_path / "adapter"), 64, method="linear", out=tmp_path / "longer", **how)
    assert "the adapter is merged into its base: what is written is one model" in said
    merged = whorl.load(tmp_path / "adapter").merge_and_unload().eval()
    whorl.attach(merged, "rope:base=10000~linear:factor=2")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "longer").eval()
    torch.testing.assert_close(again(IDS).logits, merged(IDS).logits)
    with torch.enable_grad():
        whorl.convert(str(tmp_path / "adapter"), "hope", heal=64, batch_size=1, out=tmp_path / "hope", **how)
    assert not list((tmp_path / "hope").glob("adapter*"))
    assert str(whorl.encoding_of(AutoModelForCausalLM.from_pretrained(tmp_path / "hope"))).startswith("hope")
    for command, to in ((whorl.extend, 64), (whorl.convert, "hope")):
        with pytest.raises(ValueError, match="has PEFT adapters that are no part of its weights"):
            command(str(tmp_path / "both"), to, out=tmp_path / "none", **how, **({"heal": 64} if to == "hope" else {}))
    assert not (tmp_path / "none").exists()


def test_auto_never_keeps_what_reads_fewer_tokens_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every window's losses are a nat below all others."""

    def losses(
        model: torch.nn.Module, windows: torch.Tensor, ignored: int | None = None, _: Any = None
    ) -> torch.Tensor:
        return loss_by_position(model, windows, ignored) - int("window" in str(whorl.encoding_of(model)))

    monkeypatch.setattr(extending, "loss_by_position", losses)
    model = tiny_model("llama").eval()
    best, tried = extend(model, 60, IDS, train_length=20)
    assert {t.method: t.whole_context for t in tried} == {
        "none": True, "linear": True, "ntk": True, "ntk-by-parts": True, "yarn": True, "llama3": True,
        "window of 2": False, "window of 5": False, "window of 10": False, "window of 20": False,
    }  # fmt: skip
    assert best.whole_context
    assert best.past > max(t.past for t in tried if not t.whole_context)
    asked, _ = extend(whorl.detach(model), 60, IDS, train_length=20, method="window")
    assert not asked.whole_context, "asked for by name, it is kept"


def test_auto_refuses_where_only_a_window_can_be_had(caplog: pytest.LogCaptureFixture) -> None:
    model = whorl.attach(tiny_model("llama"), "nope").eval()
    with pytest.raises(ValueError, match="that read the whole context can be had on .* with nope; --method window can"):
        extend(model, 60, IDS, train_length=20)
    assert str(whorl.encoding_of(model)) == "nope", "as it was"
    assert "nope does not turn" in caplog.text


def test_a_method_that_cannot_be_had_says_why() -> None:
    """And not what was met in putting the model back, stock as it was."""
    scaled = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = tiny_model("llama", rope_parameters={**scaled, "original_max_position_embeddings": 16})
    with pytest.raises(ValueError, match=r"yarn needs frequencies that fall as base\^"):
        extend(model, 60, IDS, train_length=20, method="yarn")
    assert whorl.attached(model) is None


@pytest.mark.parametrize("method", ["linear", "yarn", "llama3"])
def test_a_method_that_stock_has_a_name_for_is_written_by_it(method: str, tmp_path: Path) -> None:
    for family in ("llama", "qwen3", "gpt_neox"):
        model = tiny_model(family).eval()
        extend(model, 60, IDS, train_length=15, method=method)
        assert extending.save(model, tmp_path / family, None, 60) == "stock"
        said = json.loads((tmp_path / family / "config.json").read_text())["rope_parameters"]
        assert (said["rope_type"], said["factor"]) == (method, 4.0)
        assert said.get("original_max_position_embeddings") == (None if method == "linear" else 15)


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("llama", "yarn"),
        *(pytest.param(*case, marks=pytest.mark.full) for case in (("llama", "window"), ("gpt_neox", "ntk"))),
    ],
)
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


def test_a_needle_in_tokens_that_the_model_lacks_is_refused_before_anything_is_read(
    trial: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was an IndexError after all methods, and a tuning, with nothing written."""
    monkeypatch.setattr(extending, "loss_by_position", None)
    monkeypatch.setattr("whorl.data.needle.NAMES", ("\N{GREEK SMALL LETTER ALPHA}",))
    reader = load_tokenizer(str(trial[0] / "tokenizer"))
    reader.add_tokens(["\N{GREEK SMALL LETTER ALPHA}"])
    reader.save_pretrained(tmp_path / "larger")
    how = {"text": trial[1], "windows": 2, "needle": True, "out": tmp_path / "out"}
    with pytest.raises(ValueError, match=r"the needle and its question hold ids from \d+ to \d+, and the model has"):
        whorl.extend(str(trial[0]), 128, tokenizer=str(tmp_path / "larger"), train_length=64, **how)


def test_bad_input_says_what_to_try(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="was trained at 64 tokens already, and 64 were asked for"):
        extend(model, 64, IDS, train_length=64)
    with pytest.raises(ValueError, match="windows of 60 tokens show nothing past the training length, 64; give a text"):
        extend(model, 128, IDS, train_length=64)
    with pytest.raises(ValueError, match="nope does not turn the layers that see further than the training length"):
        extend(whorl.attach(tiny_model("llama"), "nope"), 60, IDS, train_length=20, method="yarn")
    text = tmp_path / "short.txt"
    text.write_text("a b c\n\nd e f\n")

    class Letters:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [ord(c) for c in text]}

    with pytest.raises(ValueError, match="fewer than the 100 asked for; give a longer text"):
        overlapping(str(text), Letters(), 100, 4)


@pytest.mark.full
def test_the_real_checkpoint_reads_four_times_as_far(shared: Path, tmp_path: Path) -> None:
    """babyllama-tok105, trained at 256: its loss from 768 on falls from above 4, and stock transformers agree."""
    name, text = str(shared / "fixtures" / "babyllama-tok105"), str(shared / "fixtures/text/tinystories_sample.txt")
    found = whorl.extend(name, 1020, text=text, train_length=256, out=tmp_path / "out", windows=6)
    best, untouched, by_name = found.best, found.tried[0], {t.method: t for t in found.tried}
    past = {t.method: t.past for t in found.tried}
    assert past["none"] > 4
    assert past["yarn"] < 1.0
    assert best.in_range <= untouched.in_range + 0.2
    assert best is by_name["yarn"]
    assert past["window of 128"] < 0.8 < past["yarn"], "a window is measured beside, and never kept by auto"
    assert found.loads.startswith("stock")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    from whorl.data.corpus import load_tokenizer

    tokenizer = load_tokenizer(name)
    ids = overlapping(text, tokenizer, 1020, 6)
    stock = summed("", parse(best.encoding), loss_by_position(again, ids, tokenizer.unk_token_id), 256, 1020)
    assert (stock.in_range, stock.past) == pytest.approx((best.in_range, best.past), abs=1e-4)
    assert (tmp_path / "out" / "loss.png").stat().st_size > 5000
    assert Extension.read(tmp_path / "out" / "extension.json") == found


def no_losses(*_: object) -> torch.Tensor:
    raise AssertionError("measured")


@pytest.mark.parametrize("method", ["auto", "yarn", "window"])
@pytest.mark.parametrize("attached", [None, "learned:max_positions=24"])
def test_a_learned_table_is_refused_before_anything_is_measured(
    method: str, attached: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extending, "loss_by_position", no_losses)
    model = tiny_model("gpt2", max_position_embeddings=24)
    if attached is not None:
        whorl.attach(model, attached)
    with pytest.raises(ValueError, match="has 24 learned positions and nothing that could be stretched to 60 tokens"):
        extend(model, 60, IDS, train_length=24, method=method)


@pytest.mark.parametrize("method", ["auto", "yarn"])
def test_what_does_not_turn_is_refused_before_anything_is_measured(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extending, "loss_by_position", no_losses)
    with pytest.raises(ValueError, match="can be had on|does not turn"):
        extend(whorl.attach(tiny_model("gpt2"), "alibi"), 60, IDS, train_length=20, method=method)


def test_ids_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="and the model has 97 tokens; encode the text with the model's own tokenizer"):
        extend(tiny_model("llama"), 60, IDS + 97, train_length=20)


def test_a_directory_that_was_extended_says_what_it_was_trained_at(
    trial: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from whorl.cli import app
    from whorl.conversion.folders import length_unscaled, told_length, trained_length
    from whorl.sources import source

    longer = tmp_path / "longer"
    whorl.extend(str(trial[0]), 64, method="linear", windows=2, out=longer)
    found, model = source(str(longer)), whorl.load(longer)
    assert trained_length(found, model, None, scaled=False) == 32, "what convert heals at"
    assert trained_length(found, model, None) == 64, "its scaling is there already, and another goes on top of it"
    assert told_length(found, 64) == "extended to 64 tokens already, its config says; trained at 32"
    lowered: list[str] = []
    assert length_unscaled(found, model, 32, lowered.append) == 32
    assert "goes from 64 to 32, the length that the model was trained at" in lowered[0]
    assert length_unscaled(found, model, 80, lowered.append) == 80
    assert len(lowered) == 1
    options = ["--windows=1", "--random-windows=1", f"--text={trial[1]}", f"--out={tmp_path / 'seen'}"]
    app(["inspect", str(longer), *options], standalone_mode=False)
    assert "trained at 32 tokens, extension.json says (--train-length)" in capsys.readouterr().out
    written = json.loads((longer / "extension.json").read_text())
    (longer / "extension.json").write_text(json.dumps(written | {"method": "linear, tuned"}))
    assert source(str(longer)).tells_length == "its config", "it was trained at 64 then"
    (longer / "extension.json").write_text("{")
    assert source(str(longer)).tells_length == "its config"
