"""What every result says of where it comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import whorl
from whorl import provenance
from whorl.results.trial import Machine

REPO = Path(__file__).parents[1]


def test_a_cpu_is_known_by_its_vector_instructions() -> None:
    told = provenance.machine()
    found = Machine(**told | {"instructions": tuple(told["instructions"])})
    assert found.threads == torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    for name, flag in (("AVX2", "avx2"), ("AVX512", "avx512f")):
        if capability == name:  # as PyTorch asks the CPU itself
            assert flag in found.instructions
    assert not {"fpu", "sse2", "smep", "hypervisor"} & set(found.instructions)


def test_versions_have_whorls_own_and_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = provenance.versions("torch")
    assert (found["whorl"], found["torch"]) == (whorl.__version__, torch.__version__)
    if (REPO / ".git").exists():
        head = subprocess.run(["git", "-C", str(REPO), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
        assert head.startswith(found["commit"].removesuffix("-dirty"))
    monkeypatch.setattr(whorl, "__file__", str(tmp_path / "site-packages" / "whorl" / "__init__.py"))
    provenance._commit.cache_clear()
    assert "commit" not in provenance.versions()
    provenance._commit.cache_clear()
