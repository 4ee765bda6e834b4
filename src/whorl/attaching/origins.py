"""Which encoding the keys of a cache were made under.

Keys are those of hidden states, and most of rotations, that a model gives under one encoding alone. So the first layer
of a forward marks the cache that it is about to fill, and raises where keys in it were made under another encoding: by
the model before `attach`, by another model, or by hand. A model whose encoding has been taken off has no layer that
would ask; `close` makes the caches that it filled refuse what it would put into them.

Prompts that PEFT has learned (prefix tuning) are keys that no encoding has made, and go on under any.
"""

from __future__ import annotations

import types
from typing import Any

import torch

from whorl.attaching.seams import LayerSeam
from whorl.hosts.transformers import compat
from whorl.ops.derivatives import exporting

MARK = "whorl_encoding"  # of a cache: what its encoding did to every layer, and the encoding in words
AGAIN = "Begin with a new cache, and give the whole text again"


def check(seam: LayerSeam, cache: Any) -> None:
    """Marks a cache as filled under the encoding of this seam. Raises ValueError where keys in it were not.

    cache: what the first layer got for `past_key_values`, before its keys join it; None is passed over.
    """
    cache = getattr(cache, "self_attention_cache", cache)
    own = getattr(cache, "__dict__", None)
    if own is None:
        return
    if torch.compiler.is_compiling():  # which cannot look at what there is and choose
        if not exporting():
            setattr(cache, MARK, (seam.does, seam.notation))
        return
    does, filled = own.get(MARK, (None, None))
    if does is not seam.does and does != seam.does and (held := int(cache.get_seq_length())) > 0:
        if filled is not None:
            raise ValueError(
                f"this cache was filled with {filled} attached, and now {seam.notation} is: its keys are not those "
                f"that the model would give. {AGAIN}"
            )
        if not compat.in_prompt_learning():
            raise ValueError(
                f"this cache holds {held} keys that were not made with {seam.notation}, which is attached: they came "
                f"from the model before it was, from another model or by hand, and would be taken for its own. {AGAIN}"
            )
    own[MARK] = seam.does, seam.notation
    own.pop("update", None)  # of `close`
    seam.caches.add(cache)


def close(seam: LayerSeam) -> None:
    """Lets no more keys into the caches that were filled through this seam, until its encoding is attached again."""
    for cache in list(seam.caches):
        cache.__dict__["update"] = types.MethodType(update, cache)


# Under the name of a cache's own method, by which pickle finds that.
def update(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Raises ValueError while the cache holds keys; one that has been emptied is as any other."""
    if int(self.get_seq_length()) > 0:
        raise ValueError(
            f"this cache was filled with {self.__dict__[MARK][1]} attached, which has been taken off since: its keys "
            f"are not those that the model would give. {AGAIN}"
        )
    for name in ("update", MARK):
        del self.__dict__[name]
    return self.update(*args, **kwargs)
