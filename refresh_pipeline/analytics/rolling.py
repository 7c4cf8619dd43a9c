"""Finite windows over plain arrays: sums, means, deviations, shifts. Recursive averages are in recursive.py.

Every function takes one series, or several stacked behind one another. In a stack the first rows of each series mix
with the series before, and the caller nulls them (formulas.py does). A value depends on its window alone, to the last
bit: sums are added in a fixed order, never carried along.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.ties import above
from refresh_pipeline.market.candles import Floats

# Rows per pass where one result needs many passes: few enough for the cache of one core.
ROWS_AT_ONCE = 8192
# A difference below this part of the price is rounding; the smallest real difference, one tick, is 1e-10 of it.
RESIDUE = 1e-13


def shifted(values: Floats, bars: int) -> Floats:
    """Each value `bars` rows later; NaN in the first rows.

    >>> shifted(np.array([1.0, 2.0, 3.0]), bars=1)
    array([nan,  1.,  2.])
    """
    late = np.empty(len(values))
    late[:bars] = np.nan
    late[bars:] = values[: max(len(values) - bars, 0)]
    return late


def ratio(part: Floats, whole: Floats, otherwise: float = np.nan) -> Floats:
    """`part / whole` at each row; `otherwise` where `whole` is 0.

    >>> ratio(np.array([1.0, 1.0]), np.array([4.0, 0.0]))
    array([0.25,  nan])
    """
    return np.divide(part, whole, out=np.full(len(part), otherwise), where=whole != 0)


def windowed_sum(values: Floats, periods: int) -> Floats:
    """The sum of the last `periods` values at each row; NaN in the first `periods - 1` rows.

    Sums of 2k values are two neighbouring sums of k: log2(periods) passes, and the same order of additions everywhere.

    >>> windowed_sum(np.array([1.0, 2.0, 3.0, 4.0]), periods=3)
    array([nan, nan,  6.,  9.])
    """
    total, taken = np.zeros(len(values)), 0
    power, width = values, 1
    while taken < periods:
        if periods & width:
            total = _plus_earlier(total, power, bars=taken)
            taken += width
        if taken < periods:
            power = _plus_earlier(power, power, bars=width)
            width *= 2
    return total


def _plus_earlier(values: Floats, others: Floats, bars: int) -> Floats:
    """Each value plus the other one `bars` rows before it."""
    result = np.empty(len(values))
    result[:bars] = np.nan
    np.add(values[bars:], others[: max(len(values) - bars, 0)], out=result[bars:])
    return result


def simple_moving_average(values: Floats, periods: int) -> Floats:
    """The mean of the last `periods` values, in their unit; NaN in the first `periods - 1` rows.

    >>> simple_moving_average(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), periods=5)
    array([nan, nan, nan, nan,  3.])
    """
    return windowed_sum(values, periods) / periods


def standard_deviation(values: Floats, periods: int) -> Floats:
    """The population standard deviation of the last `periods` values, in their unit; NaN in the first rows.

    >>> standard_deviation(np.array([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), periods=8)
    array([nan, nan, nan, nan, nan, nan, nan,  2.])
    """
    result = np.full(len(values), np.nan)
    for start in range(periods - 1, len(values), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(values))
        result[start:stop] = _deviation_of_block(values[start - periods + 1 : stop], periods)
    return result


def _deviation_of_block(values: Floats, periods: int) -> Floats:
    """The deviation of each full window.

    Two passes: the mean's distance from the window's last value, then the squares about that mean. Distances, because
    the mean itself rounds: equal prices have deviation 0 exactly, and not one ulp.
    """
    last, rows = values[periods - 1 :], len(values) - periods + 1
    distance, mean, squares = np.empty(rows), np.zeros(rows), np.zeros(rows)
    for lag in range(periods):
        mean += np.subtract(values[lag : lag + rows], last, out=distance)
    mean /= periods
    for lag in range(periods):
        np.subtract(values[lag : lag + rows], last, out=distance)
        distance -= mean
        squares += np.square(distance, out=distance)
    return np.sqrt(squares / periods)


def rising(values: Floats, tie: Floats) -> NDArray[np.bool_]:
    """Whether each value is above the one before by more than a tie; False where one of the two is missing.

    >>> rising(np.array([np.nan, 1.0, 2.0, 2.0]), tie=np.full(4, 1e-13))
    array([False, False,  True, False])
    """
    return above(values, shifted(values, 1), tie)


def windowed_maxima(values: Floats, widths: Sequence[int]) -> dict[int, Floats]:
    """The greatest of the last `width` values at each row, for widths in rising order, none above twice the one before.

    Two overlapping windows make the next wider one: a pass for each width. NaN in the first `width - 1` rows.

    >>> windowed_maxima(np.array([3.0, 1.0, 2.0, 0.0]), widths=[2, 3])[3]
    array([nan, nan,  3.,  2.])
    """
    maxima, narrower, known = {}, values, 1
    for width in widths:
        wider, late = np.empty(len(values)), width - known
        wider[:late] = np.nan
        np.maximum(narrower[late:], narrower[: max(len(values) - late, 0)], out=wider[late:])
        maxima[width], narrower, known = wider, wider, width
    return maxima


def windowed_maximum(values: Floats, periods: int) -> Floats:
    """The greatest of the last `periods` values at each row; NaN in the first `periods - 1` rows.

    >>> windowed_maximum(np.array([3.0, 1.0, 2.0, 0.0]), periods=3)
    array([nan, nan,  3.,  2.])
    """
    widths = [2**power for power in range(1, (periods - 1).bit_length())]
    return windowed_maxima(values, [*widths, periods])[periods]


def counts(holds: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How often it holds in each column: row by row for all columns at once, in the smallest numbers that suffice.

    >>> counts(np.array([[True, False], [True, True]]))
    array([2, 1])
    """
    smallest = np.uint8 if len(holds) <= np.iinfo(np.uint8).max else np.int64
    return np.add.reduce(holds.view(np.uint8), axis=0, dtype=smallest).astype(np.int64)


def is_true(holds: np.ndarray) -> Floats:
    """A flag: 1 where it holds, else 0.

    >>> is_true(np.array([True, False]))
    array([1., 0.])
    """
    return holds.astype(np.float64)
