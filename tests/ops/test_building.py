"""The loops that a wheel brings: the right ones for the processor, whole, and made from the sources that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from whorl.encodings import Shape, parse
from whorl.ops import biased_attention, rotate, rotation_tables
from whorl.ops.impl import building, native

INPUT = torch.randn(1, 2, 9, 16, generator=torch.Generator().manual_seed(0))


def turned(impl: str) -> torch.Tensor:
    tables = rotation_tables(parse("hope:train_length=64").spectrum(16), torch.arange(9))
    return rotate(INPUT, None, tables, impl=impl)[0]


@pytest.fixture
def installed(brought: Path, fresh: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A wheel's libraries that a test may spoil, with an empty cache and no compiler on the PATH."""
    folder = tmp_path / "built"
    shutil.copytree(brought, folder)
    fresh.setattr(native, "BROUGHT", folder)
    fresh.setenv("PATH", "/nowhere")
    fresh.delenv("CC", raising=False)
    return folder


def loaded() -> Path:
    """Where the library is from, asked for as by a new process."""
    native.library.cache_clear()
    found, why = native.library()
    assert found is not None, why
    torch.testing.assert_close(turned("cpu"), turned("reference"))
    return Path(found._name)


def test_they_run_without_a_compiler_and_write_nothing(installed: Path, tmp_path: Path, caplog) -> None:
    assert loaded().parent == installed
    assert not caplog.records
    assert not (tmp_path / "whorl").exists()


@torch.no_grad()
def test_the_numbers_are_those_of_loops_compiled_here(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, since they use the same instructions: turned, and attended with a bias."""
    positions, q = torch.arange(150)[None], torch.randn(1, 4, 150, 40)

    def numbers() -> torch.Tensor:
        native.library.cache_clear()
        tables = rotation_tables(parse("rope").spectrum(40), positions)
        k = rotate(q, None, tables, impl="cpu")[0]
        biases = [effect.module for effect in parse("alibi").effects(Shape(head_dim=40, heads=4, width=160))]
        at = {"query_positions": positions, "key_positions": positions}
        return torch.stack([k, biased_attention(q, k, q, biases, scale=0.4, impl="cpu", causal=True, **at)[0]])

    for dtype in (torch.float32, torch.bfloat16):
        q = q.to(dtype)
        compiled = numbers()
        with monkeypatch.context() as wheel:
            wheel.setattr(native, "BROUGHT", brought)
            assert torch.equal(numbers(), compiled)
            assert Path(native.library()[0]._name).parent == brought
        native.library.cache_clear()


def test_the_processor_says_which(installed: Path) -> None:
    """As Linux says it: a name of cpu.c that is not among the flavours could never be loaded."""
    flags = native._cpuinfo().split()
    if "avx2" not in flags:
        pytest.skip("not a processor whose flags name AVX2")
    known = {"avx512_bf16": "avx512-bf16", "avx512bw": "avx512", "avx2": "avx2"}
    expected = next(flavour for flag, flavour in known.items() if flag in flags)
    assert loaded().name == building.flavour_name(expected)
    assert {*re.findall(r'"([a-z0-9-]+)"[;: ]', building.ASKING[0].read_text())} >= {*building.FLAVOURS}


@pytest.mark.parametrize("changed", ["the sources", "what they include", "the flags", "the flavour's flags", "cpu.c"])
def test_what_was_made_from_something_else_is_not_taken(
    changed: str, installed: Path, fresh: pytest.MonkeyPatch, tmp_path: Path, caplog
) -> None:
    if changed == "the flags":
        fresh.setattr(building, "FLAGS", (*building.FLAGS, "-O2"))
    elif changed == "the flavour's flags":
        fresh.setattr(building, "FLAVOURS", {name: (*flags, "-g") for name, flags in building.FLAVOURS.items()})
    else:
        name = {"the sources": "SOURCES", "what they include": "HEADERS"}.get(changed, "ASKING")
        source = tmp_path / "changed.c"
        source.write_text(getattr(building, name)[-1].read_text() + "/* changed */\n")
        fresh.setattr(building, name, (*getattr(building, name)[:-1], source))
    native.library.cache_clear()
    assert "no C compiler" in str(native.missing())
    fresh.undo()


@pytest.mark.parametrize(
    ("which", "spoil"),
    [
        *[("cpu", "cut short"), ("cpu", "another's"), ("cpu", "no digest")],  # and one that is gone is a source tree
        *[("loops", "cut short"), ("loops", "another's"), ("loops", "no digest"), ("loops", "gone")],
    ],
)
def test_one_that_is_not_whole_is_not_taken(which: str, spoil: str, installed: Path) -> None:
    for library in installed.glob(f"{which}-*.so"):
        if spoil == "cut short":
            library.write_bytes(library.read_bytes()[:5000])
        elif spoil == "another's":
            library.write_bytes(b"another")
        else:
            (building.beside(library) if spoil == "no digest" else library).unlink()
    native.library.cache_clear()
    assert "is not what the wheel brought; no C compiler" in str(native.missing())


def test_where_the_wheels_do_not_serve_they_are_compiled(
    installed: Path, fresh: pytest.MonkeyPatch, tmp_path: Path, caplog
) -> None:
    for library in installed.glob("loops-*.so"):
        library.unlink()
    fresh.undo()
    fresh.setattr(native, "BROUGHT", installed)
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh.setattr("tempfile.tempdir", str(tmp_path))
    assert loaded().is_relative_to(tmp_path / "whorl")
    assert "is not what the wheel brought" in caplog.text
    caplog.clear()
    assert loaded().parent == tmp_path / "whorl", "the one that was kept"


def test_one_that_does_not_load_is_said(installed: Path, fresh: pytest.MonkeyPatch) -> None:
    for library in installed.glob("loops-*.so"):
        library.write_bytes(b"no library")
        building.beside(library).write_text(building.sha256(library))
    native.library.cache_clear()
    assert "does not load" in str(native.missing())


def test_no_flavour_uses_what_its_machines_lack(brought: Path) -> None:
    """No wide register where the flavour promises none: it would stop the process on a lesser processor."""
    if "avx2" not in building.FLAVOURS or not (objdump := shutil.which("objdump")):
        pytest.skip("x86-64's registers, read by objdump")
    for flavour, registers in {None: (), "baseline": (), "avx2": ("ymm",), "avx512": ("ymm", "zmm")}.items():
        name = building.flavour_name(flavour) if flavour else building.asking_name()
        code = subprocess.run([objdump, "-d", str(brought / name)], capture_output=True, text=True, check=True).stdout
        assert {*re.findall("ymm|zmm", code)} == {*registers}
        assert "vcvtne2ps2bf16" not in code
        assert bool(re.search(r"\tv[a-z]", code)) == bool(registers), "instructions of AVX on narrow registers"
