"""Where commands may write: nobody else's folder, never what is read from, and the old stays until the new is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import whorl
from tests.results.samples import FINISHED
from whorl import outputs
from whorl.inspection.reporting import run as run_inspect
from whorl.outputs import MARKER, check_goes_on, check_replaces, mark, replacing, written_by
from whorl.runtimes.exporting import export
from whorl.testing import tiny_model


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def made(folder: Path, by: str = "extend", **files: str) -> Path:
    with replacing(folder, by) as fresh:
        for name, text in (files or {"config": "{}"}).items():
            (fresh / f"{name}.json").write_text(text)
    return folder


def asked(verb: str, out: Path, model: str) -> None:
    """The verb as its command calls it, with force where it has one."""
    if verb == "extend":
        whorl.extend(model, 64, out=out, force=True)
    elif verb == "convert":
        whorl.convert(model, "hope", heal=1, out=out, force=True)
    elif verb == "export":
        from whorl.cli.export import export as command

        command(model, out, force=True)
    elif verb == "inspect":
        run_inspect([model], out=out)
    elif verb == "evaluate":
        whorl.evaluate(model, out=out)
    else:
        whorl.compare(["rope"], model=model, out=out, quiet=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory that has a config, so that it is taken for a model, and no weights: loading it would fail."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").config.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("verb", ["extend", "convert", "export", "inspect", "evaluate", "compare"])
def test_a_folder_of_somebody_else_is_refused_before_a_model_is_loaded(verb: str, model: str, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    before = tree(tmp_path)
    with pytest.raises(
        ValueError, match=r"thesis is not (replaced, since it is not known to be whorl's|empty and holds)"
    ):
        asked(verb, thesis, model)
    with pytest.raises(ValueError, match=r"file is a file; give the name of a folder"):
        asked(verb, tmp_path / "file", model)
    with pytest.raises(ValueError, match=r"inside cannot be written: .*file is not a folder"):
        asked(verb, tmp_path / "file" / "inside", model)
    with pytest.raises(ValueError, match=r"is not (replaced, since .* is read from, which lies there|empty and holds)"):
        asked(verb, Path(model), model)
    assert tree(tmp_path) == before
    assert os.listdir(model) == ["config.json"]


@pytest.mark.parametrize("verb", ["extend", "convert", "export"])
@pytest.mark.parametrize("spelling", ["itself", "parent", "link", "dots", "linked weights", "base of an adapter"])
def test_what_is_read_from_is_never_replaced(verb: str, spelling: str, model: str, tmp_path: Path) -> None:
    """Though whorl wrote it, and nothing was added."""
    with replacing(tmp_path / "whole", "extend") as fresh:
        (fresh / "in").mkdir()
        for name in ("in/config.json", "config.json"):
            (fresh / name).write_bytes((Path(model) / "config.json").read_bytes())
    whole = tmp_path / "whole"
    name, out = str(whole), whole
    if spelling == "parent":
        name = str(whole / "in")
    elif spelling == "link":
        out = tmp_path / "link"
        out.symlink_to(whole)
    elif spelling == "dots":
        out = whole / "in" / ".." / ".." / "whole" / "."
    elif spelling == "linked weights":
        other = tmp_path / "other"
        other.mkdir()
        (other / "config.json").symlink_to(whole / "config.json")
        name = str(other)
    elif spelling == "base of an adapter":
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(whole)}))
        name = str(adapter)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="is read from, which lies there"):
        asked(verb, out, name)
    assert tree(tmp_path) == before


def test_a_text_that_is_read_is_not_replaced(model: str, tmp_path: Path) -> None:
    out = made(tmp_path / "out")
    with pytest.raises(ValueError, match="config.json is read from, which lies there"):
        whorl.extend(model, 64, text=str(out / "config.json"), out=out, force=True)


def test_a_trial_reads_its_folder_its_tokenizer_and_the_model_that_it_began_with(tmp_path: Path) -> None:
    from whorl.sources import source

    trial = tmp_path / "run" / "trials" / "rope"
    trial.mkdir(parents=True)
    result = {**FINISHED, "settings": {"train_length": 32, "text": "stdlib", "model": "path/to/model"}}
    (trial / "result.json").write_text(json.dumps(result))
    assert source(str(trial)).reads == (str(trial), str(tmp_path / "run" / "tokenizer"), "path/to/model")


def test_only_what_whorl_wrote_is_replaced_and_only_with_force(tmp_path: Path) -> None:
    out = made(tmp_path / "out", config="1", weights="1")
    with pytest.raises(ValueError, match="out is there already; give another folder, or --force"):
        check_replaces(out, False)
    with replacing(out, "export", force=True) as fresh:
        (fresh / "config.json").write_text("2")
        assert (out / "config.json").read_text() == "1", "the old one stands until the new one is whole"
    assert sorted(tree(out)) == [MARKER, "config.json"]
    assert (out / "config.json").read_text() == "2"
    assert written_by(out) == "export"
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("precious")
    (out / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="holds what whorl did not write: elsewhere, notes/mine.txt; give another"):
        check_replaces(out, True)
    assert os.listdir(tmp_path) == ["out"], "nothing is left beside it"


@pytest.mark.parametrize(("by", "other"), [("compare", "inspect"), ("inspect", "compare")])
def test_results_that_are_gone_on_with_are_of_one_command_and_never_replaced(
    by: str, other: str, tmp_path: Path
) -> None:
    check_goes_on(tmp_path / "new", by)
    mark(tmp_path / "run", by)
    (tmp_path / "run" / "my notes").write_text("x")
    check_goes_on(tmp_path / "run", by)
    with pytest.raises(ValueError, match=f"was written by whorl {by}, and whorl {other} would mix its files in"):
        check_goes_on(tmp_path / "run", other)
    with pytest.raises(ValueError, match=f"not replaced, since it holds the results of whorl {by}"):
        check_replaces(tmp_path / "run", True)
    with pytest.raises(ValueError, match="was written by whorl extend"):
        check_goes_on(made(tmp_path / "longer"), by)


def test_a_failure_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    out = made(tmp_path / "out", config="1")

    def interrupted() -> None:
        with replacing(out, "extend", force=True) as fresh:
            (fresh / "config.json").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (out / "config.json").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_finished_work_is_kept_where_its_place_was_taken_meanwhile(tmp_path: Path) -> None:
    def taken() -> None:
        with replacing(out, "extend") as fresh:
            (fresh / "config.json").write_text("2")
            out.mkdir()
            (out / "chapter.tex").write_text("years of work")

    out = tmp_path / "out"
    with pytest.raises(ValueError, match="out is there already.*What was made is whole, and kept at"):
        taken()
    (kept,) = (p for p in tmp_path.iterdir() if p != out)
    assert sorted(os.listdir(kept)) == [MARKER, "config.json"]
    assert os.listdir(out) == ["chapter.tex"]


def test_what_earlier_versions_wrote_is_known(tmp_path: Path) -> None:
    def folder(name: str, **files: object) -> Path:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file.replace("__", ".")).write_text(json.dumps(content))
        return tmp_path / name

    settings = whorl.training.settings.Settings().to_dict()
    comparison = folder("comparison", config__json=settings)
    check_goes_on(comparison, "compare")
    inspection = folder("inspection", inspection__json={}, inspection__npz=0, report__html=0)
    check_goes_on(inspection, "inspect")
    check_replaces(folder("longer", config__json={}, model__safetensors=0, extension__json={}, loss__png=0), True)
    check_replaces(folder("converted", config__json={}, conversion__json={}, tokenizer__json={}), True)
    added = folder("added", config__json={}, conversion__json={}, thesis__tex="")
    with pytest.raises(ValueError, match="holds what whorl did not write: thesis.tex"):
        check_replaces(added, True)
    with pytest.raises(ValueError, match="not known to be whorl's"):
        check_replaces(folder("a model of somebody", config__json={}, model__safetensors=0), True)
    export(tiny_model("llama"), tmp_path / "gguf", runtime="gguf")
    (tmp_path / "gguf" / MARKER).unlink()
    check_replaces(tmp_path / "gguf", True)
    (tmp_path / "gguf" / "model.gguf").write_bytes(b"GGUF of another program")
    with pytest.raises(ValueError, match="not known to be whorl's"):
        check_replaces(tmp_path / "gguf", True)
    with pytest.raises(ValueError, match="holds the results of whorl compare"):
        check_replaces(comparison, True)
    assert outputs.written_by(tmp_path / "nowhere") is None


KILLED = """
import os, sys
from pathlib import Path
from whorl import outputs
out, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *_, **__: os._exit(9)  # as kill -9: nothing is cleared up
if moment == "between the two renames":
    first = Path.rename
    Path.rename = lambda path, to: first(path, to) if path == out else die()
