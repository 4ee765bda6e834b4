"""One process at a time writes a folder; a dead one holds nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import whorl
from whorl.data.corpus import train_tokenizer
from whorl.inspection.reporting import run as inspect
from whorl.locking import LOCK, alone
from whorl.testing import tiny_model

HOLDS = """
import sys, time
from whorl.locking import alone
with alone(sys.argv[1], "compare"):
    print("held", flush=True)
    time.sleep(100)
"""


def holder(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_another_process_is_named_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = holder(folder)
    with (
        pytest.raises(ValueError, match=f"being written by whorl compare, process {process.pid} on"),
        alone(folder, "x"),
    ):
        pass
    assert (folder / LOCK).exists(), "the other's"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with alone(folder, "inspect"):
        assert f"whorl inspect, process {os.getpid()}" in (folder / LOCK).read_text()
        (folder / "result").write_text("kept")
    (folder / ".result.123.tmp").write_text("half of what a killed run was writing")
    with alone(folder, "inspect"):
        pass
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_what_another_writes_below_is_left_to_him(tmp_path: Path) -> None:
    """Of two folders below, one has a process at work, and one had."""
    alive, dead = tmp_path / "trials" / "alive", tmp_path / "trials" / "dead"
    at_work, killed = holder(alive), holder(dead)
    killed.kill()
    killed.wait()
    for folder in (alive, dead):
        (folder / "deeper").mkdir()
        (folder / "deeper" / ".result.123.tmp").write_text("half")
    try:
        with alone(tmp_path, "compare"):
            assert list(tmp_path.rglob("*.tmp")) == [alive / "deeper" / ".result.123.tmp"]
    finally:
        at_work.kill()
        at_work.wait()


def test_a_folder_that_was_made_and_not_used_goes_again(tmp_path: Path) -> None:
    with alone(tmp_path / "out", "compare"):
        pass
    assert not (tmp_path / "out").exists()


def test_an_error_of_work_that_took_its_folder_away_is_seen(tmp_path: Path) -> None:
    """And not that the folder is gone."""

    def work() -> None:
        with alone(tmp_path / "out", "convert"):
            shutil.rmtree(tmp_path / "out")
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        work()


def test_one_that_has_just_let_go_is_no_trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is gone between opening and locking: the lock that was had is of no file that others meet."""
    opened, real = [], os.open

    def slow(path: object, *how: int) -> int:
        file = real(path, *how)
        opened.append(file)
        if len(opened) == 1:
            (tmp_path / LOCK).unlink()
        return file

    monkeypatch.setattr(os, "open", slow)
    with alone(tmp_path, "compare"):
        monkeypatch.undo()
        assert len(opened) == 2
        with pytest.raises(ValueError, match="is being written by"), alone(tmp_path, "compare"):
            pass


def test_commands_ask_for_it(tmp_path: Path) -> None:
    words = [f"a word and another, {n}, of {n * n}, and as many words as sixteen tokens need\n" for n in range(200)]
    model, text = tmp_path / "model", tmp_path / "text.txt"
    text.write_text("<|endoftext|>".join(words))
    tiny_model("llama", vocab_size=300).save_pretrained(model)
    train_tokenizer(words, 300).save_pretrained(model)
    settings = {"train_length": 16, "lengths": ("1x",), "tokens": 64, "tail": 4, "batch_size": 4, "quiet": True}
    process = holder(tmp_path / "out")
    try:
        with pytest.raises(ValueError, match=f"process {process.pid} on"):
            whorl.compare(["rope"], out=tmp_path / "out", text=str(text), **settings)
        with pytest.raises(ValueError, match=f"process {process.pid} on"):
            inspect([str(model)], text=str(text), length=32, train_length=16, out=tmp_path / "out")
    finally:
        process.kill()
        process.wait()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(ValueError, match=r"file/out cannot be written: Not a directory; give another folder"),
        alone(tmp_path / "file" / "out", "inspect"),
    ):
        pass
