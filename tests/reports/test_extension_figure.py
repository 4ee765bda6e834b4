"""The figure of an extension: smoothed losses, the untouched model and the kept method strongly; no pyplot."""

import subprocess
import sys

import pytest

from whorl.reports.extension import BEST, GREY, loss_by_position

LOSSES = {
    name: [4.0 + (-1) ** i for i in range(1024)] for name in ("none", "linear", "ntk", "yarn", "a", "b", "c", "d")
}


def test_methods_are_smoothed_and_the_kept_one_stands_out() -> None:
    chart = loss_by_position(LOSSES, "yarn", 256)
    (panel,) = chart.views[0].panels
    (frame,) = panel.frames
    assert frame is not None
    by_name = {curve.name: curve for curve in frame.curves}
    assert [name for name, curve in by_name.items() if not curve.faint] == ["none", "yarn"]
    assert (by_name["none"].index, by_name["yarn"].index) == (GREY, BEST)
    assert {by_name[name].index for name in LOSSES} - {GREY, BEST} == {1, 2, 3, 4, 5}
    assert by_name["linear"].y == pytest.approx([4.0] * len(panel.grids[0].x))
    assert (panel.grids[0].x[0], panel.marks) == (16.0, ((256.0, "training length"),))


def test_a_text_of_a_few_tokens_is_drawn_as_it_is() -> None:
    chart = loss_by_position({"none": [1.0, 2.0, 3.0]}, "none", 2)
    frame = chart.views[0].panels[0].frames[0]
    assert frame is not None
    assert frame.curves[0].y == (1.0, 2.0, 3.0)


def test_drawing_leaves_a_notebook_s_backend_alone() -> None:
    """Importing pyplot, or choosing a backend, would take a notebook's figures away."""
    code = (
        "import matplotlib, sys; matplotlib.use('svg'); from whorl.reports import extension, png; "
        "png.png(extension.loss_by_position({'none': [1.0, 2.0]}, 'none', 1)); "
        "print(matplotlib.get_backend(), 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["svg", "False"]
