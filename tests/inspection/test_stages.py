"""inspect() and the command line: from a model or a trial to a report, and what bad input is told."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import whorl
from tests import texts
from whorl.data.corpus import _read_path, read_documents
from whorl.data.windows import text_windows
from whorl.inspection import ablation, analysis, planning, stages
from whorl.inspection.reporting import run
from whorl.sources import source
from whorl.testing import peaked, tiny_model

IDS = torch.randint(3, 97, (3, 64), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained trial with snapshots, and its text."""
    folder = tmp_path_factory.mktemp("trial")
    text = texts.lay(folder / "text")
    how = {"train_length": 32, "lengths": ("1x",), "tokens": 12 * 4 * 32, "batch_size": 4, "tail": 8, "windows": 4}
    whorl.compare(["rope"], out=folder / "run", text=str(text), snapshots=2, quiet=True, precision="fp32", **how)
    return next((folder / "run" / "trials").iterdir())


def test_what_an_inspection_holds() -> None:
    model = peaked(tiny_model("llama")).eval()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    logits = model(IDS).logits
    told: list[set[str]] = []
    found = whorl.inspect(
        model, IDS, train_length=16, random_windows=2, ablate=True, finished=lambda now: told.append(set(now.arrays))
    )
    assert torch.equal(model(IDS).logits, logits)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert len(told) == 4, "after every stage"
    assert all(a <= b for a, b in itertools.pairwise(told))
    layers, heads, key_heads, pairs = 3, 4, 2, found.wavelength.shape[1]
    sizes = {"layer": layers, "head": heads, "key_head": key_heads, "pair": pairs, "multiple": 3, "key": 64}
    sizes |= {axis: len(found.arrays[f"{axis}_from"]) for axis in ("distance", "coarse", "position")}
    assert found.AXES.keys() - found.arrays.keys() == {"added", "added_share"}, "nothing is added to q.k"
    for name, array in found.arrays.items():
        assert array.shape == tuple(sizes[axis] for axis in found.axes(name)), name
    json.dumps(found.summary.to_json(), allow_nan=False)
    assert found.summary.model.encoding == "rope:base=10000"
    assert found.summary.out_of_range.multiples == (1, 2, 4)
    assert [stage.read == stage.windows > 0 for stage in found.summary.plan.stages] == [True] * 4
    assert found.summary.spectrum.layers[0].pairs == pairs
    assert np.isfinite(found.attention[..., :-1]).all()
    mass = found.attention * (64 - found.distance_from)
    np.testing.assert_allclose(mass.sum(-1), 64, rtol=1e-4)  # (bins of one distance each: 64 tokens)
    with pytest.raises(AttributeError, match="an Inspection has no 'norms'"):
        _ = found.norms


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    found = whorl.inspect(tiny_model("llama"), IDS, train_length=64, random_windows=0)
    found.save(tmp_path)
    again = whorl.Inspection.load(tmp_path)
    assert again.summary == found.summary
    np.testing.assert_array_equal(again.norm_q, found.norm_q)
    with pytest.raises(AttributeError, match="departure was not measured.*nothing past the training length, 64"):
        _ = again.departure


@pytest.mark.full
@pytest.mark.parametrize("encoding", ["nope", "alibi", "kerple", "sinusoidal"])
def test_without_pairs_the_rest_is_there_and_says_so(encoding: str, tmp_path: Path) -> None:
    model = whorl.attach(peaked(tiny_model("llama")), encoding)
    found = whorl.inspect(model, IDS, train_length=16, random_windows=2, ablate=True)
    assert "no layer of this model turns pairs" in found.summary.absent["pairs"]
    assert found.summary.absent["ablation"] == found.summary.absent["pairs"]
    assert found.attention.shape[:2] == (3, 4)
    assert found.departure.shape == (3, 3)
    assert "norm_q" not in found.arrays
    assert found.summary.u_shape.text.pairs == ()
    from whorl.reports import inspection as report

    report.write([found], tmp_path)
    assert "turns pairs of channels" in (tmp_path / "report.md").read_text()


def test_distances_that_a_window_hides_leave_no_range(tmp_path: Path) -> None:
    mixed = whorl.attach(peaked(tiny_model("llama"), 3.0), "rope+window:size=8/rope/rope+window:size=24")
    found = whorl.inspect(mixed, IDS, train_length=16, random_windows=0)
    seen = np.isfinite(found.departure).tolist()  # [layers, multiples 1, 2, 4], from (8, 16], (16, 32] and (32, 64]
    assert seen == [[False, False, False], [True, True, True], [True, True, False]]
    assert found.summary.out_of_range.pairs[0].layer in (1, 2)
    found.save(tmp_path)
    assert (
        json.loads((tmp_path / "inspection.json").read_text())["out_of_range"]["layers"][0]["departure"] == [None] * 3
    )
    from whorl.reports import inspection as report

    report.write([found], tmp_path)
    within = whorl.attach(peaked(tiny_model("llama"), 3.0), "rope+window:size=16")
    found = whorl.inspect(within, IDS, train_length=16, random_windows=0)
    assert found.summary.absent["out_of_range"].startswith("every layer's window lies within the training length, 16")


