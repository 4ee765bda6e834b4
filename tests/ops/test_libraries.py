"""Which compiled library is loaded: none that somebody else could have put there, and no half of one."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from whorl.ops.impl import building, libraries, native


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], int]]:
    """Asks for the library as a new process would, and says how often the compiler ran. The cache is empty.

    What the compiler makes is a stand-in, and loading it reads it: that a real one is built and loaded is seen in
    test_rotation_kernels.
    """
    ran: list[Path] = []

    def made(compiler: str, library: Path, *flags: str) -> None:
        ran.append(library)
        library.write_bytes(b"loops" * 1000)

    def loaded(path: Path) -> bytes:
        content = path.read_bytes()
        if content != b"loops" * 1000:
            raise AssertionError(f"{path} was loaded and holds {content[:20]!r}")
        return content

    def fresh() -> int:
        ran.clear()
        native.library.cache_clear()
        found, why = native.library()
        assert found, why
        return len(ran)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(libraries.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(building, "build", made)
    monkeypatch.setattr(native, "_load", loaded)
    yield fresh
    native.library.cache_clear()


def kept(tmp_path: Path, where: str = "cache/whorl") -> Path:
    (library,) = (tmp_path / where).glob("loops-*.so")
    return library


def test_built_once_and_in_a_folder_of_ones_own(build: Callable[[], int], tmp_path: Path, caplog) -> None:
    assert (build(), build(), build()) == (1, 0, 0)
    assert stat.S_IMODE((tmp_path / "cache/whorl").stat().st_mode) == 0o700
    assert not caplog.records


@pytest.mark.parametrize(
    ("spoil", "built"),
    [
        (lambda library: library.write_bytes(b""), 1),
        (lambda library: library.write_bytes(library.read_bytes()[:2000]), 1),
        (lambda library: library.write_bytes(b"another" * 1000), 1),
        (lambda library: building.beside(library).unlink(), 1),
        (lambda library: building.beside(library).write_bytes(b"\xff\xfe"), 1),
        (lambda library: os.chmod(library, 0o777), 1),
        (lambda library: (library.rename(library.with_name("moved")), library.symlink_to("moved")), 1),
    ],
    ids=["empty", "half", "another's", "no digest", "nonsense digest", "anybody writes", "a link"],
)
def test_a_library_that_was_not_put_there_is_not_loaded(
    spoil: Callable[[Path], object], built: int, build: Callable[[], int], tmp_path: Path, caplog
) -> None:
    build()
    spoil(kept(tmp_path))
    assert build() == built
    assert "is not what whorl put there" in caplog.text
    caplog.clear()
    assert build() == 0, "mended"
    assert not caplog.records


def test_a_folder_that_others_write_to_is_passed_over(build: Callable[[], int], tmp_path: Path, caplog) -> None:
    build()
    os.chmod(tmp_path / "cache", 0o777)
    assert (build(), build()) == (1, 0)
    assert kept(tmp_path, f"tmp/whorl-{os.geteuid()}").exists()
    assert "can be written to by anybody" in caplog.text
    os.chmod(tmp_path / "cache", 0o1777)  # sticky, as /tmp is
    assert build() == 0
    assert kept(tmp_path).exists()


def test_another_users_folder_is_passed_over(
    build: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    build()
    own, theirs = Path.lstat, os.geteuid() + 1

    def lstat(path: Path) -> object:
        facts = own(path)
        foreign = path == tmp_path / "cache/whorl"
        return SimpleNamespace(st_uid=theirs if foreign else facts.st_uid, st_mode=facts.st_mode, st_mtime=0)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert (build(), build()) == (1, 0)
    assert f"belongs to another user (uid {theirs})" in caplog.text


def test_places_that_cannot_keep_it(
    build: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(libraries.os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert (build(), build()) == (1, 1), "for each process anew"
    assert "mounted noexec" in caplog.text
    assert "compiled again in every process" in caplog.text
    monkeypatch.undo()


def test_a_full_disk_falls_back_once(
    build: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    real = libraries.no_room
    monkeypatch.setattr(libraries, "no_room", lambda f: "No space left" if "cache" in f.parts else real(f))
    assert (build(), build()) == (1, 0)
    assert kept(tmp_path, f"tmp/whorl-{os.geteuid()}").exists()
    assert sum("No space left" in r.message for r in caplog.records) == 1


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    (only,) = libraries.folders()
    assert only.name == f"whorl-{os.geteuid()}"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert list(libraries.folders()) == [only], "a relative path would follow the working directory"


def test_what_killed_builds_left_is_taken_away(build: Callable[[], int], tmp_path: Path) -> None:
    folder = tmp_path / "cache/whorl"
    for name, age in (("old", 2 * libraries.STALE), ("running", 0)):
        left = folder / f"{libraries.BUILD}{name}"
        left.mkdir(parents=True)
        os.utime(left, (time.time() - age,) * 2)
    os.chmod(folder, 0o700)
    build()
    assert [path.name for path in folder.glob(f"{libraries.BUILD}*")] == [f"{libraries.BUILD}running"]


def test_a_compiler_that_does_not_speak_utf_8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog) -> None:
    compiler = tmp_path / "cc"
    compiler.write_bytes(
        b"#!/bin/sh\nprintf 'caf\\351\\n'\n[ \"$1\" = --version ] || { printf '\\377' >&2; exit 1; }\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert "could not build whorl's loops" in str(native.missing())
        assert "slower code runs in their place" in caplog.text
    finally:
        native.library.cache_clear()
