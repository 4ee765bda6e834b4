"""Compiled loops as a new process finds them, and as a wheel has them for each kind of machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from whorl.ops.impl import building, native


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """As if nothing had been compiled yet, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the other place where libraries are kept
    native.library.cache_clear()
    yield monkeypatch
    native.library.cache_clear()


@pytest.fixture(scope="session")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What setup.py puts into a wheel."""
    compiler = building.compiler()
    assert compiler is not None, "the tests need a C compiler"
    folder = tmp_path_factory.mktemp("wheel") / "built"
    building.build_flavours(compiler, folder)
    return folder


@pytest.fixture(params=["compiled here", *building.FLAVOURS])
def loops(request: pytest.FixtureRequest, fresh: pytest.MonkeyPatch) -> str:
    """The loops as they are compiled for this machine, and as the wheel has them for each kind that this one is."""
    if request.param != "compiled here":
        folder, known = request.getfixturevalue("brought"), list(building.FLAVOURS)
        mine = native._flavour(folder / building.asking_name())
        if known.index(request.param) > known.index(mine):
            pytest.skip(f"this machine runs the loops for {mine}")
        fresh.setattr(native, "BROUGHT", folder)
        fresh.setattr(native, "_flavour", lambda _: request.param)
        loaded, why = native.library()
        assert loaded is not None, why
        assert Path(loaded._name) == folder / building.flavour_name(request.param)
    else:
        fresh.undo()
        native.library.cache_clear()
    return request.param
