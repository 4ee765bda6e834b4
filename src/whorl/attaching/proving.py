"""A forward that shows whether the seams that were found carry a host's own encoding."""

from __future__ import annotations

import torch

from whorl.attaching.placing import put_on, take_off
from whorl.attaching.plan import Plan, layer_plan
from whorl.attaching.reading import stock_encoding
from whorl.attaching.seams import attached
from whorl.attaching.turns import watched
from whorl.encodings import Spectrum
from whorl.hosts import KNOWN, Host


@torch.no_grad()
def prove(host: Host, late: bool = False) -> None:
    """For a family that no test covers: attaching what it has must leave the logits of a few tokens as they were.

    late: rotated in the attention interface, as a spectrum that depends on the length must be.

    Raises ValueError, with the model unchanged, when the seams that were found do not carry the host's own encoding.
    """
    model = host.model
    training = model.training
    model.eval()
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    turned: set[int] = set()
    try:
        stock = host.probe()
        if stock is None:
            return
        stock = stock.float()
        if not torch.isfinite(stock).all():
            raise ValueError("its own logits are not finite; whorl.doctor(model) says which values are not")
        own = stock_encoding(host, at_any_length=False)  # these tokens are few
        plan = layer_plan(host, own)
        for index, seam in enumerate(plan.layers):
            seam.forward = watched(host, index, turned.add)
        if late:
            _turn_late(plan)
        put_on(host, own, plan)
        moved = _moved(host, stock)
        scale = float(stock.abs().max())
        allowed = max(1e-3, 16 * torch.finfo(dtype).eps) * scale  # stock tables are rounded to the model's dtype
        finding = None if moved <= allowed else f"its logits moved by {moved:.2g}, of {scale:.2g}"  # nan is no proof
        still = [index for index, turns in enumerate(host.turns) if turns and index not in turned]
        if still:
            finding = f"its layers {still} turned out to have no rotation, which whorl has to be told"
    except Exception as error:
        finding = f"it failed with {type(error).__name__}: {error}"
    finally:
        attachment = attached(model)
        if attachment is not None:
            take_off(host, attachment)
        model.train(training)
    if finding is not None:
        name, doubt = type(model).__name__, host.doubt()
        looked = (
            f"{name} looks like a family that whorl knows, but with its own encoding "
            f"attached{' to its attention interface' * late} {finding}"
        )
        raise ValueError(
            f"no known seam in {host.named}: {doubt or looked}; {KNOWN}, and "
            "CONTRIBUTING.md, 'add a host', how to add one"
        )


def _moved(host: Host, stock: torch.Tensor) -> float:
    """By how much the output is another now; NaN where it is no number."""
    now = host.probe()
    assert now is not None
    return float((now.float() - stock).abs().max())


def _turn_late(plan: Plan) -> None:
    """Changes a plan: what the host's own rotation would rotate is rotated in the attention interface."""
    for spectra in plan.spectra.values():
        spectra[:] = [Spectrum((), spectrum.head_dim) for spectrum in spectra]
    for seam in plan.layers:
        seam.late, seam.in_interface = bool(seam.spectrum.turning), True
    plan.needs_interface = True
