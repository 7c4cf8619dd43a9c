"""The volume profile of a trading session: its point of control and value area, so far and of the session before.

Everything at a bar is as known at its close: the bars of its session up to it, and those of the session before. No
state goes along: a value is computed from the bars of two sessions, wherever a refresh begins to read.

Source: the market profile of QuantConnect Lean, whose published values it is held against. The volume of a bar counts
at its close, in the row of prices that ends there or above. The value area begins with the row of most volume. It
takes the larger one of its two neighbours, of equal ones the upper, until it has more than 70 % of the volume.
"""

from collections.abc import Sequence
from math import floor, log10

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.analytics.evaluation import Rows
from refresh_pipeline.analytics.sessions import Sessions
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import Floats

AREA = 0.7
# A day of minutes; a session before it is as long at most.
SESSION_BARS = 1440
REACH = 2 * SESSION_BARS
# A close so many rows above the end of a row belongs to it: what a division by a row's height may err.
RESIDUE = 1e-9
COLUMNS = 3


def volume_profile(rows: Rows, calendar: Calendar, percent: float) -> Sequence[Values]:
    """Point of control, value area high and low of the session so far, then of the session before.

    Null where no volume is known yet, and at a bar without one. A row of prices is as high as `percent` of the
    session's first open, rounded down to 1, 2 or 5 times a power of ten.
    """
    bars, sessions = rows.bars, Sessions.of(rows.bars, calendar)
    ends = np.append(sessions.begins[1:], len(bars))
    of_row = np.searchsorted(sessions.begins, rows.at, side="right") - 1
    found, last = np.full((2 * COLUMNS, len(rows.at)), np.nan), np.full((len(ends), COLUMNS), np.nan)
    for number in np.unique([of_row, of_row - 1]).tolist():
        if number < 0:
            continue
        begin, end = int(sessions.begins[number]), int(ends[number])
        here = np.flatnonzero(of_row == number)
        wanted = np.append(rows.at[here], end - 1) - begin
        profile = _profile(bars, slice(begin, end), wanted, percent)
        found[:COLUMNS, here], last[number] = profile[:-1].T, profile[-1]
    known = (of_row > 0) & (sessions.series[of_row] == sessions.series[of_row - 1])
    found[COLUMNS:, known] = last[of_row[known] - 1].T
    found[:COLUMNS, np.isnan(rows.take(bars["volume"]))] = np.nan
    return list(found)


def row_height(price: float, percent: float) -> tuple[int, int]:
    """The height of a row of prices: a factor of 1, 2 or 5, and a power of ten.

    >>> row_height(135.0, 0.05), row_height(1.0845, 0.05), row_height(64_000.0, 0.05)
    ((5, -2), (5, -4), (2, 1))
    """
    most = price * percent / 100 * (1 + RESIDUE)
    power = floor(log10(most))
    return max(factor for factor in (1, 2, 5) if factor * 10.0**power <= most or factor == 1), power


def _profile(bars: Bars, session: slice, wanted: NDArray[np.int64], percent: float) -> Floats:
    """Point of control, value area high and low at the wanted bars of a session, counted from its first."""
    opened = float(bars["open"][session.start])
    result = np.full((len(wanted), COLUMNS), np.nan)
    if not opened > 0:
        return result
    factor, power = row_height(opened, percent)
    rows = np.ceil(_times_power(bars["close"][session] / factor, -power) - RESIDUE)
    prices, column = np.unique(rows, return_inverse=True)
    held = np.zeros((len(rows), len(prices)))
    held[np.arange(len(rows)), column] = volume = np.nan_to_num(bars["volume"][session])
    # One addition a bar, in their order: the same sums wherever the reading began.
    held, total = np.cumsum(held, axis=0)[wanted], np.cumsum(volume)[wanted]
    traded = np.flatnonzero(total > 0)
    control = _control(held[traded])
    low, high = _area(held[traded], control, AREA * total[traded])
    for number, each in enumerate((control, high, low)):
        result[traded, number] = _times_power(prices[each] * factor, power)
    return result


def _times_power(values: Floats, power: int) -> Floats:
    # By a whole number: 2709 * 5 / 100 is 135.45, 2709 * 0.05 is not.
    return values * 10.0**power if power >= 0 else values / 10.0**-power


def _control(held: Floats) -> NDArray[np.int64]:
    """The column of most volume in each row; of equal ones the one nearest to the middle of those with volume."""
    there = held > 0
    rank = np.cumsum(there, axis=1) - 1
    away = np.abs(rank - rank[:, -1:] // 2)
    away = np.where(held == held.max(axis=1, initial=0.0)[:, None], away, held.shape[1])
    return np.argmin(away, axis=1)


def _area(held: Floats, control: NDArray[np.int64], least: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lowest and the highest column of each row's value area."""
    count, columns = held.shape
    there, column = held > 0, np.arange(columns)
    below = np.maximum.accumulate(np.where(there, column, -1), axis=1)
    above = np.minimum.accumulate(np.where(there, column, columns)[:, ::-1], axis=1)[:, ::-1]
    # A column without volume on either side ends every search.
    held = np.pad(held, ((0, 0), (1, 1)))
    below, above = (
        np.pad(below, ((0, 0), (1, 0)), constant_values=-1),
        np.pad(above, ((0, 0), (0, 1)), constant_values=columns),
    )
    low, high = control.copy(), control.copy()
    inside = held[np.arange(count), control + 1]
    open_rows = np.flatnonzero(inside <= least)
    while len(open_rows):
        down, up = below[open_rows, low[open_rows]], above[open_rows, high[open_rows] + 1]
        lower, upper = held[open_rows, down + 1], held[open_rows, up + 1]
        goes_down = (upper == 0) | (lower > upper)
        low[open_rows] = np.where(goes_down & (lower > 0), down, low[open_rows])
        high[open_rows] = np.where(goes_down, high[open_rows], up)
        inside[open_rows] += np.where(goes_down, lower, upper)
        open_rows = open_rows[(inside[open_rows] <= least[open_rows]) & ((lower > 0) | (upper > 0))]
    return low, high
