"""What whorl needs beyond its dependencies: nothing to attach, save and load; else it is said at the start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from whorl.extras import EXTRAS, MissingExtraError, require

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

# Takes a JSON list of lines, each [modules that are not installed, Python]; prints what each printed or raised.
WITHOUT = """
import contextlib, io, json, os, sys
from importlib.machinery import PathFinder

blocked = set()

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
os.environ["HF_HUB_OFFLINE"], os.environ["TRANSFORMERS_VERBOSITY"] = "1", "error"
said = []
for modules, code in json.loads(sys.argv[1]):
    blocked = set(modules)
    for name in [n for n in sys.modules if n.partition(".")[0] in blocked]:
        del sys.modules[name]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            exec(code, {})
        except (Exception, SystemExit) as error:
            print(f"{type(error).__name__}: {error}")
    said.append(out.getvalue())
print(json.dumps(said))
"""
ATTACHES = """
import torch, whorl
from whorl.testing import tiny_model
model = whorl.attach(tiny_model("llama"), "hope:train_length=64+window:size=8")
logits = model(torch.arange(9)[None]).logits
model.save_pretrained("saved")
again = whorl.load("saved")
assert whorl.encoding_of(again) == whorl.encoding_of(model)
assert torch.equal(again(torch.arange(9)[None]).logits, logits)
assert whorl.doctor("saved").findings
whorl.detach(model).save_pretrained("stock")
"""
RUNS = "import sys\nfrom whorl.__main__ import main\nsys.argv = ['whorl', *{!r}]\nmain()"
# tokenizers, typer and rich cannot be absent: transformers needs them. (typer and rich only for its own command line.)
ALL = sorted({module for modules in EXTRAS.values() for module in modules} - {"tokenizers"})
EMPTY = "whorl: empty holds no config.json"
CASES = [  # the extras that are installed, a command, how its answer starts, and the extra that it names, if any
    ("", "list", "whorl: the command line needs rich and typer, which are ", "cli"),
    ("cli", "list", "", None),
    ("cli", "spectrum rope", "", None),
    ("cli", "spectrum rope --figure f.png", "whorl: --figure needs matplotlib, which is ", "reports"),
    ("cli", "doctor empty", EMPTY, None),
    ("cli", "doctor empty --text hf:a", "whorl: --text hf:a needs datasets and pyarrow, which are ", "hub"),
    ("cli", "export empty --out out", EMPTY, None),
    ("cli", "doctor some.gguf", "whorl: some.gguf needs gguf, which is ", "gguf"),
    ("cli compare", "compare rope --model some.gguf", "whorl: some.gguf needs gguf, which is ", "gguf"),
    ("cli reports", "inspect empty some.gguf", "whorl: some.gguf needs gguf, which is ", "gguf"),
    ("cli", "export empty --out out --format gguf", "whorl: --runtime gguf needs gguf, which is ", "gguf"),
    ("cli", "inspect empty --out out", "whorl: whorl inspect needs matplotlib, which is ", "reports"),
    ("cli reports", "inspect empty --out out", EMPTY, None),
    ("cli reports", "inspect empty --text a.parquet --out out", "whorl: --text a.parquet needs ", "hub"),
    ("cli reports", "inspect empty --stream-layers --out out", "whorl: --stream-layers needs accelerate", "compare"),
    ("cli", "evaluate empty --out out", "whorl: whorl evaluate needs matplotlib, which is ", "reports"),
    ("cli reports", "evaluate empty --out out", EMPTY, None),
    ("cli", "extend empty --to 99 --out out", "whorl: whorl extend needs matplotlib, which is ", "reports"),
    ("cli reports", "extend empty --to 99 --out out", EMPTY, None),
    ("cli reports", "extend empty --to 99 --tune 9 --out out", "whorl: --tune needs accelerate, which is ", "compare"),
    ("cli reports", "extend empty --to 99 --lora 2 --out out", "whorl: --lora needs peft, which is ", "peft"),
    ("cli compare", "extend empty --to 99 --tune 9 --out out", EMPTY, None),
    ("cli", "convert empty --to hope --heal 9 --out out", "whorl: whorl convert needs accelerate and ", "compare"),
    ("cli compare", "convert empty --to hope --heal 9 --out out", EMPTY, None),
    ("cli", "compare rope --model empty --out out", "whorl: whorl compare needs accelerate and ", "compare"),
    ("cli compare", "compare rope --model empty --out out", "whorl: cannot load 'empty'", None),
    ("cli compare", "compare --ray rope --out out", "whorl: --ray needs ray, which is not installed", "ray"),
]


def said(lines: list[tuple[list[str], str]], tmp_path: Path) -> list[str]:
    """What each line of code says, in one new process, in order."""
    command = [sys.executable, "-c", WITHOUT, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def without(extras: str) -> list[str]:
    """The modules that are missing where these extras alone are installed."""
    return sorted({*ALL} - {module for extra in extras.split() for module in EXTRAS[extra]})


def test_pyproject_has_the_same_extras() -> None:
    optional = PROJECT["optional-dependencies"]

    def modules(extra: str) -> set[str]:
        found = set()
        for wanted in optional[extra]:
            own = re.fullmatch(r"whorl\[(.*)\]", wanted)
            package = re.match(r"[a-z-]+", wanted)[0]
            named = {"PIL" if package == "pillow" else package.replace("-", "_")}
            found |= set().union(*map(modules, own[1].split(","))) if own else named
        return found

    assert {extra: modules(extra) for extra in EXTRAS} == {extra: {*needs} for extra, needs in EXTRAS.items()}
    assert modules("all") == set().union(*EXTRAS.values()) - {"ray", "lm_eval", "timm"}, "of others"
    assert {re.match("[a-z]+", wanted)[0] for wanted in PROJECT["dependencies"]} == {
        *("torch", "transformers", "safetensors", "numpy")
    }


def test_commands_say_at_once_what_is_missing_and_run_on_what_they_name(tmp_path: Path) -> None:
    """Each gets as far as its model, a folder that is empty, with the extras that it names and no others."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    lines = [(without(extras), RUNS.format(command.split())) for extras, command, *_ in CASES]
    attached, *answers = said([(without(""), ATTACHES), *lines], tmp_path)
    assert "Error" not in attached
    for (_, command, start, lacking), answer in zip(CASES, answers, strict=True):
        assert answer.startswith(start), (command, answer)
        assert "ModuleNotFoundError" not in answer, (command, answer)
        if lacking:
            assert answer.endswith(f"not installed; try pip install 'whorl[{lacking}]'\nSystemExit: 2\n"), answer
    assert not (tmp_path / "out").exists()


def test_python_says_it_too(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    asked = (
        "whorl.compare", "whorl.load('adapter')", "whorl.convert('adapter', 'hope', heal=9, out='out')",
        "whorl.extend('adapter', 9, out='out')",
    )  # fmt: skip
    comparison, adapter, convert, extend = said([(without(""), f"import whorl\n{line}") for line in asked], tmp_path)
    assert comparison.startswith("MissingExtraError: a comparison needs accelerate, matplotlib and rich, which are not")
    assert adapter.startswith("MissingExtraError: the adapter adapter needs peft, which is not installed; try pip")
    assert convert.startswith("MissingExtraError: convert needs accelerate, matplotlib and rich, which are not")
    assert extend.startswith("MissingExtraError: extend needs matplotlib, which is not installed; try pip")


def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "gguf", ("one_that_is_not_there",))
    require("anything", "cli", "hub")
    with pytest.raises(ImportError, match="GGUF needs one_that_is_not_there, which is not installed; try pip install"):
        require("GGUF", "gguf", "cli")
    assert issubclass(MissingExtraError, ValueError), "so that the command line says it in one line"
