"""What the charts of an inspection show of its arrays."""

import inspection_samples as samples
import numpy as np
import pytest

from whorl.reports.bins import span
from whorl.reports.inspection import all_charts


def test_curves_of_logits_are_drawn_from_their_middle() -> None:
    summary, arrays = samples.rope()
    arrays["logit"] = np.where(arrays["distance_from"] < 100, 5.0, 5.5) + np.zeros((4, 2, 1), np.float32)
    chart = all_charts([samples.read(summary, arrays)])["logits"]
    curve = chart.views[0].panels[0].frames[0].curves[0].y  # type: ignore[union-attr]
    assert (curve[0], curve[-1]) == (0.0, 0.5)


def test_the_rise_of_each_pair_adds_up_to_that_of_the_logit() -> None:
    summary, arrays = samples.rope()
    chart = all_charts([samples.read(summary, arrays)])["u-shape-pairs"]
    cells = chart.views[0].panels[0].frames[0].rows[0].values  # type: ignore[union-attr]
    whole = arrays["logit_by_pair"][0].mean(0).sum(0)
    far, middle = (span(whole, arrays["coarse_from"], arrays["coarse_to"], a, b) for a, b in ((112, 128), (48, 80)))
    assert sum(cells) == pytest.approx(far - middle, abs=2e-3)


def test_pairs_carry_their_wavelength_and_the_cuts_stand_at_their_edge() -> None:
    chart = all_charts([samples.read(*samples.rope())])["usage"]
    (panel,) = chart.views[0].panels  # type: ignore[union-attr]
    assert panel.columns[0].notes[11] == "pair 11, one turn in 149 tokens"
    assert panel.columns[0].marks == ((11.0, "HoPE's cut"), (24.0, "p-RoPE 0.75"))
    still = samples.rope()
    still[1]["wavelength"][:, 11:] = np.inf
    chart = all_charts([samples.read(*still)])["usage"]
    assert chart.views[0].panels[0].columns[0].notes[11] == "pair 11, stands still"  # type: ignore[union-attr]


def test_keys_that_heads_share_are_named_so() -> None:
    summary, arrays = samples.rope()
    arrays["norm_k"] = arrays["norm_k"][:, :1]
    views = all_charts([samples.read(summary, arrays)])["usage"].views  # type: ignore[union-attr]
    notes = [view.panels[0].frames[1].rows[0].note for view in views]  # type: ignore[union-attr]
    assert notes == ["layer 0, head 0", "layer 0, key head 0", "layer 0, head 0"]


def test_layers_whose_spectrum_is_not_told_are_drawn_without_cuts() -> None:
    summary, arrays = samples.rope()
    summary["spectrum"]["layers"] = summary["spectrum"]["layers"][1:3]
    charts = all_charts([samples.read(summary, arrays)])
    (panel,) = charts["usage"].views[0].panels  # type: ignore[union-attr]
    frame = panel.frames[0]
    assert frame is not None
    assert [bool(panel.columns[row.columns].marks) for row in frame.rows] == [False, True, True, False]
    summary["spectrum"]["layers"] = []
    assert "spectrum" in all_charts([samples.read(summary, arrays)])
