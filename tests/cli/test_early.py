"""Bad names, files and folders are refused before PyTorch is imported, by every command, in the words of the work."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.test_help import COMMANDS

from whorl import tasks
from whorl.data.corpus import check_path_of_text, read_documents
from whorl.encodings import check_names, parse
from whorl.sources import source
from whorl.tasks import check_name

RUN = """
import contextlib, io, json, sys
from whorl.cli import main
for name, arguments in json.loads(sys.argv[1]):
    sys.argv, said = ["whorl", *arguments], io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main()
    except SystemExit as left:
        print(json.dumps([name, left.code, said.getvalue(), sorted({"torch", "transformers"} & set(sys.modules))]))
"""
NOWHERE = "no/such/model"
CASES = {
    "compare hop": "unknown encoding 'hop'; did you mean 'hope'?",
    "compare rope~yarm:factor=2": "unknown scaling 'yarm'",
    "compare 'rope then rope~yarm:factor=2'": "unknown scaling 'yarm'",
    "compare 'rope then hope then nope'": "more than one `then`; write TRAINED then TESTED",
    "compare --task cop": "unknown task 'cop'; did you mean 'copy'?",
    "compare --mix mqr:pairs=8=0.1": "unknown task 'mqr'; did you mean 'mqar'?",
    "compare --text nothing.txt": "no text at 'nothing.txt'",
    f"compare --model {NOWHERE}": f"there is nothing at {NOWHERE}",
    "compare --out FILE": "is a file; give the name of a folder",
    f"inspect {NOWHERE}": f"there is nothing at {NOWHERE}",
    "inspect ''": "no model is named ''; give a model's directory",
    "inspect FOLDER --text ''": "got ''",
    f"inspect FOLDER --out {'n' * 300}": "File name too long: a str ('nnn",
    f"export FOLDER --out {'n' * 300}": "File name too long: a str ('nnn",
    "inspect FOLDER --text nothing.txt": "no text at 'nothing.txt'",
    "inspect FOLDER --out FULL": "holds no whorl results",
    f"evaluate {NOWHERE}": f"there is nothing at {NOWHERE}",
    "evaluate run/trials/hope-s0": "run/trials/hope-s0; the finished trials there are hope-s0-12ab",
    "inspect run/trials/rope-s0/": "run/trials/rope-s0/; the finished trials there are hope-s0-12ab",
    "evaluate FOLDER --encoding hop": "unknown encoding 'hop'",
    "evaluate FOLDER --probes los": "unknown probe 'los'; did you mean 'loss'?",
    f"evaluate {NOWHERE} --probes loss,": f"there is nothing at {NOWHERE}",
    "evaluate FOLDER --out FULL": "holds no whorl results",
    f"extend {NOWHERE} --to 64 --out new": f"there is nothing at {NOWHERE}",
    "extend FOLDER --to 64 --out FULL": "is there already; give another folder",
    f"convert {NOWHERE} --to hope --heal 9 --out new": f"there is nothing at {NOWHERE}",
    "convert FOLDER --to hop --heal 9 --out new": "unknown encoding 'hop'",
    "convert FOLDER --to hope --heal 9 --out FILE": "is a file; give the name of a folder",
    f"export {NOWHERE} --out new": f"there is nothing at {NOWHERE}",
    "export FOLDER --out FULL": "is there already; give another folder",
    f"doctor {NOWHERE}": f"there is nothing at {NOWHERE}",
    "doctor FOLDER --text nothing.txt": "no text at 'nothing.txt'",
    "spectrum hop": "unknown encoding 'hop'",
    "spectrum rope --figure nowhere/a.png": "there is no folder nowhere",
}


def test_every_command_refuses_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "run" / "trials" / "hope-s0-12ab").mkdir(parents=True)
    (tmp_path / "run" / "trials" / "hope-s0-12ab" / "result.json").write_text("{}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("text")
    places = {name.upper(): str(tmp_path / name) for name in ("folder", "file", "full")}
    asked = [(case, [places.get(word, word) for word in shlex.split(case)]) for case in CASES]
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(asked)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in found] == list(CASES), done.stderr
    for name, status, said, heavy in found:
        assert (status, heavy) == (2, []), (name, said)
        assert CASES[name] in said, name
    assert {case.split()[0] for case in CASES} == set(COMMANDS) - {"list"}, "which reads nothing"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "full", "run"]


@pytest.mark.parametrize(
    "notation",
    ["rope", "rope~yarn:factor=2,original=9+window:size=4/nope", "full_attention=nope/sliding_attention=rope"],
)
def test_names_that_there_are_pass(notation: str) -> None:
    check_names(notation)
    parse(notation)


def test_the_words_are_those_of_the_work() -> None:
    for early, late in (
        (lambda: check_names("rope+hop"), lambda: parse("rope+hop")),
        (lambda: check_names("rope~hopp"), lambda: parse("rope~hopp")),
        (lambda: check_path_of_text("no.txt"), lambda: read_documents("no.txt")),
        (lambda: check_path_of_text("a text\n"), lambda: read_documents("a text\n")),
        (lambda: check_name("mqr:pairs=8"), lambda: tasks.parse("mqr:pairs=8")),
    ):
        with pytest.raises(ValueError, match=".") as first:
            early()
        with pytest.raises(ValueError, match=".") as second:
            late()
        assert str(first.value) == str(second.value)
    with pytest.raises(ValueError, match=f"there is nothing at {NOWHERE}"):
        source(NOWHERE)