def test_stilling_pairs_is_attaching_fewer() -> None:
    """Pairs turned back at inference give what an attached encoding without their frequencies gives."""
    model = peaked(tiny_model("llama"), 3.0).eval()
    cut = 3
    (layer, *_) = stages.layers_of(model)
    stilled = ablation.losses(model, IDS, cut)
    kept = "@".join(str(f if i < cut else 0.0) for i, f in enumerate(layer.frequencies))
    whorl.attach(model, f"frequencies:values={kept}")
    torch.testing.assert_close(stilled, ablation.losses(model, IDS, None), atol=1e-5, rtol=1e-5)
    whorl.detach(model)
    assert not torch.allclose(stilled, ablation.losses(model, IDS, None), atol=1e-3)
    assert analysis.hope_cut(layer, 10**9) == layer.pairs


def test_a_trial_from_the_command_line(trial: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = [sys.executable, "-m", "whorl", "inspect", str(trial), "--windows", "2", "--out", str(out), "--ablate"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "training, by snapshot" in done.stdout
    summary = json.loads((out / "inspection.json").read_text())
    assert [row["step"] for row in summary["training"]] == [8, 12]
    assert summary["settings"]["length"] == 128, "four times the training length"
    assert summary["settings"]["text"].endswith("(held out)")
    for name in ("report.html", "report.md", "inspection.npz", "figures/logits.png"):
        assert (out / name).stat().st_size > 500
    assert summary["ablation"]["cuts"]


def test_what_a_command_took_before_it_reads_counts(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "measured", lambda *_, **__: planning.Cost(300 / 32, 0))  # a window in five minutes
    read = []
    for before in (0, 4400):
        run(
            [str(trial)], length=32, windows=4, random_windows=4, snapshots=False, minutes=100, out=tmp_path,
            force=True, begun=time.perf_counter() - before,
            planned=lambda plan, _: read.append([stage.windows for stage in plan.stages]),
        )  # fmt: skip
    assert read == [[4, 4], [2, 2]], "eight windows fit into 100 minutes, and four into the last 27"


@pytest.mark.full
def test_two_models_side_by_side(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("whorl.data.corpus._read_path", lambda text: read.append(text) or _read_path(text))
    run([str(trial), str(trial)], windows=2, random_windows=2, snapshots=False, out=tmp_path)
    summary = json.loads((tmp_path / "inspection.json").read_text())
    assert summary["divergence"]["models"] == pytest.approx([0.0] * 4, abs=1e-6)
    assert (tmp_path / "other" / "inspection.npz").exists()
    assert len(read) == 1, "the text of both, and its digest"


def test_a_second_model_without_a_tokenizer_takes_the_firsts(trial: Path, tmp_path: Path, caplog) -> None:
    from whorl.inspection.reporting import _tokenizers
    from whorl.sources import source

    tiny_model("llama").save_pretrained(tmp_path / "bare")
    mine, theirs = source(str(trial)), source(str(tmp_path / "bare"))
    first, second = _tokenizers([mine, theirs])
    assert second is first
    assert "bare is read with the tokenizer of" in caplog.text
    with pytest.raises(ValueError, match="no tokenizer at"):
        _tokenizers([theirs, mine])


def test_a_config_that_cannot_be_read_is_not_taken_for_a_missing_tokenizer(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "broken")
    config = tmp_path / "broken" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rope_parameters": [1]}))
    with pytest.raises(ValueError, match=r"cannot load .*broken"):
        run([str(tmp_path / "broken")], out=tmp_path / "out")


def test_an_interrupted_run_leaves_what_it_had(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages._Stages, "past_range", stop)
    with pytest.raises(KeyboardInterrupt):
        run([str(trial)], windows=2, random_windows=2, out=tmp_path)
    left = whorl.Inspection.load(tmp_path)
    assert left.norm_q.shape[0] == 4
    assert left.summary.u_shape.random is not None


def test_bad_input_says_what_to_try(trial: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Ten words are not enough to see any distance in.\n\n" * 2)
    asked = {
        "fewer than one window of 128; give a longer text": {"models": [str(trial)], "text": str(short)},
        "there is nothing at /nowhere/at/all": {"models": ["/nowhere/at/all"]},
        "is a comparison of 1 finished trials: name one, as": {"models": [str(trial.parents[1])]},
        "holds no config.json and no result.json": {"models": [str(tmp_path)]},
        "the text 'nothing.txt'|no text|nothing.txt": {"models": [str(trial)], "text": "nothing.txt"},
        "windows of 8 tokens are too short": {"models": [str(trial)], "length": 8},
    }
    for message, arguments in asked.items():
        with pytest.raises(ValueError, match=message):
            run(out=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="inputs must be token ids"):
        whorl.inspect(tiny_model("llama"), torch.randn(2, 64))
    done = subprocess.run([sys.executable, "-m", "whorl", "inspect", "a", "b", "c"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "whorl: inspect shows one model, or two side by side, got 3" in done.stderr


def test_windows_lie_within_documents_where_they_fit(tmp_path: Path) -> None:
    class Letters:
        bos_token_id = 0

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            assert not add_special_tokens
            return {"input_ids": [ord(c) for c in text]}

    for name, length in (("a", 30), ("b", 5), ("c", 41)):
        (tmp_path / f"{name}.txt").write_text(name * length)
    windows = text_windows("text", read_documents(str(tmp_path)), Letters(), 20, 3)
    assert len(windows) == 3
    assert all(len(set(row.tolist()) - {0}) == 1 for row in windows), "one document each"
    joined = text_windows("text", read_documents(str(tmp_path)), Letters(), 60, 1)
    assert len(set(joined[0].tolist()) - {0}) > 1


@pytest.mark.full
def test_layers_are_streamed_from_disk_in_bounded_memory(tmp_path: Path) -> None:
    """384 MiB of weights; the process may grow by a quarter of that."""
    script = """
import sys, torch
from pathlib import Path
from whorl.sources import Source
import whorl
from tests import texts
def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024
whorl.inspect(Source(sys.argv[2], None, None).model(True), torch.randint(0, 90, (1, 32)), random_windows=0)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
model = Source(sys.argv[1], None, None).model(True)
found = whorl.inspect(model, torch.randint(0, 90, (1, 32)), random_windows=0)
print(resident("VmHWM") - before, found.norm_q.shape[0])
"""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks of memory are read from Linux's /proc")
    from transformers import LlamaConfig, LlamaForCausalLM

    for layers, folder in ((24, "large"), (1, "small")):
        config = LlamaConfig(
            vocab_size=96, hidden_size=512, intermediate_size=2048, num_hidden_layers=layers, num_attention_heads=8,
            max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(tmp_path / folder)
    command = [sys.executable, "-c", script, str(tmp_path / "large"), str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    grown, layers_read = done.stdout.split()
    assert int(layers_read) == 24
    assert float(grown) < 96, f"{grown} MiB"


@pytest.mark.full
def test_the_real_checkpoint(shared: Path) -> None:
    """babyllama-tok105: its slowest pairs, which never turn far in 256 tokens, are not used as positions."""
    found = source(str(shared / "fixtures" / "babyllama-tok105"))
    text = str(shared / "fixtures" / "text" / "tinystories_sample.txt")
    ids = text_windows(text, read_documents(text), found.tokenizer(), 1024, 3)
    summary = whorl.inspect(found.model(), ids, train_length=256, ablate=True, random_windows=16).summary
    changes = {row.cut: row.in_range_change for row in summary.ablation.cuts}
    assert abs(changes[6]) < 0.02, "pairs 6 and 7 stilled: nothing happens"
    assert changes[4] > 1, "pair 4 (wavelength 628) stilled: it breaks, without training"
    first = summary.out_of_range.first_pair
    assert first.wavelength > 256, "what leaves its range is a pair that never turned fully in it"
    assert first.multiple == 2


def test_windows_are_cut_whole() -> None:
    cut = stages._cut(torch.arange(14).view(2, 7), 3)
    assert cut.tolist() == [[0, 1, 2], [3, 4, 5], [7, 8, 9], [10, 11, 12]], "the seventh of each is left out"


def test_a_trial_is_read_on_documents_that_it_was_not_trained_on(tmp_path: Path) -> None:
    from whorl.data.corpus import split_documents

    class Letters:
        bos_token_id = None

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [ord(c) for c in text]}

    for letter in "abcdefghijklmnopqrst":
        (tmp_path / f"{letter}.txt").write_text(letter * 40)
    held = {document[0] for document in split_documents(read_documents(str(tmp_path)))[1]}
    windows = text_windows("text", read_documents(str(tmp_path)), Letters(), 20, 50, heldout=True)
    assert {chr(i) for i in windows.flatten().tolist()} == held


def test_a_model_is_opened_once_and_not_for_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from whorl.hosts.transformers import opening
    from whorl.inspection import passes

    opened: list[str] = []
    real = opening._open

    def counting(model: object, *more: object, **how: object) -> object:
        opened.append(type(model).__name__)
        return real(model, *more, **how)

    monkeypatch.setattr(opening, "_open", counting)
    monkeypatch.setattr(passes, "BATCH_TOKENS", 64)  # a window a forward
    model = tiny_model("llama")
    whorl.inspect(model, IDS, train_length=32, random_windows=2, ablate=True)
    assert len(opened) <= 2, "once to inspect, once to say what encoding it has"
    opened.clear()
    passes.Pass(model, IDS, None, norms=True).run()
    assert len(opened) == 1


def test_hopes_cut_goes_by_the_training_length_where_windows_are_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int | None, int]] = []
    monkeypatch.setattr(analysis, "u_shape", lambda found, length: asked.append((found.regions_over, length)))
    whorl.inspect(tiny_model("llama"), IDS, train_length=512, random_windows=2)
    assert asked == [(64, 512), (64, 512)]
