"""What belongs to a trading session: its volume weighted price, its opening range, the pivots of the one before.

A session is a day of the market's calendar: a bar of a day or longer is one of its own. Everything at a bar is as known
at its close; a refresh may begin in the middle of a session, and goes on from states.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import TIME_UNIT, Floats, Times
from refresh_pipeline.market.timeframe import Timeframe

OPENING_RANGE = np.timedelta64(30 * 60_000_000, "us")
STATES = (
    *("session_day", "session_value", "session_volume", "session_high", "session_low", "session_close"),
    *("session_open_time", "opening_range_high_so_far", "opening_range_low_so_far"),
    *("previous_high", "previous_low", "previous_close"),
)


def session_columns(bars: Bars, calendar: Calendar) -> Sequence[Values]:
    """VWAP; the opening range's high and low; pivot point, r1 to r3 and s1 to s3 of the session before; then STATES.

    Source: the floor traders' pivots, P = (H + L + C) / 3; VWAP of typical prices, (H + L + C) / 3 each.
    """
    sessions = Sessions.of(bars, calendar)
    high, low, close = bars["high"], bars["low"], bars["close"]
    volume = bars["volume_or_0"]
    value = sessions.running(np.add, "session_value", (high + low + close) / 3 * volume, begins_at=0.0)
    traded = sessions.running(np.add, "session_volume", volume, begins_at=0.0)
    highest = sessions.running(np.fmax, "session_high", high)
    lowest = sessions.running(np.fmin, "session_low", low)
    before = [
        sessions.of_previous("session_high", "previous_high", highest),
        sessions.of_previous("session_low", "previous_low", lowest),
        sessions.of_previous("session_close", "previous_close", close),
    ]
    opened, opening_range = _opening_range(sessions, bars, calendar)
    vwap = np.divide(value, traded, out=np.full(len(value), np.nan), where=(traded > 0) & ~np.isnan(bars["volume"]))
    states = [sessions.day, value, traded, highest, lowest, close, opened, *opening_range, *before]
    return [vwap, *opening_range, *pivots(*before), *states]


def pivots(high: Floats, low: Floats, close: Floats) -> list[Floats]:
    """The pivot point, then r1, r2, r3, s1, s2, s3, from one session's high, low and close.

    >>> [float(each[0]) for each in pivots(np.array([12.0]), np.array([9.0]), np.array([12.0]))]
    [11.0, 13.0, 14.0, 16.0, 10.0, 8.0, 7.0]
    """
    point, reach = (high + low + close) / 3, high - low
    above = [2 * point - low, point + reach, high + 2 * (point - low)]
    return [point, *above, 2 * point - high, point - reach, low - 2 * (high - point)]


def _opening_range(sessions: "Sessions", bars: Bars, calendar: Calendar) -> tuple[Floats, list[Floats]]:
    """When each session's first bar in trading hours opened (us), and the range of its first half hour so far."""
    # A bar that opens with its calendar's day counts, also where that is before trading begins: it is the whole day's.
    trades = _is_open(bars, calendar) | (calendar.floor(Timeframe.D1, bars.open_time) == bars.open_time)
    opened_at = np.where(trades, bars.open_time.astype(np.int64), np.nan)
    opened = sessions.running(np.fmin, "session_open_time", opened_at)
    inside = trades & (opened_at < opened + OPENING_RANGE.astype(np.int64))
    high = sessions.running(np.fmax, "opening_range_high_so_far", np.where(inside, bars["high"], np.nan))
    low = sessions.running(np.fmin, "opening_range_low_so_far", np.where(inside, bars["low"], np.nan))
    return opened, [high, low]


def _is_open(bars: Bars, calendar: Calendar) -> NDArray[np.bool_]:
    """Whether each bar opens in trading hours, which are those of its series' asset class; the days are the same."""
    is_open = np.array(calendar.is_open(bars.open_time))
    for name, sessions in calendar.classes.items():
        rows = bars.of_class(name)
        if rows.any():
            is_open[rows] = sessions.is_open(bars.open_time[rows])
    return is_open


@dataclass(frozen=True, slots=True)
class Sessions:
    """Where sessions begin in the bars: `begins` are rows, `continues` says which of them go on from a state."""

    bars: Bars
    # Days since 1970 of each row's session, as numbers.
    day: Floats
    begins: NDArray[np.int64]
    series: NDArray[np.int64]
    continues: NDArray[np.bool_]

    @classmethod
    def of(
        cls, bars: Bars, calendar: Calendar, timeframe: Timeframe = Timeframe.D1, state: str = "session_day"
    ) -> "Sessions":
        """Cut the bars into sessions, or weeks or months; a series that goes on may be in the middle of one.

        Args:
            bars: of one series or several.
            calendar: whose days are the sessions.
            timeframe: D1, W1 or MN1.
            state: the name of the state that holds `day`.
        """
        day = _days(calendar, timeframe, bars.open_time)
        first_rows = bars.starts[:-1][bars.lengths > 0]
        begins = np.unique(np.append(first_rows, np.flatnonzero(day[1:] != day[:-1]) + 1))
        series = np.searchsorted(bars.starts, begins, side="right") - 1
        unknown = np.full(len(bars.lengths), np.nan)
        same_day = bars.states.get(state, unknown).astype(np.float64)[series] == day[begins]
        is_first = (begins == bars.starts[series]) & (bars.earlier[series] > 0)
        return cls(bars, day, begins, series, is_first & same_day)

    @property
    def _lengths(self) -> NDArray[np.int64]:
        return np.diff(np.append(self.begins, len(self.bars)))

    def _state(self, name: str) -> Floats:
        unknown = np.full(len(self.bars.lengths), np.nan)
        return self.bars.states.get(name, unknown).astype(np.float64)

    def running(self, ufunc: np.ufunc, state: str, values: Floats, *, begins_at: float | None = None) -> Floats:
        """A ufunc accumulated over each session, one operation a row; from its state where a session goes on."""
        states = self._state(state)[self.series]
        values = values.copy()
        if begins_at is not None:
            values[self.begins] += begins_at
        values[self.begins] = np.where(self.continues, ufunc(states, values[self.begins]), values[self.begins])
        lengths = self._lengths
        several = lengths > 1
        for begin, length in zip(self.begins[several].tolist(), lengths[several].tolist(), strict=True):
            rows = slice(begin, begin + length)
            values[rows] = ufunc.accumulate(values[rows])
        return values

    def firsts(self, values: Floats) -> Floats:
        """The values at the first bar of each session, NaN at the others: their running minimum is the first one."""
        firsts = np.full(len(values), np.nan)
        begins = self.begins[~self.continues]
        firsts[begins] = values[begins]
        return firsts

    def of_previous(self, so_far: str, state: str, values: Floats) -> Floats:
        """What a running column had come to at the end of the session before, at each row; NaN in the first session."""
        ends = values[self.begins - 1]
        is_first = self.begins == self.bars.starts[self.series]
        # A series that goes on has its last session's end in the states: the one before it, where that session goes on.
        known = np.where(self.continues, self._state(state)[self.series], self._state(so_far)[self.series])
        known = np.where(self.bars.earlier[self.series] > 0, known, np.nan)
        return np.repeat(np.where(is_first, known, ends), self._lengths)


def _days(calendar: Calendar, timeframe: Timeframe, open_times: Times) -> Floats:
    """The session that each bar belongs to, as the days since 1970 at which it begins."""
    begins = calendar.floor(timeframe, np.asarray(open_times, dtype=TIME_UNIT))
    return begins.astype(np.int64) / 86_400_000_000
