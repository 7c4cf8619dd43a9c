"""Indicators that charting programs have and TA-Lib lacks: functions of one stretch of one series.

Each takes arrays of equal length, oldest first, then its parameters, and gives arrays of that length with NaN where
there is no value yet. A value depends on its bar and earlier ones. Sources stand in charting_registry.py.
"""

from collections.abc import Callable
from math import inf, isnan

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from refresh_pipeline.analytics.rolling import counts, ratio, shifted, windowed_sum
from refresh_pipeline.analytics.talib_functions import bare
from refresh_pipeline.market.candles import Floats

_sma, _ema, _wma, _rma, _max, _min = (bare(name) for name in ("SMA", "EMA", "WMA", "RMA", "MAX", "MIN"))
_atr, _rsi, _roc, _stddev, _linear, _sum = (bare(name) for name in ("ATR", "RSI", "ROC", "STDDEV", "LINEARREG", "SUM"))
# TA-Lib's sums leave no digit of a deviation below this part of the price.
FLAT = 4e-7
# Below this part of the mean square a variance is what rounding leaves of the subtraction.
NO_DEVIATION = 1e-12
# Of what is all but 1 the logarithm would have no end.
NEARLY_ONE, CLIPPED = 0.99, 0.999


def _known(function: Callable[..., Floats], values: Floats, *arguments: float) -> Floats:
    """A function over the values behind the leading NaN."""
    known = ~np.isnan(values)
    first = int(known.argmax()) if len(values) else 0
    if first == 0 and known[:1].all():
        return function(values, *arguments) if len(values) else np.empty(0)
    result = np.full(len(values), np.nan)
    if known[first]:
        result[first:] = function(values[first:], *arguments)
    return result


def _windows(values: Floats, periods: int) -> np.ndarray:
    """A window of `periods` values for each row, with NaN before the first one."""
    return sliding_window_view(np.append(np.full(periods - 1, np.nan), values), periods)


def _recursive(values: Floats, step: Callable[[float, float], float], first: float = np.nan) -> Floats:
    """`step(previous, value)` row by row; a missing previous value begins anew with the row's own."""
    result, previous = np.full(len(values), np.nan), first
    for row, value in enumerate(values.tolist()):
        previous = value if isnan(previous) else step(previous, value)
        result[row] = previous
    return result


def _true_range(high: Floats, low: Floats, close: Floats) -> Floats:
    before = shifted(close, 1)
    return np.fmax(high, before) - np.fmin(low, before)


def _middle(high: Floats, low: Floats, periods: int) -> Floats:
    return (_max(high, periods) + _min(low, periods)) / 2


# ---- trend


def ichimoku(high: Floats, low: Floats, conversion: int, base: int, span: int) -> tuple[Floats, ...]:
    """Conversion line, base line, and the two leading spans as they lie at each bar: shifted forward by `base` bars."""
    fast, slow = _middle(high, low, conversion), _middle(high, low, base)
    return fast, slow, shifted((fast + slow) / 2, base), shifted(_middle(high, low, span), base)


def ichimoku_of_last(high: Floats, low: Floats, conversion: int, base: int, span: int) -> tuple[Floats, ...]:
    """`ichimoku` at the last bar of many series: a row of the last highs and lows each, oldest first.

    >>> ichimoku_of_last(np.array([[3.0, 4.0, 5.0]]), np.array([[1.0, 2.0, 3.0]]), 1, 1, 2)
    (array([4.]), array([4.]), array([3.]), array([2.5]))
    """

    def middle(periods: int, back: int) -> Floats:
        window = slice(high.shape[1] - back - periods, high.shape[1] - back)
        return (high[:, window].max(axis=1) + low[:, window].min(axis=1)) / 2

    leading = (middle(conversion, base) + middle(base, base)) / 2
    return middle(conversion, 0), middle(base, 0), leading, middle(span, base)


def chandelier_exit(high: Floats, low: Floats, close: Floats, periods: int, multiplier: float) -> tuple[Floats, Floats]:
    """Highest high less, and lowest low plus, so many times the ATR."""
    reach = multiplier * _atr(high, low, close, periods)
    return _max(high, periods) - reach, _min(low, periods) + reach


