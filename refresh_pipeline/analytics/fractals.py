"""Fractals: highs and lows that stand out among the bars on both sides. Peaks, which need width too: peaks.py."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.analytics.rolling import is_true, windowed_maxima
from refresh_pipeline.analytics.ties import above, prices_tie
from refresh_pipeline.market.candles import Floats

# How many bars on either side; each is at most twice the one before, which makes a window of one out of two others.
DEGREES = (2, 3, 5, 8, 13, 21, 34, 55, 89)


def fractals(bars: Bars) -> Sequence[Values]:
    """Flags per degree k, up then down: a high above, a low below, those of the k bars before and the k after.

    Equal ones are no fractal, nor is a bar with fewer than k others on either side: so one is known k bars later.
    """
    position, remaining = bars.position, bars.remaining
    sides = [_above_both_sides(values) for values in (bars["high"], -bars["low"])]
    flags = []
    for degree in DEGREES:
        inside = (position >= degree) & (remaining >= degree)
        flags += [is_true(side[degree] & inside) for side in sides]
    return flags


def _above_both_sides(values: Floats) -> dict[int, NDArray[np.bool_]]:
    tie = prices_tie(np.abs(values))
    return {
        degree: _stands_out(values, highest, tie, degree)
        for degree, highest in windowed_maxima(values, DEGREES).items()
    }


def _stands_out(values: Floats, highest: Floats, tie: Floats, degree: int) -> NDArray[np.bool_]:
    flags = np.zeros(len(values), dtype=bool)
    middle = values[degree : len(values) - degree]
    if len(middle):
        highest_beside = np.maximum(highest[degree - 1 : -degree - 1], highest[2 * degree :])
        flags[degree : len(values) - degree] = above(middle, highest_beside, tie[degree : len(values) - degree])
    return flags
