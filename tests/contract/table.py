"""docs/families.md, made by asking tiny models of every family: `python -m tests.contract.table` writes it anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import whorl
from whorl.attaching.stock import stock_form
from whorl.encodings import parse
from whorl.hosts import ENCODERS, FAMILIES, IMAGES, StockForm, head_dim_of, host_of, open_host
from whorl.testing import tiny_image_model, tiny_model

from . import COMPOSED, CONTENT, DECODERS, ENCODINGS, ON_GRIDS, ROTARY_AND_BIAS, packs, refused

PATH = Path(__file__).parents[2] / "docs" / "families.md"

HEAD = """# Families and encodings

Made by `python -m tests.contract.table` from tiny models of every family, and checked by the tests (`tests/contract`),
which also hold every open cell to the contract: attaching what a model has changes nothing, detaching gives back the
bits, cached decoding equals a full forward, gradients flow, and on fourteen families a good deal more.

- **stock**: attaches, and is saved in stock terms: `from_pretrained` gives the same logits where there is no whorl
- **whorl**: attaches, and is saved under whorl's own key: `whorl.load` restores it, and a stock load fails and says so
- a number: cannot be done; the reason stands below

"""

TAIL = """
*pairs*: which channels turn together. *width*: how much of a head may turn: all of it, any part, or a part that the
family's code fixes; a spectrum's head dim is that width. *layers*: what the family itself can declare (and keeps):
windows, layers without rotary, one rope setting per layer type. *packing*: whether stock code keeps packed documents
apart by `position_ids`; where it does not, whorl cannot either.

A family that is not listed works if its seams look like those of the listed ones: its own encoding is attached first,
and must leave the logits of a few tokens as they were. Otherwise attaching raises and says what was looked for.

In a model that also sees or hears (Gemma 3, LLaVA, Qwen2-Audio, ...), the text's layers get the encoding and the towers
stay as they were. Attaching refuses by name what has no place for an encoding or none yet: encoder-decoders (T5, BART,
Whisper), models without attention (Mamba), and most multi-head latent attention (DeepSeek V2 and V3; MiniCPM 3's
opens).

In Qwen2-VL, Qwen2.5-VL and Qwen3-VL (their mixtures of experts and their text alone, too) a token has three positions:
a time, a row and a column (M-RoPE, 2409.12191). Each pair of channels goes by one of them. Encodings that rotate by
fixed frequencies attach to these models: `rope`, `hope`, `p-rope`, `partial-rope`, their scalings but those that go by
the length of the context, and `nope`. Each pair keeps the position that it goes by in the model (`mrope_section`, in
one run or interleaved), and `hope` keeps the pairs whose turn fits in the training length, whichever position they go
by. Biases, windows and encodings by content (and so `drope`, which scales logits) are refused: between the pieces of an
image there is no one distance. Others with three positions (GLM-4V, Qwen3.5, the Omni models) are refused by name.

```python
model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained("path/to/model")
whorl.attach(model, "hope:train_length=32768")  # the text's layers; model.model.visual is a model of its own
inputs = processor(text=[prompt], images=[image], return_tensors="pt")
model.generate(**inputs, max_new_tokens=64)
```

In a text the three positions are one, and so `whorl doctor`, `inspect`, `evaluate`, `extend`, `convert` and `export
--runtime hf` read these models, with a text, as any other; `whorl compare` trains decoders of texts alone. What they
measure says nothing of images. `whorl.encoding_of` names the frequencies; which pair goes by what is
`whorl.hosts.host_of(model).pair_axes`: 0 for the time, 1 for the row, 2 for the column.
"""


IMAGES_HEAD = """
## Images

Families of image models, here for 32 x 32 pixels in patches of 8 x 8; [images](images.md) says how it is done. They are
held to the same: attaching what a model has changes nothing, detaching gives back the bits, and images of any height
and width, also not square, come out as from a plain attention in float64. timm's are in [images](images.md#timm).

"""


def cell(model: Any, encoding: str) -> str:
    """ "stock", "whorl", or the message with which attaching was refused."""
    try:
        whorl.attach(model, encoding)
    except ValueError as error:
        return str(error)
    return "stock" if isinstance(stock_form(model), StockForm) else "whorl"


def row(family: str) -> dict[str, str]:
    """One family's row: its facts, then a cell per encoding."""
    model = tiny_model(family)
    host = open_host(model)
    head_dim = head_dim_of(model.config, host.attentions[0])
    layers = ["windows"] * any(host.windows) + ["unturned"] * (host.rotary is not None and not all(host.turns))
    facts = {
        "pairs": "half" if host.rotation is None else host.rotation.layout,
        "width": "all" if host.shapes[0].head_dim == head_dim else f"{host.shapes[0].head_dim / head_dim:g}, fixed",
        "layers": ", ".join([*layers, *["by type"] * host.typed]) or "alike",
        "packing": "yes" if packs(family) else "no",
    }
    if host.rotation is not None and host.rotation.free:
        facts["width"] = "any"
    by_positions = {name: cell(model, e) for name, e in ENCODINGS.items() if name not in CONTENT}
    return {**facts, **by_positions}


