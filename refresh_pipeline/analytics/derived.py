"""Indicators that follow from a row, the bar before it and other indicators: bands, channels, candles, regimes.

Also the few that look at a window of their own. What TA-Lib computes, and what goes on from a state, lives elsewhere.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from refresh_pipeline.analytics import levels
from refresh_pipeline.analytics.bars import Values
from refresh_pipeline.analytics.evaluation import Rows
from refresh_pipeline.analytics.rolling import counts, is_true, ratio
from refresh_pipeline.analytics.talib_functions import bare
from refresh_pipeline.analytics.ties import PRICES, above, at_least, averages_tie, prices_tie, side
from refresh_pipeline.market.candles import Floats

_maximum, _minimum, _atr, _period, _mavp = (bare(name) for name in ("MAX", "MIN", "ATR", "HT_DCPERIOD", "MAVP"))

# Part of the price below which Bollinger bands have no width: TA-Lib's sums leave no digit of a variance below 1e-14.
NO_WIDTH = 4e-7
RATIOS = (0.236, 0.382, 0.5, 0.618, 0.786)
WINDOW = 50
REGIMES = np.array(["low", "medium", "high"], dtype=object)
TRENDS = np.array(["bearish", "sideways", "bullish"], dtype=object)
# What a bar's data quality counts: how much of it there is.
QUALITY = ("volume", "sma_20", "rsi_14", "atr_14", "macd_line")


# ---- windows of their own: functions of one stretch of one series


def fibonacci(high: Floats, low: Floats, first: int) -> tuple[Floats, ...]:
    """Retracements of the last 50 bars' range, or of those there are, from row `first` on: hi - (hi - lo) * ratio.

    >>> levels = fibonacci(np.array([3.0, 10.0]), np.array([0.0, 2.0]), first=0)
    >>> [round(float(level[-1]), 2) for level in levels]
    [7.64, 6.18, 5.0, 3.82, 2.14]
    """
    highest, lowest = _extreme(np.maximum, _maximum, high), _extreme(np.minimum, _minimum, low)
    return retracements(highest[first:], lowest[first:])


def retracements(highest: Floats, lowest: Floats) -> tuple[Floats, ...]:
    """Hi - (hi - lo) * ratio for each of RATIOS."""
    return tuple(highest - (highest - lowest) * ratio for ratio in RATIOS)


def _extreme(ufunc: np.ufunc, windowed: Callable[..., Floats], values: Floats) -> Floats:
    extreme = windowed(values, WINDOW)
    extreme[: WINDOW - 1] = ufunc.accumulate(values[: WINDOW - 1])
    return extreme


def volatility_rank(high: Floats, low: Floats, close: Floats, periods: int, first: int) -> Floats:
    """The rank of each bar's ATR among those of the last 50 bars, 0 to 1, from row `first` on; a mean rank where equal.

    Among as many as there are, where a history begins; NaN before the first ATR.
    """
    ranges = np.full(len(close) + WINDOW - 1, np.nan)
    if len(close) > periods:
        ranges[WINDOW - 1 :] = _atr(high, low, close, periods)
    return rank_of_last(sliding_window_view(ranges[first:], WINDOW))


def rank_of_last(windows: NDArray[np.float64]) -> Floats:
    """The rank of the last value of each window among its values, 0 to 1, a mean rank where equal."""
    current, rows = windows[:, -1], windows.T
    known, below, equal = counts(rows == rows), counts(rows < current), counts(rows == current)  # noqa: PLR0124 - NaN
    return np.divide(below + (equal + 1) / 2, known, out=np.full(len(windows), np.nan), where=equal > 0)


def cycle_average(close: Floats, shortest: int, longest: int, kind: int) -> Floats:
    """MAVP: the moving average over the dominant cycle's period, which Hilbert's transform finds; the longest before.

    Source: TA-Lib MAVP over HT_DCPERIOD.
    """
    periods = np.nan_to_num(_period(close), nan=float(longest))
    return _mavp(close, periods, shortest, longest, kind)


# ---- of a row


def support_and_resistance(rows: Rows) -> Sequence[Values]:
    """See levels.py."""
    return levels.support_and_resistance(rows.bars, rows.at)


def same_as(name: str, rows: Rows) -> Sequence[Values]:
    """Another column under a second name."""
    return [rows[name]]


def band_width_and_place(rows: Rows) -> Sequence[Values]:
    """bb_width = upper - lower, in price; bb_percent = (close - lower) / width, missing where there is no width."""
    width = rows.numbers("bb_upper") - rows.numbers("bb_lower")
    has_width = width > NO_WIDTH * rows.numbers("bb_middle")
    return [width, ratio(rows.numbers("close") - rows.numbers("bb_lower"), np.where(has_width, width, 0.0))]


def keltner_channel(rows: Rows) -> Sequence[Values]:
    """Middle EMA 20, upper and lower 2 ATR 20 away, in price. Source: Linda Raschke's form of Keltner's channel."""
    middle, reach = rows["ema_20"], 2 * rows["atr_20"]
    return [middle, middle + reach, middle - reach]


def volume_against_average(rows: Rows) -> Sequence[Values]:
    """Volume / volume_sma_20; missing where nothing was traded."""
    return [ratio(rows.numbers("volume"), rows.numbers("volume_sma_20"))]


def steps_of_price(rows: Rows) -> Sequence[Values]:
    """Flags against the bar before: higher high, higher low, lower high, lower low; missing at the first bar."""
    high, low = rows.numbers("high"), rows.numbers("low")
    high_before, low_before = rows.before("high"), rows.before("low")
    tie = prices_tie(rows.numbers("close"))
    flags = [
        above(high, high_before, tie),
        above(low, low_before, tie),
        above(high_before, high, tie),
        above(low_before, low, tie),
    ]
    return [np.where(np.isnan(high_before), np.nan, flag) for flag in flags]


def candle_shapes(rows: Rows) -> Sequence[Values]:
    """Flags: doji, hammer, shooting star, bullish and bearish engulfing (strict; missing at the first bar).

    Doji: the body is at most a tenth of the range. Hammer: the lower shadow is at least twice the body and the upper at
    most the body; a shooting star is its mirror image. Engulfing: against a body of the other colour, beyond both ends.
    """
    opened, high, low, close = (rows.numbers(name) for name in ("open", "high", "low", "close"))
    body, upper, lower = np.abs(close - opened), high - np.maximum(opened, close), np.minimum(opened, close) - low
    before, close_before = rows.before("open"), rows.before("close")
    tie = prices_tie(close)
    bullish = above(close, opened, tie) & above(before, close_before, tie)
    bullish &= above(close_before, opened, tie) & above(close, before, tie)
    bearish = above(opened, close, tie) & above(close_before, before, tie)
    bearish &= above(opened, close_before, tie) & above(before, close, tie)
    engulfing = [np.where(np.isnan(before), np.nan, flag) for flag in (bullish, bearish)]
    shapes = [
        at_least(0.1 * (high - low), body, tie),
        at_least(lower, 2 * body, tie) & at_least(body, upper, tie),
        at_least(upper, 2 * body, tie) & at_least(body, lower, tie),
    ]
    return [*map(is_true, shapes), *engulfing]


def trend(rows: Rows) -> Sequence[Values]:
    """Bullish where EMA 20 is above EMA 50, bearish where below, sideways where equal."""
    tie = averages_tie(rows.numbers("close"))
    return [_named(TRENDS, side(rows.numbers("ema_20"), rows.numbers("ema_50"), tie) + 1)]


def regime(name: str, low: float, high: float, rows: Rows) -> Sequence[Values]:
    """low, medium or high, by where a column lies; on a bound, but for rounding, medium."""
    values = rows.numbers(name)
    above_low, below_high = values >= low * (1 - PRICES), values <= high * (1 + PRICES)
    return [_named(REGIMES, np.where(np.isnan(values), np.nan, 1.0 - below_high + above_low))]


volatility_regime = partial(regime, "volatility_rank", 0.3, 0.7)
volume_regime = partial(regime, "volume_ratio", 0.7, 1.5)


def data_quality(rows: Rows) -> Sequence[Values]:
    """How much of volume, SMA 20, RSI 14, ATR 14 and MACD the bar has, in percent."""
    known = [np.isfinite(rows[name]) for name in QUALITY]
    return [np.sum(known, axis=0) * (100 / len(QUALITY))]


def _named(texts: np.ndarray, numbers: Floats) -> Values:
    named = texts[np.nan_to_num(numbers).astype(np.int64)]
    named[~np.isfinite(numbers)] = None
    return named