if moment == "before the old one is removed":
    outputs.shutil.rmtree = die
with outputs.replacing(out, "extend", force=True) as made:
    (made / "config.json").write_text("new")
    if moment == "in its work":
        die()
"""


@pytest.mark.parametrize(
    ("moment", "found"),
    [("in its work", "old"), ("between the two renames", "old"), ("before the old one is removed", "new")],
)
def test_what_a_killed_run_left_is_cleared_up_by_the_next(moment: str, found: str, tmp_path: Path) -> None:
    out, bystander = made(tmp_path / "out", config="old"), tmp_path / ".out.hidden"
    bystander.mkdir()
    assert subprocess.run([sys.executable, "-c", KILLED, str(out), moment]).returncode == 9
    assert len(list(tmp_path.iterdir())) > 2
    with pytest.raises(ValueError, match="is there already"), replacing(out, "extend"):
        pass
    assert (out / "config.json").read_text() == found
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.hidden"}
    with replacing(out, "extend", force=True) as mine:
        with pytest.raises(ValueError, match="is there already"), replacing(out, "extend"):
            pass
        assert mine.exists(), "its maker is alive"


def test_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    for check in (lambda out: check_goes_on(out, "compare"), lambda out: check_replaces(out, False)):
        with pytest.raises(ValueError, match="out is a link that leads nowhere"):
            check(tmp_path / "out")
