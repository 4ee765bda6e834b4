"""A figure shows what the encoding does, by numbers that do not come from its module."""

from __future__ import annotations

import math

import numpy as np
import pytest

from whorl.encodings import REGISTRY
from whorl.pages.figures import chart, picture
from whorl.reports.chart import CurveChart, HeatChart


def curves(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(places, values) of each line, by its name."""
    found = chart(name)
    assert isinstance(found, CurveChart)
    (panel,) = found.views[0].panels
    (frame,) = panel.frames
    assert frame is not None
    x = np.array(panel.grids[0].x)
    return {c.name: (x, np.array([math.nan if y is None else y for y in c.y])) for c in frame.curves}


def cells(name: str) -> np.ndarray:
    found = chart(name)
    assert isinstance(found, HeatChart)
    (frame,) = found.views[0].panels[0].frames
    assert frame is not None
    return np.array([[math.nan if v is None else v for v in row.values] for row in frame.rows])


@pytest.mark.parametrize("name", REGISTRY)
def test_every_encoding_has_a_figure_with_its_name(name: str) -> None:
    found = chart(name)
    assert found.name == name
    assert found.title.startswith(f"{name}: ")
    assert len(found.title) <= 90, "it stands in one line"


def test_hope_cuts_where_a_turn_outlasts_training_and_p_rope_at_its_share() -> None:
    (x, wave), (_, rope) = curves("hope")["turns fully"], curves("hope")["rope"]
    np.testing.assert_allclose(rope, 2 * np.pi * 10000 ** (2 * x / 128), rtol=1e-5)
    np.testing.assert_array_equal(np.isfinite(wave), rope <= 4096)
    turning = [np.isfinite(line) for name, (_, line) in curves("p-rope").items() if name != "rope"]
    assert sum(map(np.count_nonzero, turning)) == 48


@pytest.mark.parametrize(("name", "count"), [("hope-2d", 3), ("p-rope-2d", 12), ("axial-rope", 16)])
def test_of_a_grid_it_shows_the_pairs_that_stand_still_and_how_long_the_grid_is(name: str, count: int) -> None:
    found = chart(name)
    assert (
        found.title
        == f"{name}: {2 * count} of 32 pairs turn, {count} by columns and {count} by rows (a grid of 14 x 14)"
    )
    lines = curves(name)
    waves = 2 * np.pi * 100 ** (np.arange(16) / 16)
    for state, own in (("turns fully", waves <= 14), ("never turns fully in L", waves > 14)):
        shown = own & (np.arange(16) < count)
        assert (state in lines) is bool(shown.any())
        if shown.any():
            np.testing.assert_allclose(lines[state][1], np.where(shown, waves, np.nan), rtol=1e-5)
    assert isinstance(found, CurveChart)
    (view,) = found.views
    assert view.levels == ((14.0, "L = 14 patches"),)
    assert view.panels[0].spans == (() if count == 16 else ((count - 0.5, 15.5, "does not rotate"),))
    assert ("axial-rope" in lines) is (count < 16)
    if count < 16:
        np.testing.assert_allclose(lines["axial-rope"][1], waves, rtol=1e-5)


def test_dinov3_turns_by_the_patches_of_half_an_image() -> None:
    lines = curves("dinov3-rope")
    waves = np.where(np.isnan(lines["turns fully"][1]), lines["never turns fully in L"][1], lines["turns fully"][1])
    np.testing.assert_allclose(waves, 7 * 100 ** (np.arange(16) / 16), rtol=1e-5)


def test_biases_are_those_of_the_papers() -> None:
    for head in (0, 2, 7):
        x, bias = curves("alibi")[f"head {head}"]
        expected = -(2.0 ** -(head + 1)) * x
        np.testing.assert_allclose(bias, np.where(expected >= -40, expected, np.nan), rtol=1e-3)
    x, bias = curves("sandwich")["head 7"]
    wave = sum(np.cos(x * 10000 ** (-2 * t / 128)) for t in range(1, 65)) - 64
    np.testing.assert_allclose(bias, wave / 8, rtol=2e-3, atol=1e-3)
    x, bucket = curves("t5")[""]
    np.testing.assert_array_equal(bucket[x < 16], np.floor(x[x < 16]))
    assert set(bucket[x >= 128]) == {31.0}


def test_scales_are_those_of_the_papers() -> None:
    n, factor = curves("log-n")["log-n"]
    np.testing.assert_allclose(factor, np.maximum(1, np.log(n) / np.log(512)), rtol=1e-3)
    n, factor = curves("llama4-scale")[""]
    np.testing.assert_allclose(factor, 1 + 0.1 * np.log1p(n // 8192), rtol=1e-3)


def test_each_line_says_by_itself_what_a_head_has_learned() -> None:
    (twice, start, half) = lines = curves("ssmax")
    assert (twice, half) == ("twice the start", "half the start")
    assert start.startswith("the start, s = ")
    np.testing.assert_allclose(lines[twice][1], 4 * lines[half][1], rtol=1e-3)


def test_far_keys_are_scored_where_the_papers_say() -> None:
    x, at = curves("rerope")["leak=0"]
    np.testing.assert_array_equal(at, np.minimum(x, 128))
    x, at = curves("self-extend")["group=8"]
    np.testing.assert_array_equal(at, np.where(x < 128, x, x // 8 + 128 - 128 // 8))


def test_examples_of_content_show_what_was_made_of_them() -> None:
    counted = cells("cope")
    assert np.isnan(counted[0, 1:]).all(), "later keys are not seen"
    np.testing.assert_allclose([counted[47, 0], counted[47, 20], counted[10, 0]], [3, 2, 0], atol=0.05)
    kept = cells("fox")
    np.testing.assert_allclose(np.diag(kept), 1)
    assert kept[10, 5] > 0.5 > 0.3 > kept[11, 5], "token 11 closes the gate"
    x, weights = curves("stick-breaking")["logits of 0"]
    np.testing.assert_allclose(weights, 0.5**x, atol=1e-4)
    _, alike = curves("linear")["linear"]
    np.testing.assert_allclose(alike, 1 / 96, rtol=1e-3)


def test_codes_of_all_turns_are_the_same_in_a_cloud_that_is_turned() -> None:
    added = {code: values for code, (_, values) in curves("spe").items()}
    assert np.ptp(added["so3"]) < 1e-4 < 0.01 < min(np.ptp(added["xyz"]), np.ptp(added["z"]))


def test_a_picture_is_a_png_in_few_colours() -> None:
    assert picture("nope").startswith(b"\x89PNG")
