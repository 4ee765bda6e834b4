"""What holds of every runtime: the place that is written, options, the command."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from whorl import runtimes
from whorl.extras import EXTRAS
from whorl.outputs import MARKER
from whorl.runtimes import RUNTIMES, get
from whorl.runtimes.exporting import export
from whorl.runtimes.gguf import GGUF, GGUF_FILE
from whorl.runtimes.gguf_reading import read_gguf
from whorl.testing import tiny_image_model, tiny_model

from .exports import llama, names, trained

IDS = torch.randint(3, 97, (1, 20), generator=torch.Generator().manual_seed(0))


def test_an_existing_place_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = llama(), tmp_path / "out"
    export(model, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(ValueError, match="is there already; give another folder, or --force"):
        export(model, out, runtime="gguf")
    with pytest.raises(ValueError, match="cannot say alibi"):
        export(llama("alibi"), out, force=True)
    spoiled = llama("hope:train_length=40")
    spoiled.save_pretrained = whorl.detach(copy.deepcopy(spoiled)).save_pretrained
    with pytest.raises(ValueError, match="is another model"):
        export(spoiled, out, force=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before, "an export that fails leaves the old one"
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == out.resolve() and not self.name.endswith(".old"):
            raise OSError("no")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(ValueError, match="no. What was made is whole"):
            export(model, out, force=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    shutil.rmtree(next(tmp_path.glob(".out.*")))
    export(model, out, runtime="gguf", force=True)
    assert names(tmp_path) == ["out", f"out/{MARKER}", f"out/{GGUF_FILE}"]
    (tmp_path / "empty").mkdir()
    export(model, tmp_path / "empty", runtime="gguf")
    assert names(tmp_path / "empty") == [MARKER, GGUF_FILE]


def test_force_replaces_nothing_but_exports(tmp_path: Path) -> None:
    model = llama()
    (tmp_path / "file").write_text("x")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    model.save_pretrained(tmp_path / "training")
    (tmp_path / "training" / "checkpoint-100").mkdir()
    model.save_pretrained(tmp_path / "source")
    read = whorl.load(tmp_path / "source")
    before = names(tmp_path)
    for name, what, why in (
        ("file", model, "is a file"),
        ("thesis", model, "not known to be whorl's"),
        ("training", model, "not known to be whorl's"),
        ("source", read, "source is read from, which lies there"),
        ("source", whorl.attach(read, "hope:train_length=40"), "source is read from, which lies there"),
    ):
        with pytest.raises(ValueError, match=why):
            export(what, tmp_path / name, force=True)
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"runtime": "onnx"}, r"unknown runtime 'onnx'; docs/export.md .* \(known: hf, gguf"),
        ({"runtime": "GUFF"}, "unknown runtime 'GUFF'; did you mean 'gguf'"),
        ({"runtime": 8}, "unknown runtime 8"),
        ({"engine": "vlm"}, "unknown engine 'vlm'; did you mean 'vllm'"),
        ({"engine": "vllm", "runtime": "gguf"}, "vLLM reads what the runtime hf writes, not gguf"),
        ({"engine": "llama.cpp", "runtime": "hf"}, r"llama\.cpp reads what the runtime gguf writes, not hf"),
        ({"dtype": "f16"}, "dtype='f16' is of the matrices of GGUF files; an hf directory keeps the model's own"),
        ({"bits": 4}, "the runtime hf has no option bits=4; it takes none"),
        ({"runtime": "gguf", "bits": 4}, "the runtime gguf has no option bits=4; it takes dtype"),
        ({"runtime": "gguf", "dtype": "q4_0"}, "dtype must be one of f32, f16, bf16, got 'q4_0'"),
        ({"runtime": GGUF("f16"), "dtype": "f32"}, r"GGUF\(dtype='f16'\) has its options already, and dtype came too"),
    ],
)
def test_runtimes_and_options_that_are_not_known_are_refused(how: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        export(llama(), tmp_path / "out", **how)
    assert names(tmp_path) == []


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="merge_and_unload"):
        export(adapted, tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("encoding", [None, "axial-rope"])
def test_an_image_model_is_refused_before_anything_is_written(
    encoding: str | None, runtime: str, tmp_path: Path
) -> None:
    model = tiny_image_model("vit")
    if encoding is not None:
        whorl.attach(model, encoding)
    with pytest.raises(ValueError, match=r"ViTModel reads images, .* keep it with whorl\.save\(model, directory\)"):
        export(model, tmp_path / "out", runtime=runtime)
    assert not list(tmp_path.iterdir())


def test_names_are_those_of_the_registry() -> None:
    for name in RUNTIMES:
        assert get(name).name == name
        assert get(name).extra in (None, *EXTRAS)
    files = {path.stem for path in Path(runtimes.__file__).parent.glob("*.py")}
    assert {target.split(":")[0].rpartition(".")[2] for target in RUNTIMES.values()} <= files


def test_what_export_returns_says_it_in_a_line(tmp_path: Path) -> None:
    done = whorl.export(llama("hope:train_length=40"), tmp_path / "out", runtime=GGUF("bf16"))
    assert done.path == tmp_path / "out"
    assert (done.runtime, done.tokenizer) == (GGUF("bf16"), "none given")
    assert done.checked.holds
    assert repr(done) == f"{done.path}: for llama.cpp, hope:train_length=40,base=10000; {done.checked}"
    assert "\n" not in repr(done)
    assert not replace(done.checked, off=math.nan).holds


def run(*arguments: str) -> Any:
    """`whorl export` by itself, registered or not."""
    import typer
    from typer.testing import CliRunner

    from whorl.cli import export as command

    app = typer.Typer()
    app.command(epilog=command.EPILOG)(command.export)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_exports_a_directory_for_both_runtimes(tmp_path: Path) -> None:
    tokenizer = trained("gpt-2")
    model = llama("hope:train_length=40", vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    bare = run(str(tmp_path / "model"), "--out", str(tmp_path / "bare"))
    assert bare.exit_code == 0, bare.output
    told = " ".join(bare.output.split())
    assert "goes without a tokenizer" in told
    assert "; give one (--tokenizer), or save it there with tokenizer.save_pretrained" in told
    tokenizer.save_pretrained(tmp_path / "words")
    lent = run(str(tmp_path / "model"), "--out", str(tmp_path / "lent"), "--tokenizer", str(tmp_path / "words"))
    assert "without a tokenizer" not in lent.output
    assert (tmp_path / "lent" / "tokenizer.json").exists()
    wrong = run(str(tmp_path / "model"), "--out", str(tmp_path / "none"), "--tokenizer", str(tmp_path / "bare"))
    assert "no tokenizer at" in str(wrong.exception)
    assert not (tmp_path / "none").exists()
    tokenizer.save_pretrained(tmp_path / "model")
    for arguments in ([], ["--runtime", "gguf", "--dtype", "bf16"]):
        done = run(str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--force", *arguments)
        assert done.exit_code == 0, done.output
        assert "positional encoding hope:train_length=40" in done.output
        assert "without a tokenizer" not in done.output
    assert names(tmp_path / "out") == [MARKER, GGUF_FILE]
    again = run(str(tmp_path / "model"), "--out", str(tmp_path / "out"))
    assert isinstance(again.exception, ValueError)
    assert "is there already" in str(again.exception)


def test_an_adapter_in_a_folder_is_merged_into_its_base(tmp_path: Path) -> None:
    """As `extend` and `convert` do; the engine was said to carry it, and then the adapter was refused."""
    from peft import LoraConfig, get_peft_model

    llama().save_pretrained(tmp_path / "base")
    lora = get_peft_model(
        whorl.load(tmp_path / "base"), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    ).eval()
    lora.save_pretrained(tmp_path / "adapter")
    for runtime, engine in ((), ()), (("--runtime", "gguf"), ("--for", "llama.cpp")):
        done = run(str(tmp_path / "adapter"), "--out", str(tmp_path / "out"), "--force", *runtime, *engine)
        assert done.exit_code == 0, done.exception
        assert "the adapter is merged into its base: what is written is one model" in done.output
        again = whorl.load(tmp_path / "out").eval()
        with torch.no_grad():
            torch.testing.assert_close(again(IDS).logits, lora(IDS).logits)
    assert not list((tmp_path / "out").glob("adapter*"))


@pytest.mark.parametrize("names_of_it", [("--runtime", "--format"), ("--format", "--runtime"), ("--runtime",) * 2])
def test_two_runtimes_at_once_are_refused(names_of_it: tuple[str, str], tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "model")
    first, second = names_of_it
    both = run(str(tmp_path / "model"), "--out", str(tmp_path / "out"), first, "gguf", second, "hf")
    assert isinstance(both.exception, ValueError)
    assert str(both.exception) == "one runtime at a time, got gguf and hf; export once for each"
    assert not (tmp_path / "out").exists()
    same = run(str(tmp_path / "model"), "--out", str(tmp_path / "out"), first, "hf", second, "hf")
    assert same.exit_code == 0, same.output


def test_what_cannot_be_said_is_refused_before_the_weights_are_read(tmp_path: Path) -> None:
    """Their file is gone; one that the runtime could have is missed, and the refusal is not."""
    for family, encoding, runtime, why in (
        ("qwen3", "hope:train_length=40", "gguf", "turns 2 of 8 pairs"),
        ("llama", "alibi", "gguf", "adds a bias to attention logits"),
        ("llama", "alibi", "hf", "cannot say alibi"),
        ("llama", "hope:train_length=40", "gguf", "cannot load"),
    ):
        folder = tmp_path / f"{family}-{encoding[:4]}-{runtime}"
        whorl.attach(tiny_model(family), encoding).save_pretrained(folder)
        (folder / "model.safetensors").unlink()
        done = run(str(folder), "--out", str(tmp_path / "out"), "--runtime", runtime)
        assert done.exit_code != 0
        assert why in " ".join(str(done.exception or done.output).split()), done.output
    assert not (tmp_path / "out").exists()


def test_the_help_says_every_runtime_and_its_title() -> None:
    said = " ".join(run("--help").output.replace("│", " ").split())
    assert all(f"{name}: {get(name).title}" in said for name in RUNTIMES), said


@pytest.mark.full
def test_a_trial_of_a_comparison_is_exported(tmp_path: Path, shared: Path) -> None:
    from whorl.comparison import compare

    text = str(shared / "fixtures" / "text" / "tinyshakespeare.txt")
    settings: dict[str, Any] = {"text": text, "model": "tiny", "tokens": 2048, "train_length": 32, "lengths": (32,)}
    settings |= {"tail": 8, "windows": 2, "quiet": True}
    compare(["hope"], out=str(tmp_path / "run"), **settings)
    (trial,) = (tmp_path / "run" / "trials").iterdir()
    for runtime in ("hf", "gguf"):  # by the option's other name
        done = run(str(trial), "--out", str(tmp_path / runtime), "--format", runtime)
        assert done.exit_code == 0, done.output
        assert "hope:train_length=32" in done.output
    assert (tmp_path / "hf" / "tokenizer.json").exists()
    said = read_gguf(tmp_path / "gguf" / GGUF_FILE).config
    assert said["tokenizer"] == "gpt2"
    assert said["encoding"] == "hope:train_length=32,base=10000"
