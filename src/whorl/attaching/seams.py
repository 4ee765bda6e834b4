"""What `attach` leaves on a model: an `Attachment` on its base model, and a `LayerSeam` on each layer that attends.

`attached(model)` and `seams_of(model)` are the ways to them, for all the rest of whorl and for others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from whorl.attaching.records import ENTRY, as_tensor, from_tensor
from whorl.encodings import Encoding, Scaled, Spectrum
from whorl.encodings.randomized import RandomPositions
from whorl.encodings.scores import ScoreModule
from whorl.hosts import Calls, bases_of, host_of
from whorl.hosts.transformers.compat import in_accelerates_sharding

INTERFACE = "whorl"  # the name of whorl's attention implementation

Term = tuple[Encoding, tuple[nn.Module, ...]]  # a part of an encoding, and its modules: other layers may have the same


@dataclass
class LayerSeam:
    """What one attention module needs of its encoding, kept in the module's `__dict__` as `whorl_seam`."""

    index: int  # this layer's place among those that attend, and
    encoding: Encoding  # what it has of the encoding that is attached,
    terms: tuple[Term, ...]  # and the parts of that
    table: int  # the index of this layer's table among those that the rotary module makes (for its layer type)
    spectrum: Spectrum  # rotates this layer's q and k; where it depends on the length, that of the original length
    scaled: Scaled | None  # an encoding whose spectrum depends on the length: it gives that of each context
    late: bool  # rotated inside the attention interface, after the cache: `scaled` layers, and those in which the host
    # has no rotation
    layout: str
    call: str  # how the host's code takes the tables: see `whorl.hosts.Rotation`
    biases: tuple[nn.Module, ...]
    scales: tuple[nn.Module, ...]  # multiply a query's logits
    scores: tuple[ScoreModule, ...]  # change attention by content
    in_mask: bool  # biases are added to the mask argument: the host does not use the attention interface
    in_interface: bool  # the model needs whorl's attention implementation
    impl: str  # the implementation of `rotate`
    attention: str  # the implementation of `biased_attention`
    forward: Callable[..., Any] | None  # the class's forward, which calls whorl's rotation in place of its own
    calls: Calls
    bidirectional: bool  # a query also sees later keys, so that no mask may mean all of them
    first: bool = False  # the first of the model's layers
    does: tuple[Any, ...] = ()  # what the encoding does to every layer, however it is written
    notation: str = ""  # the encoding as a user writes it, for errors
    part: str = ""  # the name of the part of the model that has it, for errors
    caches: WeakSet[Any] = field(default_factory=WeakSet)  # those that were filled by the first layer's model

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerSeam:
        terms, biases, scales, scores = copy.deepcopy((self.terms, self.biases, self.scales, self.scores), memo)
        return replace(self, terms=terms, biases=biases, scales=scales, scores=scores, caches=WeakSet())

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """What may have learned something, in this layer or for all of them."""
        return tuple(module for _, modules in self.terms for module in modules)

    @property
    def keeps_state(self) -> bool:
        """Whether something is asked of every token and kept beside its key."""
        return any(score.keeps_state for score in self.scores)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "pickle and torch.save(model) would lose the positional encoding that whorl attached; "
            "use whorl.save(model, directory) (of transformers, model.save_pretrained too) and whorl.load(directory), "
            "or whorl.detach(model) first; model.state_dict() keeps weights and encoding"
        )


