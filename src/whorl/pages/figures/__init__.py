"""The figure of an encoding: what it does, drawn from its own effect on a small example.

One module for each kind; `drawn` is asked with what an effect computes with, and knows the classes that show something
of their own. What it does not know is drawn as its kind is, so that a new encoding has a figure without a line here.
"""

from __future__ import annotations

from whorl.encodings import Add, Bias, Reposition, Rotate, Scale
from whorl.pages import facts
from whorl.pages.figures import added, biases, content, grids, positions, rotary, scales
from whorl.pages.figures.drawing import MODEL, Subject
from whorl.reports.chart import Chart
from whorl.reports.png import draw, image

DPI = 110
COLOURS = 256  # of a palette


def chart(name: str) -> Chart:
    """The figure of an encoding, as data."""
    effects = facts.effects(facts.notation(name), MODEL)
    subject = Subject(name, facts.notation(name))
    if not effects:
        return biases.nothing(subject)
    effect = effects[0]
    match effect:
        case Rotate() if effect.spectrum.axes:
            return grids.turning(subject, effect.spectrum)
        case Rotate():
            return rotary.turning(subject)
        case Add():
            return added.vectors(subject, effect.module)
        case Bias():
            return biases.drawn(effect.module, subject)
        case Scale():
            return scales.drawn(effect.module, subject)
        case Reposition():
            return positions.drawn(effect.module, subject)
    return content.drawn(effect.module, subject)


def picture(name: str) -> bytes:
    """The figure as PNG, in few colours."""
    import io

    from PIL import Image

    whole = Image.open(io.BytesIO(image(draw(chart(name)), DPI)))
    out = io.BytesIO()
    whole.convert("RGB").quantize(COLOURS).save(out, format="png", optimize=True)
    return out.getvalue()