def chande_kroll_stop(  # noqa: PLR0917 - columns and parameters come by position
    high: Floats, low: Floats, close: Floats, periods: int, multiplier: float, smoothing: int
) -> tuple[Floats, Floats]:
    """The stop of long positions and that of short ones: extremes of `smoothing` bars of a first stop."""
    reach = multiplier * _atr(high, low, close, periods)
    short = _known(_max, _max(high, periods) - reach, smoothing)
    return _known(_min, _min(low, periods) + reach, smoothing), short


def atr_stop(high: Floats, low: Floats, close: Floats, periods: int, multiplier: float) -> tuple[Floats, Floats]:
    """A trailing stop so many ATR from the close, and 1 while it lies below the close, -1 above."""
    reach = reach_of_stop(high, low, close, periods, multiplier)
    stop, side = np.full(len(close), np.nan), np.full(len(close), np.nan)
    upper, lower, is_long = np.nan, np.nan, True
    rows = zip(close.tolist(), shifted(close, 1).tolist(), reach.tolist(), strict=True)
    for row, (price, before, far) in enumerate(rows):
        if isnan(far):
            continue
        if isnan(upper):
            upper, lower, is_long = price + far, price - far, price >= before
        upper = price + far if price + far < upper or before > upper else upper
        lower = price - far if price - far > lower or before < lower else lower
        is_long = price > (lower if is_long else upper)
        stop[row], side[row] = (lower, 1) if is_long else (upper, -1)
    return stop, side


def reach_of_stop(high: Floats, low: Floats, close: Floats, periods: int, multiplier: float) -> Floats:
    """How far from the close a stop lies: so many times the ATR."""
    return multiplier * _atr(high, low, close, periods)


def alma(close: Floats, periods: int, offset: float, sigma: float) -> Floats:
    """Arnaud Legoux's average: Gaussian weights around `offset` of the window."""
    at = np.arange(periods) - offset * (periods - 1)
    weights = np.exp(-(at**2) / (2 * (periods / sigma) ** 2))
    return _windows(close, periods) @ (weights / weights.sum())


def vidya(close: Floats, periods: int) -> Floats:
    """An exponential average whose weight follows the absolute Chande momentum of as many closes."""
    weights = weights_of_momentum(close, periods)
    result, previous = np.full(len(close), np.nan), np.nan
    for row, (price, weight) in enumerate(zip(close.tolist(), weights.tolist(), strict=True)):
        if not isnan(weight):
            previous = price if isnan(previous) else previous + weight * (price - previous)
            result[row] = previous
    return result


def weights_of_momentum(close: Floats, periods: int) -> Floats:
    """The weights of `vidya`: the absolute Chande momentum times 2 / (periods + 1)."""
    change = np.append(np.nan, np.diff(close))
    up, down = (_known(_sum, np.maximum(each, 0), periods) for each in (change, -change))
    return np.abs(ratio(up - down, up + down, otherwise=0.0)) * 2 / (periods + 1)


def mcginley(close: Floats, periods: int) -> Floats:
    """McGinley's dynamic line: it follows faster the farther the close is below it."""

    def step(line: float, price: float) -> float:
        try:
            return line + (price - line) / (periods * fourth_power(price / line))
        except ZeroDivisionError:
            # Below a line by 81 powers of ten: it has no value, and begins anew with the next bar.
            return np.nan

    line = _recursive(close[periods - 1 :], step)
    return np.append(np.full(min(periods - 1, len(close)), np.nan), line)


def fourth_power(number: float) -> float:
    """Python's own, infinite where that is out of range.

    >>> fourth_power(2.0), fourth_power(1e100)
    (16.0, inf)
    """
    try:
        return number**4
    except OverflowError:
        return inf


def frama(high: Floats, low: Floats, close: Floats, periods: int) -> Floats:
    """Ehlers' fractal adaptive average of an even number of bars."""
    weights = weights_of_dimension(high, low, periods)
    result, previous = np.full(len(close), np.nan), np.nan
    for row, (price, weight) in enumerate(zip(close.tolist(), weights.tolist(), strict=True)):
        if row >= periods - 1:
            follows = not isnan(previous) and not isnan(weight)
            previous = previous + weight * (price - previous) if follows else price if isnan(previous) else previous
            result[row] = previous
    return result


