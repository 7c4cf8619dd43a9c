"""Fractals: highs and lows that stand out among the bars on both sides. Peaks, which need width too: peaks.py."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.analytics.rolling import windowed_maxima
from refresh_pipeline.analytics.ties import above, prices_tie
from refresh_pipeline.market.candles import Floats

# How many bars on either side; each is at most twice the one before, which makes a window of one out of two others.
DEGREES = (2, 3, 5, 8, 13, 21, 34, 55, 89)


def fractals(bars: Bars) -> Sequence[Values]:
    """Flags per degree k, up then down: a high above, a low below, those of the k bars before and the k after.

    Equal ones are no fractal, nor is a bar with fewer than k others on either side: so one is known k bars later.
    """
    beside = np.minimum(bars.position, bars.remaining)
    flags, reach = np.empty((2 * len(DEGREES), len(bars))), max(DEGREES)
    # So many rows fit into a core's cache; a constant of the module would change the fingerprint, and no value.
    at_once = 8192
    for start in range(0, len(bars), at_once):
        # A row of these depends on no more than `reach` rows on either side.
        begin, stop = max(start - reach, 0), start + at_once
        around, rows = slice(begin, stop + reach), slice(start, stop)
        sides = [_above_both_sides(values[around]) for values in (bars["high"], -bars["low"])]
        for number, (degree, side) in enumerate(product(DEGREES, sides)):
            here = side[degree][start - begin : stop - begin]
            flags[number, rows] = here & (beside[rows] >= degree)
    return list(flags)


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
