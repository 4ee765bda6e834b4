"""The command line as a person meets it: help, list, and one-line errors with exit status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

from whorl.cli import app
from whorl.encodings import REGISTRY, SCALINGS
from whorl.hosts import FAMILIES, IMAGES, MULTIMODAL, PACKED
from whorl.hosts.timm.families import FAMILIES as TIMM


def whorl_command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "whorl", *arguments], capture_output=True, text=True, cwd=cwd)


def test_help_shows_real_commands() -> None:
    top = whorl_command("--help").stdout
    assert "compare" in top
    assert "list" in top
    assert "whorl compare rope hope --task copy --out runs/copy" in whorl_command("compare", "--help").stdout
    assert "rope+window:size=64/nope" in whorl_command("list", "--help").stdout


def test_list_names_every_encoding_scaling_and_family() -> None:
    encodings, scalings = whorl_command("list").stdout.split("scalings of rotary encodings")
    scalings, models = scalings.split("models: ")
    for name in REGISTRY:
        assert f" {name} " in encodings
    for name in SCALINGS:
        assert f" {name} " in scalings
    models, images = models.split("of images: ")
    models, multimodal = models.split("of texts and images: ")
    multimodal, towers = multimodal.split("towers: ")
    assert multimodal.strip() == ", ".join(name for name in MULTIMODAL if not name.endswith("_text")) + " (M-RoPE)"
    images, timm = images.split("of timm: ")
    assert towers.strip() == ", ".join(name.removesuffix("_vision") for name in PACKED)
    assert timm.startswith(", ".join(TIMM))
    assert {name.strip() for name in models.split(",")} >= set(FAMILIES)
    assert {name.strip() for name in images.split(",")} >= set(IMAGES)


def test_help_says_which_models_in_words_that_the_list_has() -> None:
    said = " ".join(whorl_command("--help").stdout.split()).partition("Models: ")[2].partition(" and more")[0]
    for name in said.split(", "):
        assert any(family.startswith(name.lower().replace("-", "_")) or family == name.lower().replace("-", "")
                   for family in FAMILIES), name  # fmt: skip
    assert "Llama" in said


REFUSED = [
    (["hoppe"], "unknown encoding 'hoppe'; did you mean 'hope'?"),
    (["p-rope:p=1.5"], "must be in [0, 1], got 1.5"),
    (["--text", "no/such/file.txt"], "no/such/file.txt"),
    (["--text", "empty.txt"], "empty.txt"),
    (["--text", "short.txt"], "a text needs at least 2 different documents"),
    (["--model", "tinny"], "'tinny' is neither tiny, small, base nor a path"),
    (["--model", "mamba"], "no known seam in model type 'mamba'"),
    (["--model", "odd"], "even head dim of at least 2, got 15"),
    (["--task", "langage"], "did you mean 'language'?"),
    (["--lengths", "1x,long"], "cannot read the length 'long'"),
    (["--seeds", "zero"], "--seeds takes whole numbers with commas between, got 'zero'"),
    (["--out", "short.txt"], "short.txt is a file"),
    (["rope", "rope"], "rope is asked for twice"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, MambaConfig

    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("too short")
    MambaConfig(hidden_size=8, num_hidden_layers=1).save_pretrained(folder / "mamba")
    GPT2Config(n_embd=30, n_head=2, n_layer=1).save_pretrained(folder / "odd")
    return folder


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_input_is_one_line_and_exit_status_2(
    arguments: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In this process: the same `main` that the command runs, without a second of imports per case."""
    from whorl.cli import main

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["whorl", "compare", "--tokens", "4096", *arguments])
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(SystemExit) as exit_status:
        main()
    assert exit_status.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert error.startswith("whorl: ")
    assert sorted(p.name for p in folder.iterdir()) == before, "nothing is written"


