"""READ BACK: the positional encoding that a model has now, stock or attached, as an encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whorl.attaching.filling import completed
from whorl.attaching.plan import layer_plan
from whorl.attaching.present import encoding_of_present
from whorl.attaching.records import CONFIG_KEY
from whorl.attaching.seams import attached
from whorl.encodings import Encoding, from_dict
from whorl.encodings.frequencies import Frequencies
from whorl.encodings.layers import by_layer
from whorl.encodings.learned import Learned, PositionTable
from whorl.encodings.nope import NoPE
from whorl.encodings.p_rope import PRoPE
from whorl.encodings.partial_rope import PartialRoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.spectrum import base_of, same_spectrum, share_of
from whorl.encodings.window import Window
from whorl.hosts import Host, OpenHost, host_of, in_stock_terms


def encoding_of(model: Any) -> Encoding:
    """What this model has now, so that attaching it changes nothing. Reads only.

    An attached encoding is returned as it is. A stock model's is read from its buffers and tables: its base, scaling,
    partial width and windows, and the layers that it does not turn, as `Layers` where they differ. A spectrum that no
    named encoding gives (Llama 3's scaling, YaRN) is a plain `Frequencies`.

    Where the spectrum depends on the length (rope_type dynamic, or longrope with two lists) it is a `Scaled` with the
    config's settings, and attaching that changes what the model does past the original length: whorl goes by each
    query's own context, stock by the longest row (see `whorl.attaching.contexts`).

    Raises ValueError for a model without a known seam, and for length-dependent settings that no scaling says, or that
    were changed after the model was built.

    >>> whorl.encoding_of(AutoModelForCausalLM.from_pretrained("path/to/a/gpt-neox"))
    PartialRoPE(fraction=0.25, base=10000.0)
    """
    attachment = attached(model)
    if attachment is not None:
        return encoding_of_present(model, attachment)
    host = host_of(model)
    return _recorded(host) or stock_encoding(host)


def told(model: Any) -> str:
    """`encoding_of` in words; of a spectrum that no encoding gives, why it has none."""
    try:
        return str(encoding_of(model))
    except ValueError as error:  # a spectrum that depends on the length
        return f"not one that has a name ({str(error).split(';')[0].split('. ')[0]})"


def stock_encoding(host: Host, at_any_length: bool = True) -> Encoding:
    """What the host itself does, whatever is attached to it. Raises as `encoding_of` does.

    Without `at_any_length`, a spectrum that depends on the length is read as it is now, as if it did not.
    """
    own = host.own_encoding()
    if own is not None:
        return own
    if host.table_rows is not None:
        return Learned(max_positions=host.table_rows)
    rules = [_with_window(_rotary(host, i, at_any_length), host.windows[i]) for i in range(len(host.attentions))]
    return layered(host, rules)


def layered(host: Host, rules: Sequence[Encoding]) -> Encoding:
    """One encoding of these, one per layer that attends: by the host's layer types where they tell the layers apart."""
    return by_layer(rules, host.layer_types)


def positions_of(host: OpenHost) -> int | None:
    """The positions that a model can be read at: the rows of its own table, or of the learned one that is attached."""
    attachment = attached(host.model)
    if attachment is None:
        return host.table_rows
    return min((len(m.weight) for m in attachment.modules() if isinstance(m, PositionTable)), default=None)


def same_rotations(host: Host, a: Encoding, b: Encoding) -> bool:
    """Whether two encodings turn every layer of a host alike, to the precision of stock float32 tables."""
    layers = zip(layer_plan(host, a).layers, layer_plan(host, b).layers, strict=True)
    return all(
        x.scaled == y.scaled and same_spectrum(in_stock_terms(host, x.spectrum), in_stock_terms(host, y.spectrum))
        for x, y in layers
    )


def _recorded(host: Host) -> Encoding | None:
    """The encoding that a native save wrote beside the stock settings, if it is still what the model does."""
    record = host.recorded(CONFIG_KEY)
    if not isinstance(record, dict) or "encoding" not in record or host.table_rows is not None:
        return None
    encoding = completed(host, from_dict(record["encoding"]))
    return encoding if same_rotations(host, stock_encoding(host), encoding) else None


def _rotary(host: Host, index: int, at_any_length: bool) -> Encoding:
    """One layer's own rotary encoding, by the simplest name that gives its frequencies."""
    shape, spectrum = host.shapes[index], host.own_spectrum(index)
    if spectrum is None:
        return NoPE()
    scaled = host.own_scaled(index, spectrum) if at_any_length else None
    if scaled is not None:
        return scaled
    width, pairs, turning = spectrum.width, len(spectrum.frequencies), len(spectrum.turning)
    if turning == 0 and (spectrum.amplitude == 1 or pairs == 0):
        return NoPE()
    for base in (host.says(index).base, base_of(spectrum)):
        if base is None or not base > 1:
            continue
        share = share_of(2 * turning, 2 * pairs)
        part = None if width == shape.head_dim else share_of(width, shape.head_dim)
        for named in (
            RoPE(base=float(base)),
            PartialRoPE(fraction=share_of(width, shape.head_dim), base=float(base)),
            PRoPE(p=share, base=float(base), fraction=part),
            PRoPE(p=share, base=float(base), keep="slowest", fraction=part),
        ):
            if same_spectrum(named.spectrum(shape.head_dim), spectrum, host.precision):
                return named
    return Frequencies(spectrum.frequencies, spectrum.amplitude)


def _with_window(encoding: Encoding, size: int | None) -> Encoding:
    if size is None:
        return encoding
    return Window(size) if encoding == NoPE() else encoding + Window(size)
