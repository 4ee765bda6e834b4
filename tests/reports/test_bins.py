"""Curves and cells over bins."""

import numpy as np
import pytest

from whorl.reports.bins import graded, merge, span


def test_a_span_is_the_mean_over_the_pairs_of_a_window_and_skips_what_is_missing() -> None:
    start = np.array([0.0, 1, 2, 3, 4, 6, 8, 12])
    stop = np.array([1.0, 2, 3, 4, 6, 8, 12, 16])
    values = np.array([0.0, 1, 2, 3, 4, np.nan, 8, 10])
    # Of 9 tokens, 5 have a key 3 back that is not the first, 4 one 4 back, and 3 one 5 back.
    assert span(values, start, stop, 3, 8, 9) == pytest.approx((3 * 5 + 4 * (4 + 3)) / 12)
    assert np.isnan(span(values, start, stop, 100, 200, 300))
    assert np.isnan(span(values, start, stop, 12, 16, 9)), "no token has a key there"


def test_joined_bins_are_means_by_width_and_skip_what_is_missing() -> None:
    begin, end, joined = merge(np.arange(512.0), np.arange(1.0, 513), np.arange(512.0), 40)
    assert 40 <= len(begin) < 70
    assert (begin[0], end[-1]) == (0, 512)
    assert (begin[1:] == end[:-1]).all()
    assert joined == pytest.approx((begin + end - 1) / 2)
    assert (end - begin)[:6].tolist() == [1] * 6
    edges = np.cumsum([0, *[1, 2] * 300]).astype(float)  # widths that differ: the middle stays the middle
    begin, end, joined = merge(edges[:-1], edges[1:], (edges[:-1] + edges[1:] - 1) / 2, 40)
    assert joined == pytest.approx((begin + end - 1) / 2)


def test_cells_keep_the_digits_of_what_is_coloured_beside_a_few_that_are_far_larger() -> None:
    table = np.full((10, 20), 0.123456)
    table[3, 4] = 145.67  # as two pairs of SmolLM2's keys among two thousand
    rows = graded(table)
    assert (rows[0][0], rows[3][4]) == (0.123, 145.67)
    table[3, 4] = np.nan
    assert graded(table)[3][4] is None