def page() -> str:
    """The whole page."""
    rows = {family: row(family) for family in FAMILIES}
    reasons: list[str] = []

    def shown(value: str) -> str:
        if len(value) < 20:
            return value
        if value not in reasons:
            reasons.append(value)
        return str(reasons.index(value) + 1)

    columns = list(next(iter(rows.values())))
    lines = [f"| family | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    lines += [f"| {family} | {' | '.join(map(shown, cells.values()))} |" for family, cells in rows.items()]
    native = {name: sum(rows[f][name] == "stock" for f in DECODERS) for name in ENCODINGS if name not in CONTENT}
    listed = ", ".join(f"{count} ({name})" for name, count in native.items() if count)
    summary = (
        f"\n{len(DECODERS)} decoder families and {len(ENCODERS)} encoders, {len(native)} encodings; "
        f"{len(open_families(rows))} decoder families are open to all rotary and bias encodings.\n"
        f"Saved in stock terms on {listed} decoder families.\n"
    )
    contextual = by_content(shown)
    numbered = [f"{i}. {reason}" for i, reason in enumerate(reasons, 1)]
    composed = [
        f"- `{encoding}` on {family}: {cell(tiny_model(family), encoding)}"
        for encoding in COMPOSED
        for family in FAMILIES
        if refused(family, encoding)
    ]
    beyond = (
        f"\nOf compositions, {', '.join(f'`{e}`' for e in COMPOSED)} are under the same contract. "
        "What cannot be done:\n\n" + "\n".join([*numbered, *composed]) + "\n"
    )
    return HEAD + "\n".join(lines) + "\n" + summary + contextual + beyond + shifts() + TAIL + of_images()


def by_content(shown: Callable[[str], str]) -> str:
    """The encodings that go by content or lengths, one a row: by how many families they can be had, and by which not.

    shown: the number of a reason."""
    if not CONTENT:
        return ""
    found: dict[str, dict[str, str]] = {name: {} for name in CONTENT}
    for family in FAMILIES:
        model = tiny_model(family)
        for name in CONTENT:
            found[name][family] = _unnamed(cell(model, ENCODINGS[name]), name)
    lines = ["| encoding | decoders | encoders | not on (why) |", "| --- | --- | --- | --- |"]
    for name, cells in found.items():
        counts = [f"{sum(cells[f] == 'whorl' for f in group)} of {len(group)}" for group in (DECODERS, ENCODERS)]
        not_on = ", ".join(f"{family} ({shown(why)})" for family, why in cells.items() if why != "whorl")
        lines.append(f"| {name} | {' | '.join(counts)} | {not_on or 'nothing'} |")
    return (
        f"\nThe {len(CONTENT)} encodings below go by content or by how many keys a query sees, or turn by angles that "
        "are learned. They run in whorl's own\nattention, and are saved under whorl's own key:\n\n"
        + "\n".join(lines)
        + "\n"
    )


def of_images() -> str:
    """The families of images, one a row: their own encoding, and what they can be given."""
    columns = ("family", "its own", "tokens before the patches", *ON_GRIDS)
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for family in IMAGES:
        model = tiny_image_model(family)
        own, patches = str(whorl.encoding_of(model)), host_of(model).patches
        cells = [cell(model, encoding) for encoding in ON_GRIDS]
        lines.append(f"| {family} | `{own}` | {patches.prefix} | {' | '.join(cells)} |")
    return IMAGES_HEAD + "\n".join(lines) + "\n"


def _unnamed(message: str, name: str) -> str:
    """A message that says "it" where it names the encoding, with the arguments that were given and filled."""
    return re.sub(rf"(?<![\w-]){name}(:[\w.=@-]+(,[\w.=@-]+)*)?(?= )", "it", message, count=1)


def shifts() -> str:
    """What the contract does not ask of an encoding, and why."""
    reasons = [f"- {name}: {why}" for name, e in ENCODINGS.items() if (why := parse(e).not_relative)]
    return (
        "\nMoving all positions of a text by a constant changes nothing under the encodings above, but for these:\n\n"
        + "\n".join(reasons)
        + "\n"
    )


def open_families(rows: dict[str, dict[str, str]]) -> list[str]:
    """The decoder families that take every rotary and bias encoding."""
    return [f for f in DECODERS if all(rows[f][name] in ("stock", "whorl") for name in ROTARY_AND_BIAS)]


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
