"""What a host's config says of its own positional encoding, whatever is attached to the model."""

from __future__ import annotations

from typing import Any

from whorl.encodings import Known, Scaled, Shape, Spectrum
from whorl.encodings.partial_rope import PartialRoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.spectrum import base_of, same_spectrum, share_of
from whorl.hosts.protocol import Host
from whorl.hosts.transformers.rope_settings import (
    OF_POSITIONS,
    from_stock,
    length_dependent,
    of_layers,
    rope_type,
    scaled_by,
    turning_share,
)
from whorl.hosts.transformers.rotary_module import frequencies_of, stock_spectrum, stock_width
from whorl.hosts.transformers.sizes import head_dim_of


def settings_of(host: Host, layer_type: str) -> dict[str, Any]:
    """The config's `rope_parameters` for layers of a type; empty where it has none."""
    return of_layers(host.rotary.config if hasattr(host.rotary, "config") else host.model.config, layer_type) or {}


def scaling_of(host: Host, layer_type: str) -> str | None:
    """The rope type by which the host itself scales the frequencies of a layer type, or None."""
    return None if host.rotary is None else scaled_by(settings_of(host, layer_type))


def kept_of(host: Host, index: int) -> int | None:
    """The pairs of a layer that turn by the config, where it does not rotate the others (`proportional`); else None."""
    settings = {} if host.rotary is None else settings_of(host, host.layer_types[index])
    if rope_type(settings) != "proportional" or turning_share(settings) == 1:
        return None
    return int(turning_share(settings) * host.shapes[index].head_dim / 2)


def known_of(host: Host, index: int) -> Known:
    """What the host says of one layer: base, training length, and the share of the head that turns.

    The base is `rope_theta`, without the scaling that the config may ask for besides; where a family names none, that
    of the host's own frequencies. Nothing is said of a base by a host that does not turn.
    """
    fraction = _fraction(host, host.shapes[index], index)
    part = fraction
    if fraction is None and host.rotary is not None and host.turns[index]:
        whole = head_dim_of(host.rotary.config, host.attentions[index])
        part = 1.0 if host.shapes[index].head_dim < whole else None
    return Known(
        base=_base(host, index),
        train_length=trained_length(host),
        fraction=fraction,
        part=part,
    )


def trained_length(host: Host) -> int | None:
    """Tokens that the model is trained at, as far as its config says: the length before any scaling of its positions.

    `original_max_position_embeddings` where some layers are scaled, or else `max_position_embeddings`.
    """
    config, name = host.model.config.get_text_config(), "original_max_position_embeddings"
    lengths = [getattr(config, "max_position_embeddings", None)]
    for layer_type in dict.fromkeys(host.layer_types):
        if scaling_of(host, layer_type) is not None:
            lengths.append(settings_of(host, layer_type).get(name) or getattr(config, name, None))
    return min((int(length) for length in lengths if length), default=None)


def scaled_of(host: Host, index: int, spectrum: Spectrum) -> Scaled | None:
    """One layer's rotary encoding by its settings, where they depend on the length; None where they do not.

    Raises ValueError where they give other frequencies than its rotary module was built with.
    """
    layer_type, head_dim = host.layer_types[index], host.shapes[index].head_dim
    settings, config = settings_of(host, layer_type), host.rotary.config
    if not length_dependent(settings):
        return None
    base = float(settings["rope_theta"])
    inner = RoPE(base) if spectrum.width == head_dim else PartialRoPE(share_of(spectrum.width, head_dim), base)
    of_scaling = {key: value for key, value in settings.items() if key not in OF_POSITIONS}
    encoding = Scaled(inner, from_stock(of_scaling, config.max_position_embeddings))
    built = frequencies_of(host.rotary, layer_type, "original_inv_freq")
    assert built is not None, "stock keeps it where frequencies depend on the length"
    if built.device.type != "meta":
        own = spectrum.with_frequencies(built.double().tolist())
        if not same_spectrum(encoding.spectrum(head_dim), own, host.precision):
            raise ValueError(
                f"the config of this {type(host.model).__name__} says {encoding}, and its rotary module was built with "
                "other frequencies; load the model anew with the settings that you mean"
            )
    return encoding


def _base(host: Host, index: int) -> float | None:
    if host.rotary is None:
        return None
    layer_type = host.layer_types[index]
    theta = settings_of(host, layer_type).get("rope_theta")
    if theta is not None:
        return float(theta)
    spectrum = stock_spectrum(host.rotary, layer_type, host.shapes[index].head_dim)
    return None if spectrum is None else base_of(spectrum)


def _fraction(host: Host, shape: Shape, index: int) -> float | None:
    width = None if host.rotary is None else stock_width(host.rotary, host.layer_types[index])
    return share_of(width, shape.head_dim) if width and width < shape.head_dim else None
