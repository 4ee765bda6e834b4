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
    bins = arrays["coarse_from"], arrays["coarse_to"]
    far, middle = (span(whole, *bins, a, b, samples.LENGTH) for a, b in ((112, 128), (48, 80)))
    assert sum(cells) == pytest.approx(far - middle, abs=2e-3)


def test_windows_shorter_than_the_training_length_have_a_middle_and_a_far_end_of_their_own() -> None:
    """Of 1,024 tokens, where 8,192 were trained: the rise from the middle of the window, and the pairs that make it."""
    summary, arrays = samples.rope()
    summary["settings"]["train_length"] = 8 * samples.LENGTH
    at = arrays["distance_from"]
    arrays["logit"] = np.where(at < 300, 7.0, np.where(at < 700, 5.0, 6.0)) + np.zeros((4, 2, 1), np.float32)
    arrays["logit_by_pair"][..., arrays["coarse_from"] >= 700] += 1.0
    charts = all_charts([samples.read(summary, arrays)])
    curve = charts["logits"].views[0].panels[0].frames[0].curves[0].y  # type: ignore[union-attr]
    assert (curve[0], curve[-1]) == (2.0, 1.0)
    cells = charts["u-shape-pairs"].views[0].panels[0].frames[0].rows[0].values  # type: ignore[union-attr]
    assert all(0.8 < cell < 1.2 for cell in cells)


def test_attention_on_the_first_token_is_a_mean_over_queries_from_the_eighth_on() -> None:
    """As it is where heads are told; not over the bins of a logarithmic axis, half of them of the first few queries."""
    summary, arrays = samples.rope()
    start = arrays["position_from"]
    paid = np.where(start < 8, 1.0, np.where(start < 512, 0.2, 0.4)).astype(np.float32)
    arrays["first_token"] = np.broadcast_to(paid, (4, 2, len(start)))
    chart = all_charts([samples.read(summary, arrays)])["heads"]
    (view,) = (view for view in chart.views if view.label == "first token")
    before = int(arrays["position_to"][start < 512].max())
    expected = (0.2 * (before - 8) + 0.4 * (samples.LENGTH - before)) / (samples.LENGTH - 8)
    assert view.panels[0].frames[0].rows[0].values[0] == pytest.approx(expected, abs=1e-3)  # type: ignore[union-attr]


def test_pairs_carry_their_wavelength_and_the_cuts_stand_at_their_edge() -> None:
    chart = all_charts([samples.read(*samples.rope())])["usage"]
    (panel,) = chart.views[0].panels  # type: ignore[union-attr]
    assert panel.columns[0].notes[11] == "pair 11, one turn in 149 tokens"
    assert panel.columns[0].marks == ((11.0, "HoPE's cut"), (24.0, "p-RoPE 0.75"))
    still = samples.rope()
    still[1]["wavelength"][:, 11:] = np.inf
    chart = all_charts([samples.read(*still)])["usage"]
    assert chart.views[0].panels[0].columns[0].notes[11] == "pair 11, does not rotate"  # type: ignore[union-attr]


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
