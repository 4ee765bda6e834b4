"""Training in two processes is training in one: DDP, and FSDP2 whose parameters are sharded, on CPUs, by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from tests.attaching.two_processes import FAMILIES, built, trained, weights
from tests.contract import TOKENS

ROOT = Path(__file__).resolve().parents[2]


def by_torchrun(*module: str) -> None:
    """Runs a module in two processes, which find each other at a free port.

    Once more where one was aborted: gloo has done so in the middle of a collective, in one of a dozen runs.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *module]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    for again in (True, False):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT)
        if not (again and "(SIGABRT)" in done.stderr):
            break
        warnings.warn(f"aborted, and run once more: {done.stderr[:2000]}", stacklevel=2)
    assert done.returncode == 0, f"{done.stderr[:2000]} ... {done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that two processes have written, and what they found."""
    folder = tmp_path_factory.mktemp("two")
    by_torchrun("tests.attaching.two_processes", str(folder))
    found = torch.load(folder / "found.pt")
    assert found["processes"] == 2
    return folder, found


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(("encoding", "family"), FAMILIES)
def test_two_processes_train_as_one(encoding: str, family: str, two: tuple[Path, dict[str, Any]]) -> None:
    """Within four times what one process is off from itself in float64. Rows of one process alone are far off."""
    _, found = two
    one, exact, half = built(encoding, family), built(encoding, family, torch.float64), built(encoding, family)
    losses, true = trained(one), trained(exact)
    trained(half, slice(0, 2))
    off = apart(weights(one), weights(exact))
    off_losses = max(abs(a - b) for a, b in zip(losses, true, strict=True))
    rounding = torch.finfo(torch.float32).eps
    assert apart(weights(one), weights(half)) > 400 * (off + rounding), "nothing would be seen"
    for how in ("DDP", "FSDP2"):
        theirs, learned = found[f"{encoding} on {family}, {how}"]
        assert apart(weights(one), learned) <= 4 * (off + rounding), how
        assert max(abs(a - b) for a, b in zip(losses, theirs, strict=True)) <= 4 * off_losses + 8 * rounding * max(true)
    before, after = (list(whorl.attached(model).parameters()) for model in (built(encoding, family), one))
    assert not before or any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@torch.no_grad()
@pytest.mark.parametrize(("encoding", "family"), FAMILIES)
def test_a_sharded_model_is_saved_whole(encoding: str, family: str, two: tuple[Path, dict[str, Any]]) -> None:
    """Called on every process; loaded in one, with the encoding and what it has learned."""
    folder, found = two
    key = f"{encoding} on {family}"
    model = whorl.load(folder / key.replace(":", "-").replace("/", "-")).eval()
    assert whorl.encoding_of(model) == whorl.encoding_of(built(encoding, family))
    _, learned = found[f"{key}, FSDP2"]
    expected = built(encoding, family)
    expected.load_state_dict({name: tensor.float() for name, tensor in learned.items()}, strict=False)
    assert torch.equal(model(TOKENS).logits, expected.eval()(TOKENS).logits)