def weights_of_dimension(high: Floats, low: Floats, periods: int) -> Floats:
    """The weights of `frama`, by the fractal dimension of the last bars."""
    half = periods // 2
    newer = (_max(high, half) - _min(low, half)) / half
    older, whole = shifted(newer, half), (_max(high, periods) - _min(low, periods)) / periods
    with np.errstate(divide="ignore", invalid="ignore"):
        dimension = (np.log(newer + older) - np.log(whole)) / np.log(2)
    return np.clip(np.exp(-4.6 * (dimension - 1)), 0.01, 1.0)


def envelope(close: Floats, periods: int, percent: float) -> tuple[Floats, Floats]:
    """The mean plus and less so many percent of it."""
    middle = _sma(close, periods)
    return middle * (1 + percent / 100), middle * (1 - percent / 100)


def regression_channel(close: Floats, periods: int, deviations: float) -> tuple[Floats, Floats, Floats]:
    """The end of the regression line, and so many standard deviations of the closes from the line above and below."""
    line = _linear(close, periods)
    windows = _windows(close, periods)
    at = np.arange(periods) - (periods - 1) / 2
    slope = windows @ at / (at @ at)
    residue = windows - windows.mean(axis=1)[:, None] - slope[:, None] * at
    reach = deviations * np.sqrt((residue**2).mean(axis=1))
    return line, line + reach, line - reach


# ---- momentum


def fisher(high: Floats, low: Floats, periods: int) -> tuple[Floats, Floats]:
    """Ehlers' Fisher transform of the median price's place in its range, and its value a bar ago."""
    place = place_of_median(high, low, periods)
    line, value, previous = np.full(len(place), np.nan), 0.0, 0.0
    for row, each in enumerate(place.tolist()):
        value = 0.0 if row == 0 else 0.66 * each + 0.67 * value
        value = np.copysign(CLIPPED, value) if abs(value) > NEARLY_ONE else value
        previous = 0.0 if row == 0 else 0.5 * np.log((1 + value) / (1 - value)) + 0.5 * previous
        line[row] = previous
    return line, shifted(line, 1)


def place_of_median(high: Floats, low: Floats, periods: int) -> Floats:
    """Where the median price lies in its range of so many bars, or of those there are: -0.5 to 0.5."""
    price = (high + low) / 2
    windows = _windows(price, periods)
    highest, lowest = np.nanmax(windows, axis=1), np.nanmin(windows, axis=1)
    place = ratio(price - lowest, highest - lowest, otherwise=0.0)
    place[highest > lowest] -= 0.5
    return place


def schaff_trend_cycle(close: Floats, cycle: int, fast: int, slow: int) -> Floats:
    """The place of MACD in its range of `cycle` bars, a mean of 3; 0 to 100."""
    macd = _ema(close, fast) - _ema(close, slow)
    highest, lowest = _known(_max, macd, cycle), _known(_min, macd, cycle)
    place = 100 * ratio(macd - lowest, highest - lowest, otherwise=0.0)
    place[np.isnan(macd)] = np.nan
    return _known(_sma, place, 3)


def kst(close: Floats, signal: int) -> tuple[Floats, Floats]:
    """Pring's Know Sure Thing: means of four rates of change, weighted 1 to 4, and a mean of the line."""
    pairs = ((10, 10), (15, 10), (20, 10), (30, 15))
    parts = [weight * _known(_sma, _roc(close, rate), mean) for weight, (rate, mean) in enumerate(pairs, start=1)]
    line = np.sum(parts, axis=0)
    return line, _known(_sma, line, signal)


def price_momentum(close: Floats, first: int, second: int, signal: int) -> tuple[Floats, Floats]:
    """Swenlin's PMO: the rate of change of one bar, smoothed twice with weights 2 / n, and its exponential average."""
    rate = 10 * _known(_weighted, _roc(close, 1), first)
    line = _known(_weighted, rate, second)
    return line, _known(_ema, line, signal)


