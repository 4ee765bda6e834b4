"""Where a Ray is looked for, and that one which was there before is used and left. (Its trials: test_sweep.py.)"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import pytest
import typer

import whorl
from tests.comparison.small_runs import SMALL
from whorl.cli.helping import Command

ADDRESSES = {
    "--ray": ("auto", []),
    "--ray rope": ("auto", ["rope"]),
    "--ray p-rope:p=0.5": ("auto", ["p-rope:p=0.5"]),
    "rope --ray --flag": ("auto", ["rope"]),
    "--ray local rope": ("local", ["rope"]),
    "--ray=head:6379 rope": ("head:6379", ["rope"]),
    "--ray ray://10.0.0.1:10001 rope": ("ray://10.0.0.1:10001", ["rope"]),
    "rope": (None, ["rope"]),
}


@pytest.mark.parametrize("line", ADDRESSES)
def test_an_address_is_told_from_an_encoding(line: str) -> None:
    app, told = typer.Typer(), []

    @app.command(cls=Command)
    def compare(
        encodings: Annotated[list[str] | None, typer.Argument()] = None, ray: str | None = None, flag: bool = False
    ) -> None:
        told.append((ray, encodings or []))

    app(line.split(), standalone_mode=False)
    assert told == [ADDRESSES[line]]


@pytest.fixture
def quick(text: Path, tmp_path: Path) -> dict[str, object]:
    pytest.importorskip("ray", reason="the extra whorl[ray] is not installed")
    return {**SMALL, "text": str(text), "out": tmp_path / "out"}


def test_no_ray_at_an_address_is_said_at_once(quick: dict[str, object]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    with pytest.raises(ValueError, match=f"there is no Ray at 127.0.0.1:{port} .*refused.*try --ray=local"):
        whorl.compare(["rope"], ray=f"127.0.0.1:{port}", **quick)
    with pytest.raises(ValueError, match="ray must be auto, local or an address like host:6379, got 'rope'"):
        whorl.compare(["rope"], ray="rope", **quick)
    with pytest.raises(ValueError, match="--jobs and --ray are different ways to run trials; give one of them"):
        whorl.compare(["rope"], ray="auto", jobs=2, **quick)


def test_a_ray_that_is_there_is_used_and_left(quick: dict[str, object]) -> None:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        results = whorl.compare(["rope"], ray="auto", **quick)
        assert [trial.notation for trial in results.trials] == ["rope"]
        assert ray.is_initialized()
    finally:
        ray.shutdown()
