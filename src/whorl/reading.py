"""READ BACK: the positional encoding that a model has now, stock or attached, as an encoding."""

from __future__ import annotations

from typing import Any

from whorl.attaching import attached, layer_plan
from whorl.encodings import Encoding, Layers, Spectrum, from_dict
from whorl.encodings.frequencies import Frequencies
from whorl.encodings.learned import Learned
from whorl.encodings.nope import NoPE
from whorl.encodings.p_rope import PRoPE
from whorl.encodings.partial_rope import PartialRoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.window import Window
from whorl.hosts import OpenHost, open_host, stock_spectrum

CONFIG_KEY = "whorl"  # where a saved config keeps the encoding


def encoding_of(model: Any) -> Encoding:
    """What this model has now, so that attaching it changes nothing. Reads only.

    An attached encoding is returned as it is. A stock model's is read from its buffers and tables: its base, scaling,
    partial width and windows, and the layers that it does not turn, as `Layers` where they differ. A spectrum that no
    named encoding gives (Llama 3's scaling, YaRN) is a plain `Frequencies`.

    Raises ValueError for a model without a known seam, and for a spectrum that depends on the length of the input
    (rope_type dynamic, or longrope with two lists).

    >>> whorl.encoding_of(AutoModelForCausalLM.from_pretrained("path/to/a/gpt-neox"))
    PartialRoPE(fraction=0.25, base=10000.0)
    """
    attachment = attached(model)
    if attachment is not None:
        return attachment.encoding
    host = open_host(model)
    return _recorded(host) or stock_encoding(host)


def stock_encoding(host: OpenHost, at_any_length: bool = True) -> Encoding:
    """What the host itself does, whatever is attached to it. Raises as `encoding_of` does.

    Without `at_any_length`, a spectrum that depends on the length is read as it is now.
    """
    if host.rotary is None:
        rows = host.position_table.weight.shape[0] - getattr(host.position_table, "offset", 0)
        return Learned(max_positions=rows)
    if at_any_length and host.rotary is not None:
        for layer_type in set(host.layer_types):
            _refuse_length_dependent(host, layer_type)
    rules = [_with_window(_rotary(host, i), host.windows[i]) for i in range(len(host.attentions))]
    if len(set(rules)) == 1:
        return rules[0]
    by_type = dict(zip(host.layer_types, rules, strict=True))
    if len(by_type) > 1 and all(by_type[t] == rule for t, rule in zip(host.layer_types, rules, strict=True)):
        return Layers(by_type)
    period = next(p for p in range(1, len(rules) + 1) if all(r == rules[i % p] for i, r in enumerate(rules)))
    return Layers(rules[:period])


def same_rotations(host: OpenHost, a: Encoding, b: Encoding) -> bool:
    """Whether two encodings turn every layer of a host alike, to the precision of stock float32 tables."""
    layers = zip(layer_plan(host, a).layers, layer_plan(host, b).layers, strict=True)
    return all(same_spectrum(in_stock_terms(host, x.spectrum), in_stock_terms(host, y.spectrum)) for x, y in layers)


def in_stock_terms(host: OpenHost, spectrum: Spectrum) -> Spectrum:
    """The same rotation with a frequency for every pair that the host may turn, 0 for those that were left out.

    Only where that changes no pair: where none turns, or pairs are neighbours. In halves, a pair's channels depend on
    the width.
    """
    neighbours = host.rotation is not None and host.rotation.layout == "interleaved" and spectrum.amplitude == 1
    missing = spectrum.head_dim // 2 - len(spectrum.frequencies)
    if spectrum.turning and not neighbours:
        return spectrum
    return Spectrum(spectrum.frequencies + (0.0,) * missing, spectrum.head_dim)


def same_spectrum(a: Spectrum, b: Spectrum, precision: float = 2e-6) -> bool:
    """Whether two spectra turn the same pairs by the same frequencies, to the precision of stock float32 tables."""
    return (
        a.width == b.width
        and abs(a.amplitude - b.amplitude) <= precision * b.amplitude
        and all(abs(x - y) <= precision * y for x, y in zip(a.frequencies, b.frequencies, strict=True))
    )


def _recorded(host: OpenHost) -> Encoding | None:
    """The encoding that a native save wrote beside the stock settings, if it is still what the model does."""
    record = getattr(host.model.config, CONFIG_KEY, None)
    if not isinstance(record, dict) or host.rotary is None:
        return None
    encoding = from_dict(record["encoding"])
    return encoding if same_rotations(host, stock_encoding(host), encoding) else None


def _rotary(host: OpenHost, index: int) -> Encoding:
    """One layer's own rotary encoding, by the simplest name that gives its frequencies."""
    if not host.turns[index]:
        return NoPE()
    layer_type, shape = host.layer_types[index], host.shapes[index]
    spectrum = stock_spectrum(host.rotary, layer_type, shape.head_dim)
    if spectrum is None:
        return NoPE()
    settings = _settings(host, layer_type)
    width, pairs = spectrum.width, len(spectrum.frequencies)
    turning = len(spectrum.turning)
    if turning == 0:
        return NoPE()
    # model.to(bfloat16) rounds the buffers; what the host meant is what is named.
    buffer = next(b for name, b in host.rotary.named_buffers() if name.endswith("inv_freq"))
    precision = {2: 2**-7}.get(buffer.element_size(), 2e-6)
    bases = [settings.get("rope_theta")]
    if pairs > 1 and turning > 1:
        bases.append(float((spectrum.frequencies[1] / spectrum.frequencies[0]) ** (-width / 2)))
    for base in bases:
        if base is None or not base > 1:
            continue
        for named in (
            RoPE(base=float(base)),
            PartialRoPE(fraction=width / shape.head_dim, base=float(base)),
            PRoPE(p=_fraction(turning, pairs), base=float(base)),
        ):
            if same_spectrum(named.spectrum(shape.head_dim), spectrum, precision):
                return named
    return Frequencies(spectrum.frequencies, spectrum.amplitude)


def _fraction(turning: int, pairs: int) -> float:
    """The p of p-RoPE that keeps exactly `turning` of the pairs, past the floor in its formula."""
    p = turning / pairs
    return p if int(p * 2 * pairs // 2) == turning else (turning + 0.5) / pairs


def _with_window(encoding: Encoding, size: int | None) -> Encoding:
    if size is None:
        return encoding
    return Window(size) if encoding == NoPE() else encoding + Window(size)


def _settings(host: OpenHost, layer_type: str) -> dict[str, Any]:
    config = host.rotary.config if hasattr(host.rotary, "config") else host.model.config
    settings = getattr(config, "rope_parameters", None) or {}
    return (settings.get(layer_type) if layer_type in settings else settings) or {}


def _refuse_length_dependent(host: OpenHost, layer_type: str) -> None:
    settings = _settings(host, layer_type)
    kind = settings.get("rope_type")
    static = (kind == "dynamic" and bool(settings.get("alpha"))) or (
        kind == "longrope" and settings.get("short_factor") == settings.get("long_factor")
    )
    if kind in ("dynamic", "longrope") and not static:
        raise ValueError(
            f"the spectrum of this {type(host.model).__name__} depends on the length of its input (rope_type "
            f"{kind!r}), and no encoding of whorl says that yet; attach one that says what you want instead"
        )
