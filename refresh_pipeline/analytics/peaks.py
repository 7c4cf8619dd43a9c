"""Peaks of price and of the Awesome Oscillator: scipy.signal.find_peaks in a window, so that history does not matter.

A peak is what `find_peaks(x, height, distance=13, width=8, wlen=2 * REACH + 1)` finds: a local maximum (the middle of a
plateau), high enough, not within 12 bars of a higher one that is a peak (of equals the later wins), and at least 8 bars
wide at half its prominence, which is measured among the REACH bars on both sides. Two bounds more make the answer
depend on no more than that: a plateau is at most LONGEST_PLATEAU bars, and who gives way to whom is decided in ROUNDS
rounds, highest first; what is undecided then is no peak. A peak is said REACH bars later and never taken back.
Equal values have to be equal to the last bit: ties.snapped makes them so.
"""

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.ties import PRICES
from refresh_pipeline.market.candles import Floats

DISTANCE, WIDTH = 13, 8
REACH = 55
ROUNDS = 2
LONGEST_PLATEAU = 16
# Of two local maxima one bar at least is lower, so that among DISTANCE bars there are no more than these others.
NEIGHBOURS = (DISTANCE - 1) // 2
# Candidates whose surroundings are looked at at a time: few enough for the cache of one core.
AT_ONCE = 4096


def peaks(bars: Bars, values: Floats, at_least: Floats | None = None) -> NDArray[np.bool_]:
    """Which rows are peaks; none is within REACH rows of either end of a series.

    `at_least` is the height a peak must have at its row, in the values' unit.

    >>> values = 30.0 - np.abs(np.arange(121) - 60)
    >>> bars = Bars(np.arange(121).astype("datetime64[us]"), {}, np.array([0, 121]))
    >>> np.flatnonzero(peaks(bars, values))
    array([60])
    """
    rows = local_maxima(bars, values)
    if at_least is not None:
        rows = rows[values[rows] >= at_least[rows]]
    series_no = np.repeat(np.arange(len(bars.lengths)), bars.lengths)[rows]
    rows = rows[_far_from_higher(rows, series_no, values[rows])]
    surrounded = (bars.position[rows] >= REACH) & (bars.remaining[rows] >= REACH)
    rows = rows[surrounded]
    flags = np.zeros(len(values), dtype=bool)
    flags[rows[_widths(values, rows) >= WIDTH * (1 - PRICES)]] = True
    return flags


def may_be_peaks(windows: Floats) -> NDArray[np.int64]:
    """Which windows of 2 * REACH + 1 values may have a peak in the middle; of the others none has, whatever is around.

    >>> hill = 30.0 - np.abs(np.arange(111) - 55)
    >>> may_be_peaks(np.stack([hill, np.roll(hill, 1), np.zeros(111)]))
    array([0])
    """
    before, middle, after = windows[:, REACH - 1], windows[:, REACH], windows[:, REACH + 1]
    alone = np.flatnonzero((middle > before) & (middle > after))
    wide = _widths(windows.ravel(), alone * windows.shape[1] + REACH) >= WIDTH * (1 - PRICES)
    on_plateau = (np.maximum(before, after) == middle) & (middle > windows.min(axis=1))
    return np.sort(np.append(alone[wide], np.flatnonzero(on_plateau)))


def local_maxima(bars: Bars, values: Floats) -> NDArray[np.int64]:
    """The rows above both neighbours; of a plateau the one in the middle, the left one of two."""
    if len(values) == 0:
        return np.empty(0, dtype=np.int64)
    changes = np.append(True, values[1:] != values[:-1])
    changes[bars.starts[bars.starts < len(values)]] = True
    first = np.flatnonzero(changes)
    last = np.append(first[1:], len(values)) - 1
    whole = (bars.position[first] > 0) & (bars.remaining[last] > 0) & (last - first < LONGEST_PLATEAU)
    first, last = first[whole], last[whole]
    stands_out = (values[first - 1] < values[first]) & (values[last + 1] < values[last])
    return (first[stands_out] + last[stands_out]) // 2


def _far_from_higher(rows: NDArray[np.int64], series_no: NDArray[np.int64], heights: Floats) -> NDArray[np.bool_]:
    """Who stays: the highest of its surroundings does, those around it go, and again among the rest."""
    earlier, later = _pairs_in_reach(rows, series_no)
    stays, left = np.zeros(len(rows), dtype=bool), heights.copy()
    for _ in range(ROUNDS):
        earlier_wins = left[earlier] > left[later]
        beaten = left == -np.inf
        beaten[later[earlier_wins]] = True
        beaten[earlier[~earlier_wins]] = True
        stays |= ~beaten
        left[~beaten] = -np.inf
        left[later[~beaten[earlier]]] = -np.inf
        left[earlier[~beaten[later]]] = -np.inf
    return stays


def _pairs_in_reach(rows: NDArray[np.int64], series_no: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Every two local maxima of a series that are too close for both to stay, by their numbers."""
    pairs = []
    for others in range(1, NEIGHBOURS + 1):
        close = (rows[others:] - rows[:-others] < DISTANCE) & (series_no[others:] == series_no[:-others])
        pairs.append(np.flatnonzero(close))
    later = [pair + others for others, pair in enumerate(pairs, start=1)]
    return np.concatenate(pairs), np.concatenate(later)


def _widths(values: Floats, rows: NDArray[np.int64]) -> Floats:
    """The width of each peak at half its prominence, in bars; every row has REACH others on both sides."""
    parts = [_widths_of(values, rows[start : start + AT_ONCE]) for start in range(0, len(rows), AT_ONCE)]
    return np.concatenate([np.empty(0), *parts])


def _widths_of(values: Floats, rows: NDArray[np.int64]) -> Floats:
    height = values[rows]
    distances = np.arange(REACH + 1)
    sides = [values[rows[:, None] + distances * direction] for direction in (-1, 1)]
    floor = np.maximum(*(_lowest_before_higher(side, height) for side in sides))
    prominence = height - floor
    line, tie = height - prominence / 2, PRICES * prominence
    return _reach_above(sides[0], line, tie) + _reach_above(sides[1], line, tie)


def _lowest_before_higher(side: NDArray[np.float64], height: Floats) -> Floats:
    """How far down it goes from each peak to one side before anything is higher than the peak."""
    below = np.logical_and.accumulate(side <= height[:, None], axis=1)
    return np.where(below, side, np.inf).min(axis=1)


def _reach_above(side: NDArray[np.float64], line: Floats, tie: Floats) -> Floats:
    """How many bars from each peak the values cross its line, between bars by proportion."""
    row = np.arange(len(side))
    bars = np.argmax(side <= (line + tie)[:, None], axis=1)
    outside, inside = side[row, bars], side[row, bars - 1]
    return bars - (line - outside) / (inside - outside)
