"""Cumulative sums (on balance volume, accumulation and others) as in TA-Lib, resumable from their last value.

Sums per trading session are in sessions.py. A bar whose volume is unknown adds nothing and has no value.
"""

from collections.abc import Callable, Sequence

import numpy as np

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.recursive import Average, averages
from refresh_pipeline.analytics.rolling import ratio
from refresh_pipeline.analytics.ties import prices_tie, side
from refresh_pipeline.market.candles import Floats

# The first value of the negative and the positive volume index.
INDEX_BASE = 1000.0
# The states that every sum continues from besides its value: the last bar's close and volume.
LAST_CLOSE, LAST_VOLUME = "last_close", "last_volume"


def last_bar(bars: Bars) -> Sequence[Floats]:
    """The states for comparisons with the previous bar: close, and volume (0 where unknown)."""
    return [bars["close"], bars["volume_or_0"]]


def on_balance_volume(bars: Bars) -> Sequence[Floats]:
    """OBV: the volume of bars that closed higher, less that of bars that closed lower; begins with the first volume.

    Source: Granville, New Key to Stock Market Profits, 1963; TA-Lib OBV.
    """
    close, before = bars["close"], previous(bars, "close", LAST_CLOSE)
    change = np.where(np.isnan(before), 1.0, side(close, before, prices_tie(close))) * bars["volume_or_0"]
    return _sum(bars, "obv_so_far", change, needs_volume=True)


def accumulation(bars: Bars) -> Sequence[Floats]:
    """Chaikin's accumulation/distribution line: volume by where in its range each bar closed, summed. TA-Lib AD."""
    high, low, close = bars["high"], bars["low"], bars["close"]
    place = ratio((close - low) - (high - close), high - low, otherwise=0.0)
    return _sum(bars, "ad_so_far", place * bars["volume_or_0"], needs_volume=True)


def accumulation_oscillator(bars: Bars, fast: int, slow: int) -> Sequence[Floats]:
    """ADOSC: a fast average of the accumulation/distribution line less a slow one, both begun at its first value.

    Source: Chaikin; TA-Lib ADOSC.
    """
    _, line = accumulation(bars)
    wanted = [
        Average(state, 1, 2 / (n + 1), begins=0)
        for state, n in zip(oscillator_states(fast, slow)[1:], (fast, slow), strict=True)
    ]
    lines = averages(bars, line, wanted)
    begun = bars.number >= max(fast, slow) - 1
    return [_known(bars, np.where(begun, lines[0] - lines[1], np.nan)), line, *lines]


def oscillator_states(fast: int, slow: int) -> list[str]:
    """The states of `accumulation_oscillator`; the first is the line's."""
    return ["ad_so_far", f"adosc_average_{fast}", f"adosc_average_{slow}"]


def price_volume_trend(bars: Bars) -> Sequence[Floats]:
    """PVT: volume times the relative change of the close, summed; begins at 0. TA-Lib PVT."""
    return _sum(bars, "pvt_so_far", _relative_change(bars) * bars["volume_or_0"], needs_volume=True)


def williams_accumulation(bars: Bars) -> Sequence[Floats]:
    """WAD: the way from the true low where a bar closed higher, from the true high where lower, summed. TA-Lib WAD."""
    close, before = bars["close"], previous(bars, "close", LAST_CLOSE)
    rise = close - np.minimum(bars["low"], before)
    fall = close - np.maximum(bars["high"], before)
    turned = side(close, before, prices_tie(close))
    return _sum(bars, "wad_so_far", np.where(turned > 0, rise, np.where(turned < 0, fall, 0.0)))


def sum_of_closes(bars: Bars) -> Sequence[Floats]:
    """CUMSUM of the close. TA-Lib CUMSUM."""
    return _sum(bars, "cumsum_so_far", bars["close"])


def negative_volume_index(bars: Bars) -> Sequence[Floats]:
    """NVI: moves with the close on bars of less volume than the one before; begins at 1000. TA-Lib NVI."""
    return _index(bars, "nvi_so_far", np.less)


def positive_volume_index(bars: Bars) -> Sequence[Floats]:
    """PVI: moves with the close on bars of more volume than the one before; begins at 1000. TA-Lib PVI."""
    return _index(bars, "pvi_so_far", np.greater)


def endless_vwap(bars: Bars) -> Sequence[Floats]:
    """The volume weighted mean of all typical prices so far: TA-Lib VWAP, which knows no sessions."""
    volume = bars["volume_or_0"]
    typical = (bars["high"] + bars["low"] + bars["close"]) / 3
    [_, value], [_, traded] = (
        _sum(bars, name, each) for name, each in (("vwap_value", typical * volume), ("vwap_volume", volume))
    )
    return [_known(bars, ratio(value, traded)), value, traded]


def exponential_average(bars: Bars, average: Average) -> Sequence[Floats]:
    """EMA of the close. TA-Lib EMA: weight 2 / (n + 1), begun with the mean of the first n closes."""
    [line] = averages(bars, bars["close"], [average])
    return [line, line]


def previous(bars: Bars, name: str, state: str) -> Floats:
    """A column of the previous bar; at a series' first row here the state's value, NaN where there is none."""
    values = bars[name]
    before = np.empty(len(values))
    before[1:] = values[:-1]
    firsts = bars.starts[:-1][bars.lengths > 0]
    unknown = np.full(len(bars.lengths), np.nan)
    known = np.where(bars.earlier > 0, bars.states.get(state, unknown).astype(np.float64), np.nan)
    before[firsts] = known[bars.lengths > 0]
    return before


def _relative_change(bars: Bars) -> Floats:
    before = previous(bars, "close", LAST_CLOSE)
    return np.nan_to_num((bars["close"] - before) / before)


def _sum(bars: Bars, state: str, changes: Floats, *, needs_volume: bool = False) -> Sequence[Floats]:
    total = running(np.add, bars, state, changes, begins_at=0.0)
    return [_known(bars, total) if needs_volume else total, total]


def _index(bars: Bars, state: str, compare: Callable[[Floats, Floats], np.ndarray]) -> Sequence[Floats]:
    volume, before = bars["volume"], previous(bars, "volume_or_0", LAST_VOLUME)
    factor = np.where(compare(volume, before), 1 + _relative_change(bars), 1.0)
    total = running(np.multiply, bars, state, factor, begins_at=INDEX_BASE)
    return [_known(bars, total), total]


def running(ufunc: np.ufunc, bars: Bars, state: str, changes: Floats, *, begins_at: float) -> Floats:
    """A ufunc accumulated over each series, from its state or from `begins_at`: one operation per row, in order."""
    total = np.empty(len(changes))
    states = bars.states.get(state, np.empty(len(bars.lengths)))
    begins = np.where(bars.earlier > 0, states.astype(np.float64), begins_at)
    if len(begins) == len(changes) and (bars.lengths == 1).all():
        return ufunc(begins, changes)
    for rows, begin in zip(bars.slices, begins.tolist(), strict=True):
        total[rows] = ufunc.accumulate(np.append(begin, changes[rows]))[1:]
    return total


def _known(bars: Bars, values: Floats) -> Floats:
    return np.where(np.isnan(bars["volume"]), np.nan, values)
