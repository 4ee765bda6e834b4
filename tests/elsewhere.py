"""A device that is pretended, for machines without a GPU: what is on it says so, and meets nothing that is not.

    with elsewhere.there():
        model.to(elsewhere.DEVICE)(ids)  # raises, as a GPU would, for ids that were left on the CPU

Its tensors lie on the CPU, and every operation on them is that of the CPU. What does not depend on speed can be asked
of it: whether all that a model is given was moved to where it is, and what comes of it was moved back. Without
gradients. It changes PyTorch for the whole process (a device more), so that those who ask do so in one of their own:

    python -m tests.elsewhere FOLDER JOB...  reads models on it and on the CPU (see `test_devices.py`)
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "elsewhere"
DEVICE = f"{NAME}:0"
MISSING = not hasattr(backend_registration, "_setup_privateuseone_for_python_backend")  # an earlier PyTorch

aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default, aten.lift_fresh.default)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
AT_ONCE = {aten._conj.default: aten._conj_physical.default}  # these tensors have no bit for what is done later


class Elsewhere(torch.Tensor):
    """A tensor that says it is on the device, and holds one of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(DEVICE),
        )  # fmt: skip
        made.held = held
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], meta: None, size: Any, stride: Any) -> Elsewhere:
        return Elsewhere(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(f, args, kwargs or {})


def _run(f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on what the tensors hold. Its result is on the device that was asked for, or on theirs.

    Raises RuntimeError for tensors of two devices. Single numbers may be on the CPU, and indices of what is there.
    """
    there = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Elsewhere)]
    met = [*args[:1], *args[2:]] if f in INDEXING and isinstance(args[0], Elsewhere) else args
    here = [x for x in tree_leaves((met, kwargs)) if isinstance(x, torch.Tensor) and not isinstance(x, Elsewhere)]
    if there and f not in MOVES and any(x.dim() for x in here):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {DEVICE} and cpu, in {f}")
    device = kwargs.get("device")
    if device is not None:
        away = torch.device(device).type == NAME
        kwargs = {**kwargs, "device": "cpu" if away else device}
    else:
        away = isinstance(args[0], Elsewhere) if f in MOVES else bool(there)
    known = {id(x.held): x for x in there}
    held_args, held_kwargs = tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, (args, kwargs))
    found = AT_ONCE.get(f, f)(*held_args, **held_kwargs)
    if not away:
        return found
    return tree_map(lambda x: _on(x, known) if isinstance(x, torch.Tensor) else x, found)


def _on(held: torch.Tensor, known: dict[int, Elsewhere]) -> Elsewhere:
    """A result on the device: what was given, where an operation in place gives it back."""
    return known[id(held)] if id(held) in known else Elsewhere(held)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(f, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Of Python's functions, those that make tensors of a list or a list of tensors past the operations."""

    def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if f in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return f(*args, **kwargs).to(device)
        if f is torch.Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].held.tolist()
        return f(*args, **kwargs)


@contextlib.contextmanager
def there() -> Iterator[None]:
    """In it the device is there."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        backend_registration._setup_privateuseone_for_python_backend(NAME)
    inference = torch.inference_mode  # in which operations are not taken apart, nor may these tensors be made
    torch.inference_mode = lambda on=True: torch.no_grad() if on else contextlib.nullcontext()  # type: ignore
    try:
        with _Operations(), _Functions(), torch.no_grad():
            yield
    finally:
        torch.inference_mode = inference  # type: ignore[misc]


def _evaluated(model: str, text: str, out: Path, device: str) -> tuple[str, dict[str, Any]]:
    from whorl.evaluation import evaluate

    how: dict[str, Any] = {"lengths": ["32", "64"], "windows": 2, "sequences": 2, "tail": 8}
    found = evaluate(model, text=text, out=out, device=device, **how)
    return found.machine.device, {"rows": [asdict(row) for rows in found.rows.values() for row in rows]}


def _inspected(model: str, text: str, out: Path, device: str) -> tuple[str, dict[str, Any]]:
    from whorl.inspection.reporting import run

    how: dict[str, Any] = {"length": 160, "windows": 2, "random_windows": 2, "ablate": True}
    (found,) = run([model], text=text, out=out, device=device, **how)
    return found.summary.machine["device"], dict(found.arrays)


def _seen(model: str, text: str, out: Path, device: str) -> tuple[str, dict[str, Any]]:
    from whorl.inspection.image_reporting import run

    (found,) = run([model], images=2, size="32x48", out=out, device=device)
    return found.summary.machine["device"], dict(found.arrays)


def _extended(model: str, text: str, out: Path, device: str) -> tuple[str, dict[str, Any]]:
    """With the device in the place of the GPU that it would take; saved from the CPU, whose memory has addresses."""
    from whorl import sources
    from whorl.conversion import extending
    from whorl.conversion.folders import extend

    placed, save, used = sources.placed, extending.save, []

    def on(model: Any, asked: str | None = None) -> Any:
        used.append(str(placed(model, device).device))
        return model

    sources.placed, extending.save = on, lambda model, *rest: save(model.to("cpu"), *rest)  # type: ignore[assignment]
    try:
        found = extend(model, 192, text=text, windows=2, needle=True, out=out)
    finally:
        sources.placed, extending.save = placed, save
    return used[0], {
        "tried": [asdict(one) for one in found.tried],
        "needle": [asdict(row) for row in found.needle or ()],
    }


JOBS = {"evaluate": _evaluated, "inspect": _inspected, "images": _seen, "extend": _extended}


def main() -> None:
    """Does each job on both devices, and writes what comes of it beside the models: JOB-MODEL.pickle."""
    folder = Path(sys.argv[1])
    for job, model in (one.split("-") for one in sys.argv[2:]):
        found: Any
        try:
            with there():
                found = [
                    JOBS[job](
                        str(folder / model),
                        str(folder / "text"),
                        folder / "out" / f"{job}-{model}-{device[:3]}",
                        device,
                    )
                    for device in ("cpu", DEVICE)
                ]
        except Exception:
            found = traceback.format_exc()
        (folder / f"{job}-{model}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