def _weighted(values: Floats, periods: int) -> Floats:
    """Begun with the mean of the first values, then a weight of 2 / periods."""
    result = np.full(len(values), np.nan)
    if len(values) >= periods:
        begin = float(values[:periods].mean())
        result[periods - 1] = begin
        result[periods:] = _recursive(values[periods:], lambda line, value: line + (value - line) * 2 / periods, begin)
    return result


def relative_vigor(opened: Floats, high: Floats, low: Floats, close: Floats, periods: int) -> tuple[Floats, Floats]:
    """Ehlers' RVGI: weighted bodies against weighted ranges of so many bars, and its weighted mean."""
    body, reach = (_known(_sum, _symmetric(each), periods) for each in (close - opened, high - low))
    line = ratio(body, reach)
    return line, _symmetric(line)


def _symmetric(values: Floats) -> Floats:
    return (values + 2 * shifted(values, 1) + 2 * shifted(values, 2) + shifted(values, 3)) / 6


def wave_trend(high: Floats, low: Floats, close: Floats, channel: int, average: int) -> tuple[Floats, Floats]:
    """LazyBear's WaveTrend: the typical price against its exponential channel, smoothed, and its mean of 4."""
    price = (high + low + close) / 3
    middle = _ema(price, channel)
    away = _known(_ema, np.abs(price - middle), channel)
    line = _known(_ema, ratio(price - middle, 0.015 * away), average)
    return line, _known(_sma, line, 4)


def qqe(close: Floats, periods: int, smoothing: int, factor: float) -> tuple[Floats, Floats]:
    """QQE: a smoothed RSI, and its trailing line so many smoothed mean changes away."""
    line, reach = smoothed_strength(close, periods, smoothing, factor)
    trailing, upper, lower, is_up = np.full(len(close), np.nan), np.nan, np.nan, True
    rows = enumerate(zip(line.tolist(), shifted(line, 1).tolist(), reach.tolist(), strict=True))
    for row, (value, before, far) in rows:
        if isnan(far):
            continue
        is_up = value > upper if not isnan(upper) and not is_up else not value < lower
        lower = max(lower, value - far) if before > lower and value > lower else value - far
        upper = min(upper, value + far) if before < upper and value < upper else value + far
        trailing[row] = lower if is_up else upper
    return line, trailing


def smoothed_strength(close: Floats, periods: int, smoothing: int, factor: float) -> tuple[Floats, Floats]:
    """The smoothed RSI of `qqe`, and how far from it the trailing line lies."""
    line = _known(_ema, _rsi(close, periods), smoothing)
    change, wilder = np.abs(line - shifted(line, 1)), 2 * periods - 1
    return line, factor * _known(_ema, _known(_ema, change, wilder), wilder)


def connors_rsi(close: Floats, periods: int, streak: int, rank: int) -> Floats:
    """The mean of RSI, RSI of the streak of rises or falls, and the percent rank of the last change; 0 to 100."""
    steps, row = np.sign(np.append(0.0, np.diff(close))), np.arange(len(close))
    begins = np.append(True, steps[1:] != steps[:-1])
    # The streak so far at each row: rises count upwards, falls downwards.
    runs = steps * (row - np.maximum.accumulate(np.where(begins, row, 0)) + 1)
    change = _roc(close, 1)
    rows = _windows(change, rank + 1).T
    below = counts(rows[:-1] < rows[-1]) * 100 / rank
    below[counts(np.isnan(rows)) > 0] = np.nan
    return (_rsi(close, periods) + _rsi(runs, streak) + below) / 3


def squeeze(  # noqa: PLR0917 - columns and parameters come by position
    high: Floats, low: Floats, close: Floats, periods: int, deviations: float, reach: float
) -> tuple[Floats, Floats]:
    """1 while Bollinger's bands lie inside Keltner's channel, and the momentum of the close against its middle."""
    middle = _sma(close, periods)
    bands = deviations * _stddev(close, periods)
    channel = reach * _sma(_true_range(high, low, close), periods)
    is_on = np.where(np.isnan(bands) | np.isnan(channel), np.nan, (bands < channel).astype(np.float64))
    away = close - (_middle(high, low, periods) + middle) / 2
    return is_on, _known(_linear, away, periods)


