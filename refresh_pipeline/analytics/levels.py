"""Support and resistance, supply and demand: levels as they could be known at each bar. Nothing here looks ahead.

A support is a price at which lows turned, a resistance one at which highs did. Only swings that have been confirmed at
bar t count at bar t, so a level of the past never changes when bars are added.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.analytics.cumulative import LAST_CLOSE, previous
from refresh_pipeline.analytics.rolling import shifted, windowed_maximum
from refresh_pipeline.analytics.ties import PRICES, above, at_least, prices_tie
from refresh_pipeline.market.candles import Floats

# A swing is a high above those of so many bars before it and not below one of as many after, known at the close of the
# last of them; a low likewise. Of equal ones side by side the first counts, so that a flat top is one swing.
SWING = 5
# Swings of the last so many bars count.
LEVEL_BARS = 250
# Swings within 1 % of the lowest of them are touches of one level.
SAME_LEVEL = 0.01
LEVELS = 3
# No two swings are closer than this, so there are never more in the window.
MOST_SWINGS = LEVEL_BARS // (SWING + 1) + 1
# Cells of windows of swings worked on at a time: so many fit into a processor's cache.
WINDOWS_AT_ONCE = 50_000

# A bar that moved the price by so much on a volume above the quantile of the last so many bars' begins a zone.
ZONE_MOVE = 0.02
ZONE_QUANTILE = 0.8
ZONE_BARS = 50
ZONE_VALUES = ("high", "low", "volume", "strength")
ZONE_STATES = tuple(f"{side}_zone_{value}_so_far" for side in ("supply", "demand") for value in ZONE_VALUES)


def support_and_resistance(bars: Bars, at: NDArray[np.int64]) -> Sequence[Values]:
    """At the rows `at`: support levels 1 to 3 with their strengths, then resistance likewise; price and touches.

    The strongest first, of equally strong ones the one touched last. NaN where there are fewer.
    """
    columns: list[Values] = []
    for values in (-bars["low"], bars["high"]):
        swings = _Swings.of(bars, swing_rows(bars, values))
        columns += _levels(swings, np.abs(values), bars, at)
    return columns


def swing_rows(bars: Bars, values: Floats) -> NDArray[np.int64]:
    """The rows at which values turn down, in order; only such as have enough bars of their series on both sides."""
    highest = windowed_maximum(values, SWING)
    later = np.append(highest[SWING:], np.full(min(SWING, len(values)), np.nan))
    inside = (bars.position >= SWING) & (bars.remaining >= SWING)
    tie = prices_tie(np.abs(values))
    return np.flatnonzero(inside & above(values, shifted(highest, 1), tie) & at_least(values, later, tie))


def is_swing(windows: Floats) -> NDArray[np.bool_]:
    """Whether values turn down in the middle of each window of 2 * SWING + 1 of them, as `swing_rows` has it.

    >>> is_swing(np.array([[1.0, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7, 4, 3, 2, 1]])).tolist()
    [True, False]
    """
    middle = windows[:, SWING]
    earlier, later = windows[:, :SWING].max(axis=1), windows[:, SWING + 1 :].max(axis=1)
    tie = prices_tie(np.abs(middle))
    return above(middle, earlier, tie) & at_least(middle, later, tie)


@dataclass(frozen=True, slots=True)
class _Swings:
    """Rows of swings in order, and from which to which of them count at a row."""

    rows: NDArray[np.int64]
    begin_of_series: NDArray[np.int64]

    @classmethod
    def of(cls, bars: Bars, rows: NDArray[np.int64]) -> "_Swings":
        return cls(rows, np.repeat(bars.starts[:-1], bars.lengths))

    def counting_at(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        oldest = np.maximum(at - LEVEL_BARS + 1, self.begin_of_series[at])
        return np.stack([np.searchsorted(self.rows, oldest), np.searchsorted(self.rows, at - SWING, side="right")], 1)


def _levels(swings: _Swings, price: Floats, bars: Bars, at: NDArray[np.int64]) -> list[Values]:
    """Levels and strengths in turn. Most rows have the swings of the row before them: each set is looked at once."""
    counting = swings.counting_at(at)
    changed = np.append(True, (counting[1:] != counting[:-1]).any(axis=1))[: len(at)]
    sets, at_once = counting[changed], WINDOWS_AT_ONCE // MOST_SWINGS
    parts = [_strongest(swings.rows, price, sets[start : start + at_once]) for start in range(0, len(sets), at_once)]
    strongest = np.concatenate([np.empty((0, 2 * LEVELS)), *parts])[np.cumsum(changed) - 1]
    return list(strongest.T)


def _strongest(rows: NDArray[np.int64], price: Floats, sets: NDArray[np.int64]) -> Floats:
    """For each set of swings, from..to in `rows`, its three strongest levels: price, strength, price, strength, ..."""
    width = max(min(int((sets[:, 1] - sets[:, 0]).max(initial=0)), MOST_SWINGS), LEVELS)
    member = sets[:, :1] + np.arange(width)
    inside = member < sets[:, 1:]
    row = np.where(inside, np.append(rows, 0)[np.minimum(member, len(rows))], -1)
    prices = np.where(inside, np.append(price, np.nan)[row], np.inf)
    order = np.argsort(prices, axis=1, kind="stable")
    prices, row = np.take_along_axis(prices, order, 1), np.take_along_axis(row, order, 1)
    group = _groups(prices) + width * np.arange(len(sets))[:, None]
    cells, known = len(sets) * width, row >= 0
    touches = np.bincount(group[known], minlength=cells)
    total = np.bincount(group[known], prices[known], minlength=cells)
    latest = np.full(cells, -1)
    np.maximum.at(latest, group[known], row[known])
    # More touches first, then the later one: one number that sorts so.
    rank = touches * (len(price) + 1) + latest
    strongest = np.argsort(-rank.reshape(len(sets), width), axis=1, kind="stable")[:, :LEVELS]
    strongest += width * np.arange(len(sets))[:, None]
    strength = np.where(touches[strongest] > 0, touches[strongest], np.nan)
    return np.stack([total[strongest] / strength, strength], axis=2).reshape(len(sets), 2 * LEVELS)


def _groups(prices: Floats) -> NDArray[np.int64]:
    """The number of the level each price belongs to, prices in rising order in each row."""
    group = np.zeros(prices.shape, dtype=np.int64)
    lowest = prices[:, 0].copy()
    for column in range(1, prices.shape[1]):
        opens = prices[:, column] > lowest * (1 + SAME_LEVEL + PRICES)
        lowest = np.where(opens, prices[:, column], lowest)
        group[:, column] = group[:, column - 1] + opens
    return group


def zones(bars: Bars) -> Sequence[Values]:
    """The latest supply zone's high, low, volume and strength, then the latest demand zone's; then ZONE_STATES.

    A supply zone is a bar that closed more than 2 % lower than the one before; a demand zone one that closed higher.
    Its volume is above the 80th percentile of the last 50 bars', its own included. Strength is the change in percent.
    """
    before = previous(bars, "close", LAST_CLOSE)
    change = (bars["close"] - before) / before
    moved = has_moved(change)
    moved[moved] = _is_busy(bars, np.flatnonzero(moved))
    values = [bars["high"], bars["low"], bars["volume"], np.abs(change) * 100]
    columns: list[Values] = []
    for side, falls in (("supply", True), ("demand", False)):
        begins = moved & ((change < 0) == falls)
        columns += [_latest(bars, begins, *each) for each in zip(values, _states(side), strict=True)]
    return [*columns, *columns]


def has_moved(change: Floats) -> NDArray[np.bool_]:
    """Whether changes of the close, as parts of it, are large enough for a zone."""
    return np.abs(np.nan_to_num(change)) > ZONE_MOVE + PRICES


def is_busy(volume: Floats, windows: Floats) -> NDArray[np.bool_]:
    """Whether volumes are above the quantile of their windows of ZONE_BARS volumes each."""
    # A volume above 80 % of 50: the quantile lies between two of them, as numpy interpolates.
    least = np.quantile(windows, ZONE_QUANTILE, axis=1) if len(windows) else np.empty(0)
    return volume > least


def _states(side: str) -> list[str]:
    return [name for name in ZONE_STATES if name.startswith(side)]


def _is_busy(bars: Bars, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether these rows' volumes are above the quantile of their windows; not where a window is cut short."""
    enough = bars.number[rows] >= ZONE_BARS - 1
    back = np.arange(ZONE_BARS)
    windows = bars["volume"][np.maximum(rows[:, None] - back, 0)]
    # Of a series that starts at a checkpoint, a window begins before the first row here.
    beyond = back - bars.position[rows][:, None]
    row, place = np.nonzero(beyond > 0)
    if bars.earlier_volumes is None:
        windows[row, place] = np.nan
    else:
        series = np.searchsorted(bars.starts, rows[row], side="right") - 1
        windows[row, place] = bars.earlier_volumes[series, bars.earlier_volumes.shape[1] - beyond[row, place]]
    return enough & is_busy(bars["volume"][rows], windows)


def _latest(bars: Bars, begins: NDArray[np.bool_], values: Floats, state: str) -> Floats:
    """The value at the latest of the rows that begin a zone, at every row; from the state before the first of them."""
    row = np.arange(len(bars))
    latest = np.maximum.accumulate(np.where(begins, row, -1)) if len(bars) else row
    unknown = np.full(len(bars.lengths), np.nan)
    known = np.where(bars.earlier > 0, bars.states.get(state, unknown).astype(np.float64), np.nan)
    is_here = latest >= np.repeat(bars.starts[:-1], bars.lengths)
    return np.where(is_here, np.append(values, np.nan)[latest], np.repeat(known, bars.lengths))
