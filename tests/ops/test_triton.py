"""How the Triton kernel is launched. What it computes is in test_rotation_kernels.py, and on a GPU in test_gpu.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from whorl.encodings import parse
from whorl.ops import rotate, rotation_tables
from whorl.ops.impl import triton as impl
from whorl.ops.rotation import _checked

if impl._not_installed():
    pytest.skip("triton is not installed", allow_module_level=True)


class Kernel:
    """Keeps what it is given, in the place of one that Triton has compiled, or is to compile."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.made: list[Kernel] = []

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        def launch(*arguments: Any, **how: Any) -> Kernel:
            self.calls.append((grid, *arguments))
            self.made.append(Kernel())
            return self.made[-1]

        return launch


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    triton, language, _ = impl._triton()
    _checked.cache_clear()  # a problem that was equal keeps its launch
    fake = type("Module", (), {"turn": Kernel()})
    monkeypatch.setattr(impl, "_triton", lambda: (triton, language, fake))
    yield fake.turn
    _checked.cache_clear()


def turned(memory: torch.Tensor, offset: int = 0) -> torch.Tensor:
    q = memory[offset : offset + 2 * 3 * 5 * 16].view(2, 3, 5, 16)
    rotate(q, None, rotation_tables(parse("rope").spectrum(16), torch.arange(5)), impl="triton", inplace=True)
    return q


def test_triton_is_asked_for_a_kernel_once(kernel: Kernel) -> None:
    """The next calls go to what it gave, with the same arguments and their own addresses."""
    first, second = turned(torch.zeros(1000)), turned(torch.ones(1000))
    assert len(kernel.calls) == 1
    assert kernel.calls[0][1] is first
    assert len(kernel.made[0].calls) == 1
    assert kernel.made[0].calls[0][1] == second.data_ptr()
    assert kernel.made[0].calls[0][7:] == kernel.calls[0][7:], "all but the grid and six tensors"
    assert kernel.made[0].calls[0][0] == kernel.calls[0][0]


def test_memory_that_begins_elsewhere_gets_a_kernel_of_its_own(kernel: Kernel) -> None:
    """Triton loads 16 bytes at once where addresses are multiples of that."""
    memory = torch.zeros(1000)
    for offset in (0, 1, 4, 1):
        turned(memory, offset)
    assert len(kernel.calls) == 2
    assert [len(made.calls) for made in kernel.made] == [1, 1]


@pytest.mark.parametrize("current", [0, 1])
def test_it_is_launched_on_the_device_of_its_tensors(current: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model lies on several, the current one is not always theirs."""
    entered: list[int] = []

    @contextmanager
    def device(index: int) -> Any:
        entered.append(index)
        yield

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device", device)
    launched: list[Any] = []
    monkeypatch.setattr(impl, "_Launch", lambda problem: launched.append)
    x = (torch.Size((1, 1, 1, 2)), (2, 2, 2, 1), torch.float32, torch.device("cuda:1"))
    table = (torch.Size((1, 1, 1)), (1, 1, 1), torch.float32, torch.device("cuda:1"))
    problem = impl.RotationProblem(x, None, table, table, 0, 2, "half", 1, 1, True)
    q, cos = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1)
    impl.run(problem, [q], [q], cos, cos)
    assert len(launched) == 1
    assert entered == ([1] if current == 0 else [])