def sequential(close: Floats) -> tuple[Floats, Floats]:
    """DeMark's setups: how many closes in a row lie below, and above, the close 4 bars before; after 9 from 1 anew."""
    before = shifted(close, 4)
    return _counted(close < before, before), _counted(close > before, before)


def _counted(holds: np.ndarray, known: Floats) -> Floats:
    row = np.arange(len(holds))
    since = row - np.maximum.accumulate(np.where(holds, -1, row)) if len(row) else row
    count = np.where(holds, (since - 1) % 9 + 1, 0).astype(np.float64)
    return np.where(np.isnan(known), np.nan, count)


# ---- volatility


def choppiness(high: Floats, low: Floats, close: Floats, periods: int) -> Floats:
    """100 where a market goes nowhere, 0 where it goes straight: the sum of true ranges against the whole range."""
    moved, whole = _sma(_true_range(high, low, close), periods) * periods, _max(high, periods) - _min(low, periods)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * np.log10(ratio(moved, whole)) / np.log10(periods)


def ulcer(close: Floats, periods: int) -> Floats:
    """The root of the mean square of drawdowns, in percent, from the highest close of the window so far."""
    windows = _windows(close, periods)
    drawdowns = 100 * (windows / np.maximum.accumulate(windows, axis=1) - 1)
    return np.sqrt((drawdowns**2).mean(axis=1))


def historical_volatility(close: Floats, periods: int) -> Floats:
    """The sample standard deviation of log returns, in percent a bar."""
    windows = _windows(log_return(close), periods)
    return 100 * np.std(windows, axis=1, ddof=1)


def log_return(close: Floats) -> Floats:
    """The logarithm of the close against the close before."""
    return np.append(np.full(min(1, len(close)), np.nan), np.diff(np.log(close)))


def z_score(close: Floats, periods: int) -> Floats:
    """How many standard deviations the close lies from its mean; missing where the closes do not move."""
    middle, deviation = _sma(close, periods), _stddev(close, periods)
    return ratio(close - middle, np.where(deviation > FLAT * middle, deviation, 0.0))


def hurst(close: Floats, periods: int, longest: int) -> Floats:
    """The slope of the logarithm of the deviation of changes over 2 to `longest` bars against that of the bars.

    Of `periods` closes; NaN where changes over some number of bars do not differ.
    """
    lags = np.arange(2, longest + 1)
    across = np.log(lags) - np.log(lags).mean()
    slope = np.zeros(len(close))
    for lag, weight in zip(lags.tolist(), across.tolist(), strict=True):
        change, count = close - shifted(close, lag), periods - lag
        mean = windowed_sum(change, count) / count
        square = windowed_sum(change * change, count) / count
        variance = square - mean * mean
        # What is left of a subtraction is no deviation.
        variance = np.where(variance > square * NO_DEVIATION, variance, np.nan)
        slope += weight * np.log(np.sqrt(variance))
    return slope / (across**2).sum()


def drawdown(close: Floats, periods: int) -> Floats:
    """How far the close lies below the highest close of so many bars, or of all there are, in percent."""
    highest = np.nanmax(_windows(close, periods), axis=1) if len(close) else close
    return 100 * (close / highest - 1)


# ---- volume


def klinger(  # noqa: PLR0917 - columns and parameters come by position
    high: Floats, low: Floats, close: Floats, volume: Floats, fast: int, slow: int, signal: int
) -> tuple[Floats, Floats]:
    """Volume with the sign of the typical price's change, a fast average less a slow one, and its average."""
    change = np.append(np.full(min(1, len(close)), np.nan), np.diff((high + low + close) / 3))
    signed = np.where(np.isnan(change), np.nan, np.where(change >= 0, volume, -volume))
    line = _known(_ema, signed, fast) - _known(_ema, signed, slow)
    return line, _known(_ema, line, signal)


def ease_of_movement(high: Floats, low: Floats, volume: Floats, periods: int) -> Floats:
    """The change of the median price times the range, by volume in units of 10,000; a mean of so many bars."""
    change = (high + low) / 2 - shifted((high + low) / 2, 1)
    return _windows(ratio(10_000 * change * (high - low), volume), periods).mean(axis=1)
