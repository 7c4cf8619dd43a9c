"""Enhanced candles of many series, one new bar at a time: bit for bit what computing each series from its start gives.

Columns that look back alone are computed by their own formulas on the last bars. The alligators' lines go on from their
averages. A fractal or a peak is known some bars later: it is looked for at the one bar that the new bar decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics import enhanced_candles as definition
from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.analytics.formulas import Formula
from refresh_pipeline.analytics.fractals import DEGREES
from refresh_pipeline.analytics.live_windows import Members, Windows
from refresh_pipeline.analytics.peaks import REACH, may_be_peaks, peaks
from refresh_pipeline.analytics.recursive import averages, smoothed
from refresh_pipeline.analytics.rolling import windowed_maximum
from refresh_pipeline.analytics.ties import PRICES, above, prices_tie, snapped
from refresh_pipeline.market.candles import Floats

# A flag of an earlier bar that a new bar sets: the column, how many bars back, and the series.
Flag = tuple[str, int, Members]

_SCALED_AO = "scaled_ao"
_SIDES = {"up": ("high", 1.0), "down": ("low", -1.0)}
# Bars that the columns which look back alone read.
CAUSAL_BARS = 48
PEAK_BARS = 2 * REACH + 1
HEIGHT_BARS = PEAK_BARS + definition.HEIGHT_PERIODS
KEPT_BARS = max(HEIGHT_BARS, max(shift for _, shift in definition.LINES.values()) + CAUSAL_BARS)


class LiveEnhanced:
    """One market's enhanced candles, continued a bar at a time."""

    def __init__(self, series: int, windows: Windows) -> None:
        """`windows` holds the candles of all series; a bar is appended there before it is computed here."""
        self._candles = windows
        self.chosen = [column.name for column in definition.ENHANCED_CANDLES.columns]
        self._averages = [average.state for average in definition.AVERAGES]
        self._lines = Windows([*self._averages, _SCALED_AO], series, KEPT_BARS + 1)
        self._memory = {state: np.full((4, series), np.nan) for state in self._averages}

    @property
    def states(self) -> Mapping[str, Floats]:
        """The averages at the newest bar of each series."""
        everyone = np.arange(len(self._lines.count))
        return {state: self._lines.latest(state, everyone) for state in self._averages}

    def load(self, members: Members, bars: Bars) -> None:
        """Take over the averages of these series, whose bars run from a checkpoint to the newest one."""
        memory: dict[str, Floats] = {}
        median = (bars["high"] + bars["low"]) / 2
        lines = averages(replace(bars, memory=memory), median, definition.AVERAGES)
        ao = definition.ENHANCED_CANDLES.narrowed(["ao"]).compute(replace(bars, first=None))["ao"]
        columns = dict(zip(self._averages, lines, strict=True)) | {_SCALED_AO: _scaled(ao.astype(np.float64), median)}
        for member, rows, earlier in zip(members.tolist(), bars.slices, bars.earlier.tolist(), strict=True):
            count = rows.stop - rows.start
            self._lines.fill(member, {name: values[rows] for name, values in columns.items()}, earlier + count)
        for state, values in memory.items():
            self._memory[state][:, members] = values

    def step(self, members: Members) -> tuple[dict[str, Values], list[Flag]]:
        """The columns at the newest bar of these series, and the flags of earlier bars that it sets."""
        self._append_averages(members)
        columns = self._columns(members)
        ao = np.asarray(columns["ao"], dtype=np.float64)
        median = np.asarray(columns["median"], dtype=np.float64)
        self._lines.put(members, {_SCALED_AO: _scaled(ao, median)})
        return {name: columns[name] for name in self.chosen}, [*self._fractals(members), *self._peaks(members)]

    def _append_averages(self, members: Members) -> None:
        high, low = (self._candles.latest(name, members) for name in ("high", "low"))
        memory = {state: values[:, members] for state, values in self._memory.items()}
        starts = np.arange(len(members) + 1)
        before = self._candles.count[members] - 1
        bars = Bars(np.zeros(len(members), dtype="datetime64[us]"), {}, starts, before=before, memory=memory)
        lines = averages(bars, (high + low) / 2, definition.AVERAGES)
        self._lines.append(members, dict(zip(self._averages, lines, strict=True)))
        for state, values in memory.items():
            self._memory[state][:, members] = values

    def _columns(self, members: Members) -> dict[str, Values]:
        bars = self._candles.bars(members, CAUSAL_BARS)
        last, columns = bars.starts[1:] - 1, {}
        for formula in definition.FORMULAS:
            results = self._results(formula, bars, members)
            numbers = {name: values for name, values in results.items() if values.dtype != object}
            bars = replace(bars, columns={**bars.columns, **numbers})
            columns |= {name: values[last] for name, values in results.items()}
        return columns

    def _results(self, formula: Formula, bars: Bars, members: Members) -> dict[str, Values]:
        names = [column.name for column in formula.columns]
        if not names:
            return {}
        if any(column.repaint for column in formula.columns):
            # Known later: no new bar is a fractal or a peak yet.
            return {name: np.zeros(len(bars)) for name in names}
        if names[0] in definition.LINES:
            periods, shift = definition.LINES[names[0]]
            return {names[0]: self._lines.last(smoothed(periods).state, members, CAUSAL_BARS, back=shift).ravel()}
        return dict(zip(names, formula.compute(bars), strict=True))

    def _fractals(self, members: Members) -> list[Flag]:
        flags = []
        for side, (name, sign) in _SIDES.items():
            values = sign * self._candles.last(name, members, 2 * DEGREES[-1] + 1)
            for degree in DEGREES:
                middle = values[:, -degree - 1]
                before, after = values[:, -2 * degree - 1 : -degree - 1], values[:, -degree:]
                beside = np.maximum(before.max(axis=1), after.max(axis=1))
                stands_out = above(middle, beside, prices_tie(np.abs(middle)))
                flags += _flags(f"fractal_{side}_{degree}", degree, members[stands_out])
        return flags

    def _peaks(self, members: Members) -> list[Flag]:
        flags = []
        high, low, close = (self._candles.last(name, members, PEAK_BARS) for name in ("high", "low", "close"))
        close = snapped(close, (high + low) / 2)
        for side, sign in (("above", 1.0), ("below", -1.0)):
            prices = sign * close
            some = may_be_peaks(prices)
            flags += _flags(f"price_peak_{side}", REACH, members[some[_middle_peaks(prices[some])]])
        ao = self._lines.last(_SCALED_AO, members, HEIGHT_BARS)
        for side, sign in (("above", 1.0), ("below", -1.0)):
            some = may_be_peaks(np.maximum(sign * ao[:, -PEAK_BARS:], 0))
            heights = np.maximum(sign * ao[some], 0)
            highest = windowed_maximum(heights.ravel(), definition.HEIGHT_PERIODS).reshape(heights.shape)
            at_least = highest[:, -PEAK_BARS:] * (definition.HEIGHT_SHARE * (1 - PRICES))
            found = _middle_peaks(heights[:, -PEAK_BARS:], at_least)
            flags += _flags(f"ao_peak_{side}", REACH, members[some[found]])
        return flags


def _middle_peaks(windows: Floats, at_least: Floats | None = None) -> NDArray[np.bool_]:
    """Whether the middle of each window of PEAK_BARS values is a peak."""
    starts = np.arange(len(windows) + 1) * PEAK_BARS
    bars = Bars(np.zeros(starts[-1], dtype="datetime64[us]"), {}, starts)
    heights = None if at_least is None else at_least.ravel()
    return peaks(bars, windows.ravel(), heights)[starts[:-1] + REACH]


def _scaled(ao: Floats, median: Floats) -> Floats:
    """The ao as its peaks compare it: a whole number of half ticks, to the digits of the price."""
    return snapped(ao * (2 * definition.FAST * definition.SLOW), median)


def _flags(name: str, back: int, members: Members) -> Sequence[Flag]:
    return [(name, back, members)] if len(members) else []
