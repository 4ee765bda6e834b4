"""The figure of a spectrum says what the theory says, and shows a curve by its lowest and highest values."""

import numpy as np
import pytest

from whorl import theory
from whorl.encodings import Known, parse
from whorl.reports.chart import CurveView
from whorl.reports.spectrum import FULLY, NEVER, STILL, chart

LENGTH = 512


def spectrum_of(notation: str, head_dim: int = 128):
    found = parse(notation).filled(Known(train_length=LENGTH)).spectrum(head_dim)
    assert found is not None
    return found


def shown(view: CurveView) -> dict[float, float]:
    """The only line of a view, as value by place."""
    (panel,) = view.panels
    (frame,) = panel.frames
    assert frame is not None
    (curve,) = frame.curves
    return dict(zip(panel.grids[0].x, curve.y, strict=True))  # type: ignore[arg-type]


def test_pairs_are_drawn_by_what_they_do_in_training() -> None:
    waves = chart("p", spectrum_of("p-rope:p=0.9"), LENGTH).views[0]
    (panel,) = waves.panels
    (frame,) = panel.frames
    assert frame is not None
    counts = {curve.name: sum(y is not None for y in curve.y) for curve in frame.curves}
    assert counts == {FULLY: 31, NEVER: 26}
    assert panel.spans == ((56.5, 63.5, STILL),)
    assert waves.levels == ((512.0, "L = 512 tokens"),)


def test_b_is_drawn_from_one_on_and_its_first_value_below_zero_is_marked() -> None:
    found = spectrum_of("p-rope:p=0.9")
    values = shown(chart("p", found, LENGTH).views[1])
    first = theory.max_context(found)
    assert first is not None
    before = [y for m, y in values.items() if m < first]
    assert min(values) == 1
    assert values[first] < 0 <= min(before)
    assert (float(first), "") in chart("p", found, LENGTH).views[1].panels[0].marks
    curve = theory.b_curve(found, 2 * first)
    assert (min(values.values()), max(values.values())) == pytest.approx((curve.min(), curve[1:].max()), rel=1e-4)
    assert len(values) < len(curve) + 1


def test_the_bound_is_that_of_the_theory() -> None:
    values = shown(chart("p", spectrum_of("p-rope:p=0.9"), LENGTH).views[2])
    assert values[1.0] == pytest.approx(31.54, abs=0.01)


@pytest.mark.parametrize("notation", ["hope", "partial-rope:fraction=0"])
def test_without_a_value_below_zero_only_the_training_length_is_marked(notation: str) -> None:
    drawn = chart("h", spectrum_of(notation), LENGTH)
    assert [m for m, _ in drawn.views[1].panels[0].marks] == [LENGTH]
    assert np.isfinite(drawn.views[0].axes[0].low)
