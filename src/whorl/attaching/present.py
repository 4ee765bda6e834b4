"""The layers that a model has now, where some were taken out or moved after `attach` (pruning by depth).

Each layer goes on with the encoding that it was given. What whorl says of the model, and saves, goes by their places
now: an encoding that differs by layer is written for them anew, and what layers have learned is put in their order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from whorl.attaching.plan import layer_plan
from whorl.attaching.seams import Attachment, LayerSeam, seams_of
from whorl.encodings import Encoding
from whorl.encodings.layers import Layers, by_layer
from whorl.hosts import host_of


def encoding_of_present(model: Any, attachment: Attachment) -> Encoding:
    """The attached encoding, by the places that layers have now.

    Raises ValueError where a layer came after an encoding that differs by layer was attached, and so has none of them.
    """
    if not isinstance(attachment.encoding, Layers):
        return attachment.encoding
    host = host_of(model)
    seams = seams_of(host)
    if _as_attached(seams, attachment):
        return attachment.encoding
    each = [seam.encoding for seam in seams if seam is not None]
    if len(each) < len(seams):
        new = [index for index, seam in enumerate(seams) if seam is None]
        raise ValueError(
            f"layers {new} of this {type(host.model).__name__} came after {attachment.encoding} was attached, which "
            "differs by layer and is not in them; whorl.detach(model), and attach to the layers that it has now"
        )
    return by_layer(each, host.layer_types) if all(host.turns) else Layers(each)


def follow_layers(model: Any, attachment: Attachment) -> None:
    """Brings what is attached in line with the layers that the model has now, before it is kept.

    Raises ValueError where that cannot be: a layer was copied, or came later, and the encoding learns in each layer.
    """
    host = host_of(model)
    seams = seams_of(host)
    if _as_attached(seams, attachment):
        return
    encoding = encoding_of_present(model, attachment)
    ours = list(attachment.effects)
    users = [[i for i, s in enumerate(seams) if s is not None and _is_among(m, s.modules)] for m in ours]
    # By the first layer that has each, and in a layer as they were.
    modules = [m for m, layers in sorted(zip(ours, users, strict=True), key=lambda pair: pair[1][:1]) if layers]
    copies = [m for s in seams if s is not None for m in s.modules if not _is_among(m, ours) and _learns(m)]
    anew = layer_plan(host, encoding).modules
    if copies or _shapes(modules) != _shapes(anew):
        raise ValueError(
            f"{attachment.encoding} has learned parameters, and the layers of this "
            f"{type(host.model).__name__} are not those any more that it was attached to, nor some of them: a layer "
            "was copied or added. whorl.detach(model), attach to the layers that it has now, and train again"
        )
    if [_constants(m) for m in modules] != [_constants(m) for m in anew]:
        raise ValueError(
            f"{attachment.encoding} goes by the number of a layer, and layers of this {type(host.model).__name__} were "
            "taken out or moved: with the numbers that they have now they would do something else. "
            "whorl.detach(model), and attach to the layers that it has now"
        )
    attachment.encoding, attachment.effects = encoding, nn.ModuleList(modules)
    attachment.layers = len(seams)
    for index, seam in enumerate(seams):
        if seam is not None:
            seam.index, seam.first = index, index == 0


def _as_attached(seams: tuple[LayerSeam | None, ...], attachment: Attachment) -> bool:
    return [None if seam is None else seam.index for seam in seams] == list(range(attachment.layers))


def _is_among(module: nn.Module, modules: Iterable[nn.Module]) -> bool:
    return any(module is other for other in modules)


def _shapes(modules: Iterable[nn.Module]) -> list[Any]:
    return [(type(m), [(name, p.shape) for name, p in m.named_parameters()]) for m in modules]


def _constants(module: nn.Module) -> dict[str, Any]:
    """The numbers that it was made with."""
    return {name: it for name, it in vars(module).items() if isinstance(it, int | float | tuple) and name != "training"}


def _learns(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