def test_the_exit_status_reaches_the_shell(tmp_path: Path) -> None:
    done = whorl_command("compare", "hoppe", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("whorl: unknown encoding 'hoppe'")


def test_the_readmes_table_and_the_list_are_current() -> None:
    from whorl.cli.listing import KEPT, listing, with_table

    assert KEPT.read_text(encoding="utf-8") == listing(), "run .venv/bin/python -m whorl.cli.listing"

    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme, "run .venv/bin/python -m whorl.cli.listing"
    assert with_table(readme.replace("\n| `hope` | ", "\n| `hop` | ")) == readme


def test_the_readmes_notation_is_read() -> None:
    import re

    from whorl.encodings import parse

    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| `((?:RoPE|Layers)[^`]+)` \|", readme, flags=re.MULTILINE)
    assert len(rows) == 3
    import whorl

    names = {name: getattr(whorl, name) for name in ("RoPE", "NoPE", "Window", "Layers")}
    for notation, python in rows:
        assert parse(notation) == eval(python, names)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("hpoe", "no encoding, scaling, task or model family 'hpoe'; did you mean 'hope'?"),
        ("hope+rope", "hope and rope both rotate q and k; keep one of them"),
        ("rope~yarn:factor=4,foo=3+fox", "yarn has no argument 'foo'"),
        ("yarn:factor=4", None),
        ("addition:scratchpad=full", None),
        ("full_attention=nope/sliding_attention=rope", None),
    ],
)
def test_the_list_takes_what_can_be_written_alone(asked: str, said: str | None) -> None:
    done = CliRunner().invoke(app, ["list", asked])
    assert done.exit_code == (said is not None)
    assert (said or "") in " ".join(str(done.exception or done.output).split())


def test_help_and_list_import_nothing_heavy() -> None:
    code = "import sys; from whorl.cli import app\nsys.argv = ['whorl', *sys.argv[1:]]\ntry: app()\nfinally: " + (
        "print(sorted({'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (
        ["--help"],
        ["list"],
        ["compare", "--help"],
        ["inspect", "--help"],
        ["evaluate", "--help"],
        ["doctor", "--help"],
        ["export", "--help"],
    ):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "[]\n"), arguments


def test_version() -> None:
    import whorl

    assert whorl_command("--version").stdout == f"whorl {whorl.__version__}\n"


GOES_ON = """
import sys, time
import whorl.cli
from whorl.console import console

@whorl.cli.app.command("work")
def work() -> None:
    sys.stdin.readline()
    for i in range(3):
        console().print("line", i)
        print("more", flush=True)
    print("done", file=sys.stderr)

whorl.cli.main()
"""


def test_work_goes_on_when_nobody_reads() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", GOES_ON, "work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.communicate(b"\n")[1] == b"done\n"
    assert process.returncode == 0


def test_an_interrupt_while_starting_is_one_line(tmp_path: Path) -> None:
    code = "import builtins, whorl.__main__ as m\n" + (
        "def interrupted(*_, **__): raise KeyboardInterrupt\nbuiltins.__import__ = interrupted\nm.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "whorl: interrupted\n")


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(27, "File too large"),
        SafetensorError("I/O error: Disk quota exceeded (os error 122)"),
        SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/5: file write failed"),
        OSError("131072 requested and 7784 written"),
    ],
)
def test_a_full_disk_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "whorl: the disk, a quota or a file is full; make room" in _said(error, monkeypatch, capsys)
    with pytest.raises(type(error), match="another"):
        _said(type(error)("another"), monkeypatch, capsys)


def test_a_gpu_without_room_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...")
    said = _said(error, monkeypatch, capsys)
    assert "whorl: the GPU has too little memory: CUDA out of memory; try shorter lengths, or another device" in said


def _said(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says of an error, and leaves with status 2. Raises the error where it says nothing."""
    from whorl import cli

    def app() -> None:
        raise error

    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in ("stdout", "stderr"):  # which `main` replaces
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("watched", [True, False])
def test_transformers_bars_are_left_out_where_nobody_watches(watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from whorl import cli

    monkeypatch.setattr(os, "environ", {})
    for stream in ("stdout", "stderr"):  # which `main` replaces
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched, raising=False)
    monkeypatch.setattr(cli, "app", lambda: None)
    cli.main()
    assert os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == (None if watched else "1")


@pytest.mark.parametrize("command", ["convert", "inspect", "list"])
def test_other_commands_than_compare_are_refused_under_torchrun(command: str, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = CliRunner().invoke(app, [command]).exception
    assert f"whorl {command} runs in one process, and torchrun or accelerate started 2" in str(error)
