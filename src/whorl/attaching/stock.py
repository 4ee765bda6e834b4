"""How stock transformers says an encoding, where it can; or whatever library a host is of (`Host.stock_form`)."""

from __future__ import annotations

from typing import Any

from whorl.attaching.filling import filled
from whorl.attaching.plan import layer_plan
from whorl.attaching.reading import encoding_of
from whorl.attaching.seams import attached, attached_to_parts
from whorl.encodings import Encoding, Spectrum
from whorl.hosts import StockForm, host_of, in_stock_terms


def stock_form(model: Any, encoding: Encoding | None = None) -> StockForm | str:
    """How stock transformers says this encoding (default: the model's own) on this model, or the reason why it cannot.

    Raises ValueError for a model without a known seam.
    """
    host = host_of(model)
    if on_parts := attached_to_parts(host.model):
        return ", ".join(f"{its} is attached to its part {at}" for at, its in on_parts.items())
    encoding = encoding_of(model) if encoding is None else filled(host, encoding)
    if host.table_rows is not None:
        attachment = attached(host.model)
        return host.stock_table(encoding, None if attachment is None else next(attachment.parameters(), None))
    if host.reads_images:
        return f"{host.stock} has no config to say it in"
    plan = layer_plan(host, encoding)
    scaled = next((seam.scaled for seam in plan.layers if seam.scaled is not None), None)
    if scaled is not None:
        return (
            f"{host.stock} turns a whole batch by the spectrum of its longest row, and leaves keys in its cache as "
            f"they came; {scaled} goes by each query's own context, which past the original length is something else"
        )
    if any("positions" in term.kinds for term in encoding.for_layer(0, host.layer_types[0]).terms):
        return f"{host.stock} draws no positions in training"
    if plan.add is not None:
        return f"{host.stock} adds nothing to its embedding"
    if any(seam.biases for seam in plan.layers):
        return f"{host.stock} has no place for a bias (a window other than its own is one)"
    if any(seam.scales or seam.scores for seam in plan.layers):
        return f"{host.stock} has no place for what multiplies logits or goes by content"
    if any(seam.late for seam in plan.layers):
        return f"{host.stock} does not turn some of the layers that {encoding} turns"
    wanted: dict[str, Spectrum] = {}
    for turns, layer_type, seam in zip(host.turns, host.layer_types, plan.layers, strict=True):
        if not turns:
            continue
        label = layer_type if host.typed else ""
        first = wanted.setdefault(label, seam.spectrum)
        if in_stock_terms(host, first) != in_stock_terms(host, seam.spectrum):
            return f"{host.stock} has one spectrum for {'layers of a type' if host.typed else 'all its layers'}"
    return host.stock_form(encoding, wanted)
