"""Every command that takes a model takes a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from whorl.__main__ import main
from whorl.runtimes.exporting import export
from whorl.sources import source

from ..runtimes.exports import llama, trained

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")

SHORT = ("--train-length", "32")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HoPE, which the file says by factors, and a tokenizer."""
    tokenizer = trained("smollm", 400)
    model = llama("hope:train_length=24", vocab_size=len(tokenizer), max_position_embeddings=32)
    return (
        export(model, tmp_path_factory.mktemp("gguf") / "out", runtime="gguf", tokenizer=tokenizer).path / "model.gguf"
    )


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr("sys.argv", ["whorl", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)


def test_export_writes_a_directory_that_stock_loads(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "export", file, "--out", tmp_path / "out")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("for 12 in range", return_tensors="pt")["input_ids"]
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert whorl.testing.max_error(stock(ids).logits, whorl.load(file)(ids).logits) < 1e-5


def test_doctor_examines_it(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "doctor", file, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == str(file)
    statuses = {f["check"]: f["status"] for f in found["findings"]}
    assert statuses["runs"] == "pass"
    assert "fail" not in statuses.values()


def test_inspect_reads_it(file: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "inspect", file, "--text", text, "--length", 48, "--windows", 1, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert found["model"]["encoding"] == "hope:train_length=24,base=10000"


def test_evaluate_asks_it(file: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = ("--text", text, "--lengths", "1.5x", "--windows", 1, "--sequences", 1, "--tail", 8, "--probes", "loss")
    run(monkeypatch, "evaluate", file, *how, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["encoding"] == "hope:train_length=24,base=10000"
    assert found["asked"]["lengths"] == [48]


def test_extend_writes_it_longer(file: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(
        monkeypatch, "extend", file, "--to", 48, "--method", "ntk", "--text", text, "--windows", 2, *SHORT,
        "--out", tmp_path / "out",
    )  # fmt: skip
    model = whorl.load(tmp_path / "out")
    assert str(whorl.encoding_of(model)).startswith("hope:train_length=24,base=10000~ntk:factor=1.5")
    assert model.config.max_position_embeddings == 48


def test_convert_swaps_its_encoding(file: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(
        monkeypatch, "convert", file, "--to", "p-rope:p=0.5", "--heal", 256, "--text", text, "--batch-size", 2, *SHORT,
        "--reach", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    assert str(whorl.encoding_of(whorl.load(tmp_path / "out"))) == "p-rope:p=0.5,base=10000"


def test_compare_trains_on_from_it(file: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(
        monkeypatch, "compare", "rope", "--model", file, "--tokenizer", file, "--text", text, *SHORT, "--tokens", 256,
        "--batch-size", 2, "--lengths", "1x", "--tail", 8, "--windows", 2, "--seeds", 0, "--out", tmp_path / "out",
    )  # fmt: skip
    (trial,) = (tmp_path / "out" / "trials").iterdir()
    loaded = source(str(trial)).model()
    assert loaded.config.head_dim == whorl.load(file).config.head_dim
    begun, ended = whorl.load(file).state_dict(), loaded.state_dict()
    moved = max(float((begun[k] - ended[k]).abs().max()) for k in begun if "whorl" not in k)
    assert 0 < moved < 0.1, "trained on, and not begun anew"


def test_layers_of_a_file_are_not_streamed(file: Path) -> None:
    with pytest.raises(ValueError, match=r"the layers of .*model\.gguf cannot be streamed"):
        source(str(file)).model(stream_layers=True)


def test_a_folder_with_several_files_asks_which(file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    for opened in (source, whorl.load, whorl.doctor):
        with pytest.raises(ValueError, match=r"holds 2 GGUF files: name one"):
            opened(str(tmp_path))
    assert torch.equal(whorl.load(tmp_path / "a.gguf").lm_head.weight, whorl.load(file).lm_head.weight)
