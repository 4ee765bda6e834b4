"""Conversions by name set what their papers say, and give way to what is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import whorl
from whorl.cli import app
from whorl.conversion.recipes import settings_of
from whorl.encodings import Shape, parse

LENGTH = 32


def test_drope_is_what_the_paper_says() -> None:
    """Table 4 and appendix C.2: 31.46 B tokens in steps of 1,048,576, of 2,048 each; SmolLM's temperature."""
    drope = settings_of("drope")
    assert (drope.tokens, drope.batch_size * 2048) == (31_457_280_000, 1_048_576)
    assert drope.learning_rate == 3e-4, "what trains stably without QK norms"
    (effect,) = parse(drope.to).effects(Shape(8, 2, 16))  # nothing that turns
    at = torch.tensor([[1, 512, 1024, 4096]])
    expected = [1, 1, *(1 + 0.103 * torch.tensor([2.0, 8.0]).log())]
    torch.testing.assert_close(effect.module(at, at - 1)[0, 0], torch.tensor(expected))


def test_drope_by_the_command_and_in_python(trial: tuple[Path, str], tmp_path: Path) -> None:
    few = {"heal": 3 * 8 * LENGTH, "batch-size": 8, "windows": 4}
    asked = ["convert", str(trial[0]), "--to=drope", *(f"--{k}={v}" for k, v in few.items())]
    done = CliRunner().invoke(app, [*asked, f"--out={tmp_path / 'out'}"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "no layer turns any more" in done.output
    assert "no --heal was given" not in done.output
    assert f"of training here for {few['heal']:,} tokens, twice, by a forward of the model" in done.output
    assert f"healing: 3 steps of 8 x {LENGTH} tokens, learning rate 0.0003, and as many" in done.output
    model = whorl.load(tmp_path / "out").eval()
    to = f"nope+log-n:train_length={LENGTH},slope=0.103"
    assert str(whorl.encoding_of(model)) == to
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert (written["to"], written["learning_rate"]) == (to, 3e-4)
    how = {"heal": 3 * 8 * LENGTH, "batch_size": 8, "windows": 4, "learning_rate": 1e-3, "control": False}
    found = whorl.convert(str(trial[0]), "drope", out=tmp_path / "python", **how)
    assert (found.learning_rate, found.before) == (1e-3, {int(n): loss for n, loss in written["before"].items()})
    ids = torch.randint(3, 100, (1, 2 * LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(ids).logits
        plain = whorl.attach(model, "nope")(ids).logits
    torch.testing.assert_close(logits[:, :LENGTH], plain[:, :LENGTH], rtol=1e-5, atol=1e-5)
    assert (logits - plain)[:, LENGTH:].abs().max() > 1e-4, "the temperature, past the length"


def test_what_is_no_recipe_says_what_lacks(tmp_path: Path) -> None:
    assert settings_of("hope").to == "hope"
    assert settings_of("hope").learning_rate == 5e-4
    with pytest.raises(ValueError, match="unknown encoding 'dropes'"):
        settings_of("dropes")
    with pytest.raises(
        ValueError, match=r"a swap to hope is healed by training; give --heal .*, the tokens of it: 5000000 would"
    ):
        whorl.convert("no/such/model", "hope", out=tmp_path / "out")