class Attachment(nn.Module):
    """The encoding that a model carries, and its learned parameters; found at `base_model.whorl`."""

    def __init__(self, encoding: Encoding, effects: list[nn.Module], attention_was: str | None) -> None:
        super().__init__()
        self.encoding = encoding
        self.effects = nn.ModuleList(effects)
        self.attention_was = attention_was
        self.in_save = ""  # while the model's own save_pretrained runs: "stock" where nothing of whorl is written
        self.stock_directory = False  # whether the directory of the model's name says this encoding in stock terms
        self.silenced: tuple[bool, ...] = ()  # which of what is `taken_out` of the host learned before
        self.kept_as: tuple[str, str, int] | None = None  # a learned table, by its name here, that stock terms keep as
        # the host's own, by its name in the base, after so many rows
        self.layers = 0  # how many attend, as it was attached
        self.as_loaded: dict[str, str] = {}  # a digest of each learned parameter as a directory had it, by name
        self.hooks: list[RemovableHandle] = []  # on other modules, until this is taken off again
        self.register_state_dict_post_hook(_left_out)

    @property
    def reposition(self) -> RandomPositions | None:
        """What changes the positions that all the others see, where something does."""
        return next((effect for effect in self.effects if isinstance(effect, RandomPositions)), None)

    def get_extra_state(self) -> torch.Tensor:
        """The encoding, which so goes wherever the weights go: see `whorl.attaching.keeping`."""
        return as_tensor(self.encoding)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Raises ValueError for weights that were trained with another encoding."""
        theirs = from_tensor(state)
        if theirs != self.encoding:
            raise ValueError(
                f"these weights were trained with {theirs}, and the model has {self.encoding} attached; attach theirs "
                "before loading them (their own directory loads with whorl.load)"
            )

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, strict: Any, missing: Any, *a: Any) -> None:
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, *a)
        if prefix + ENTRY in missing:  # a stock model's weights, or older than this entry
            missing.remove(prefix + ENTRY)

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        """With the model that it is a part of. Raises ValueError for a copy by itself, which nothing would ask: the
        layers go by the encoding that they were given (PEFT trains such a copy, and saves it)."""
        if not memo:
            raise ValueError(
                f"a copy of {self.encoding} by itself is no part of the model, whose layers would not go by it. Leave "
                "'whorl' out of PEFT's modules_to_save: whorl.attached(model).requires_grad_(True) after "
                "get_peft_model trains the encoding's own parameters, and merge_and_unload().save_pretrained keeps them"
            )
        found = memo[id(self)] = type(self).__new__(type(self))
        found.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return found

    def extra_repr(self) -> str:
        return str(self.encoding)


def _left_out(attachment: Attachment, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Takes out of a state dict what whoever asks for it has no place for."""
    sharding = in_accelerates_sharding()
    if attachment.in_save == "stock" or sharding:
        del state[prefix + ENTRY]
    if sharding:  # nothing but parameters
        parameters = {prefix + name for name, _ in attachment.named_parameters()}
        for name in [k for k in state if k.startswith(prefix) and k not in parameters]:
            del state[name]


def attached(model: Any) -> Attachment | None:
    """What `attach` has put on this model, wrapped or not, or None. One that is on a model inside it is not its own."""
    for base in bases_of(model):
        found = dict(base.named_children()).get("whorl")
        if isinstance(found, Attachment):
            return found
    return None


def attached_encoding(model: Any) -> Encoding | None:
    """The encoding that `attach` has put on this model, or None: what its weights go by in place of its config's."""
    found = attached(model)
    return None if found is None else found.encoding


def attachments_in(model: Any) -> dict[str, Attachment]:
    """What `attach` has put on this model, by the empty name, and on models inside it (a tower), by their names."""
    own = attached(model)
    found = {name: part for name, part in model.named_modules() if isinstance(part, Attachment)}
    return {"" if part is own else name.rpartition(".")[0]: part for name, part in found.items()}


def attached_to_parts(model: Any) -> dict[str, Encoding]:
    """The encodings on models inside this one, by the names of these."""
    return {at: part.encoding for at, part in attachments_in(model).items() if at}


def seam_of(attention: Any) -> LayerSeam | None:
    """The seam on one attention module; None where nothing is attached to it."""
    seam: LayerSeam | None = attention.__dict__.get("whorl_seam")
    return seam


def seams_of(model: Any) -> tuple[LayerSeam | None, ...]:
    """What `attach` has put on each layer that attends, in their order: None for layers of a stock model.

    model: a model, wrapped or not, or one that is open already (a `Host`). Raises ValueError for a model without a
    known seam. They are to be read: what a layer turns by is its `spectrum` (`scaled`, where that goes by the length of
    the context), what is added to its logits are its `biases`, what multiplies them its `scales`, what goes by content
    its `scores`.

    >>> [len(seam.spectrum.turning) for seam in seams_of(whorl.attach(model, "hope:train_length=16/nope"))]
    [1, 0, 1]
    """
    return tuple(seam_of(attention) for attention in host_of(model).attentions)
