"""Curves and cells over bins."""

import numpy as np
import pytest

from whorl.reports.bins import merge, span


def test_joined_bins_are_means_by_width_and_skip_what_is_missing() -> None:
    start = np.array([0.0, 1, 2, 3, 4, 6, 8, 12])
    stop = np.array([1.0, 2, 3, 4, 6, 8, 12, 16])
    values = np.array([0.0, 1, 2, 3, 4, np.nan, 8, 10])
    assert span(values, start, stop, 3, 8) == pytest.approx((3 * 1 + 4 * 2) / 3)
    assert np.isnan(span(values, start, stop, 100, 200))
    begin, end, joined = merge(np.arange(512.0), np.arange(1.0, 513), np.arange(512.0), 40)
    assert 40 <= len(begin) < 70
    assert (begin[0], end[-1]) == (0, 512)
    assert (begin[1:] == end[:-1]).all()
    assert joined == pytest.approx((begin + end - 1) / 2)
    assert (end - begin)[:6].tolist() == [1] * 6
    edges = np.cumsum([0, *[1, 2] * 300]).astype(float)  # widths that differ: the middle stays the middle
    begin, end, joined = merge(edges[:-1], edges[1:], (edges[:-1] + edges[1:] - 1) / 2, 40)
    assert joined == pytest.approx((begin + end - 1) / 2)
