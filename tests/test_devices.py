"""Where models are read, with GPUs that are told of and on a device that is pretended (`elsewhere.py`)."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whorl
from tests import elsewhere, texts
from tests.evaluation import VOCABULARY
from whorl.data.corpus import read_documents, train_tokenizer
from whorl.devices import placed
from whorl.provenance import machine
from whorl.sources import source
from whorl.testing import peaked, tiny_image_model, tiny_model

GIB = 2**30
JOBS = ("evaluate-stock", "evaluate-hope", "evaluate-fox", "inspect-stock", "inspect-t5", "extend-stock", "images-vit")


def save_text_model(folder: Path, text: Path, encoding: str | None = None) -> str:
    model = peaked(tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=96))
    if encoding:
        whorl.attach(model, encoding)
    model.save_pretrained(folder)
    train_tokenizer(read_documents(str(text))[:1], VOCABULARY).save_pretrained(folder)
    return str(folder)


def by_itself(*arguments: str) -> None:
    """Runs Python on these, in a process that finds what this one does. Raises CalledProcessError where it fails."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, *arguments], check=True, cwd=Path(__file__).parents[1], env=env)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and models by the names that jobs have them by."""
    folder = tmp_path_factory.mktemp("devices")
    text = texts.lay(folder / "text")
    for name in ("stock", "hope", "fox", "t5"):
        save_text_model(folder / name, text, None if name == "stock" else name)
    tiny_image_model("vit").save_pretrained(folder / "vit")
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What each job comes to, on the CPU and on the device that is pretended: in a process of their own."""
    if elsewhere.MISSING:
        pytest.skip("this PyTorch has no backends in Python")
    by_itself("-m", "tests.elsewhere", str(folder), *JOBS)
    return {job: pickle.loads((folder / f"{job}.pickle").read_bytes()) for job in JOBS}


@pytest.mark.full
@pytest.mark.parametrize("job", JOBS)
def test_what_is_read_elsewhere_is_what_is_read_on_the_cpu(job: str, found: dict[str, Any]) -> None:
    assert not isinstance(found[job], str), found[job]
    same(*found[job], device=elsewhere.DEVICE, within=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")
@pytest.mark.parametrize("job", JOBS)
def test_what_is_read_on_a_gpu_is_what_is_read_on_the_cpu(job: str, folder: Path) -> None:
    what, model = job.split("-")
    results = [
        elsewhere.JOBS[what](str(folder / model), str(folder / "text"), folder / f"{job}-{device[:3]}", device)
        for device in ("cpu", "cuda:0")
    ]
    name = "cuda:0" if what == "extend" else torch.cuda.get_device_name(0)
    same(*results, device=name, within=1e-3)


def same(here: tuple[str, dict[str, Any]], there: tuple[str, dict[str, Any]], *, device: str, within: float) -> None:
    """Raises AssertionError where two jobs ran elsewhere than they should, or differ by more than rounding."""
    assert (here[0], there[0]) == ("cpu", device)
    assert here[1]
    close(there[1], here[1], within, "")


def close(a: Any, b: Any, within: float, where: str) -> None:
    if isinstance(b, dict):
        assert a.keys() == b.keys()
        for key in b:
            close(a[key], b[key], within, f"{where}.{key}")
    elif isinstance(b, np.ndarray | float) or (isinstance(b, list | tuple) and b and isinstance(b[0], float)):
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=within, atol=within, err_msg=where)
    elif isinstance(b, list | tuple):
        assert len(a) == len(b)
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            close(x, y, within, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.mark.full
@pytest.mark.skipif(elsewhere.MISSING, reason="this PyTorch has no backends in Python")
def test_what_was_left_on_the_cpu_is_not_met_there() -> None:
    """The pretended device refuses what a GPU would."""
    code = (
        "import torch; from tests import elsewhere\n"
        "with elsewhere.there():\n"
        "    layer, x = torch.nn.Linear(2, 3).to(elsewhere.DEVICE), torch.ones(4, 2)\n"
        "    assert str(layer(x.to(elsewhere.DEVICE)).device) == elsewhere.DEVICE\n"
        "    for wrong in (lambda: layer(x), lambda: x[layer.weight.argmax(0)], lambda: layer.bias.numpy()):\n"
        "        try: wrong()\n"
        "        except (RuntimeError, TypeError): continue\n"
        "        raise SystemExit('it was let through')\n"
    )
    by_itself("-c", code)


class OnGpu(torch.nn.Linear):
    """Notes where it was sent."""

    sent: str | None = None

    def to(self, device: Any) -> OnGpu:  # type: ignore[override]
        self.sent = str(device)
        return self


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of which one GiB is free, half of that in PyTorch's hands."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device=None: f"Some GPU ({device})")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (GIB // 2, 2 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: GIB)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: GIB // 2)


def test_a_model_goes_to_the_gpu_where_it_fits(gpu: None, caplog: pytest.LogCaptureFixture) -> None:
    assert placed(OnGpu(4, 4)).sent == "cuda:1"
    with torch.device("meta"):
        large = OnGpu(2**14, 2**14)  # one GiB of weights, and a quarter more is asked for
    assert placed(large).sent is None
    assert "read on the CPU: on Some GPU (cuda:1) 1.0 GiB are free, and the model needs 1.3 (--device)" in caplog.text
    assert placed(large, "cuda:1").sent == "cuda:1"  # who asks knows why
    assert placed(OnGpu(4, 4), "cpu").sent == "cpu"
    spread = OnGpu(4, 4)
    spread.hf_device_map = {"": "disk"}  # type: ignore[assignment]
    assert placed(spread).sent is None


def test_without_a_gpu_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert placed(OnGpu(4, 4)).sent is None


def test_a_result_names_the_device_that_the_model_was_read_on(gpu: None) -> None:
    assert machine(torch.device("cpu"))["device"] == "cpu"
    assert machine(torch.device("cuda:1"))["device"] == "Some GPU (cuda:1)"
    assert machine()["device"] == "Some GPU (cuda)"  # where trials are trained


@pytest.mark.parametrize("device", ["cuda:63", "gpu", "meta", "mps", "cpu:1"])
def test_a_device_that_is_not_there_is_refused_before_a_model_is_read(device: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"the device '{device}' cannot be used: .*; here there is cpu") as refused:
        source(str(tmp_path), device=device)
    assert len(str(refused.value)) < 200


def test_layers_on_disk_are_read_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = replace(source(str(tmp_path)), device="cuda")
    with pytest.raises(ValueError, match="read on the CPU, and not on 'cuda'; give one of both"):
        found.model(stream_layers=True)
    assert machine(torch.device("meta"))["device"] == "cpu"
