"""Recursions of many stretches at once, row by row: what charting.py and tradingview.py compute for one stretch.

A loop over the rows of one stretch costs a step of Python for each row. Here a step computes the same row of all
stretches. The operations are those of the one-stretch functions in their order, so that the values have the same bits.

Each function takes the stretches, a sequence of arrays each, then the parameters. It gives an array for each output,
with a column for each stretch. Stretches are at least as long as the formula's warm-up; the shorter end in NaN.
"""

from collections.abc import Callable, Sequence
from itertools import starmap
from math import atan, pi

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics import charting
from refresh_pipeline.analytics.rolling import shifted
from refresh_pipeline.analytics.talib_functions import bare
from refresh_pipeline.market.candles import Floats

Table = NDArray[np.float64]
Stretches = Sequence[Sequence[Floats]]

_ema, _roc = bare("EMA"), bare("ROC")
# As math.degrees has it.
DEGREES = 180.0 / pi


def table(columns: Sequence[Floats]) -> Table:
    """The arrays as columns of a table whose rows lie together; NaN below the shorter ones.

    >>> table([np.array([1.0, 2.0]), np.array([3.0])])
    array([[ 1.,  3.],
           [ 2., nan]])
    """
    longest = max((len(column) for column in columns), default=0)
    rows = np.full((len(columns), longest), np.nan)
    for row, column in zip(rows, columns, strict=True):
        row[: len(column)] = column
    return np.ascontiguousarray(rows.T)


def _tables(prepared: Sequence[Sequence[Floats]]) -> list[Table]:
    return [table(columns) for columns in zip(*prepared, strict=True)]


def _recursive(values: Table, step: Callable[[Floats, Floats], Floats], first: Floats) -> Table:
    """`step(previous, values)` row by row; a missing previous value begins anew with the row's own."""
    result, previous = np.empty_like(values), first
    for row, value in enumerate(values):
        previous = result[row] = np.where(np.isnan(previous), value, step(previous, value))
    return result


def _missing(values: Table) -> Floats:
    return np.full(values.shape[1], np.nan)


def _of_bits(function: Callable[..., float], *values: Table | float) -> Table:
    """A function of Python's numbers, value by value: numpy's own may differ in the last bit."""
    arrays = [np.asarray(each) for each in values]
    return np.array(list(map(function, *(each.ravel().tolist() for each in arrays)))).reshape(arrays[0].shape)


# ---- trend


def atr_stop(stretches: Stretches, periods: int, multiplier: float) -> tuple[Table, ...]:
    """`charting.atr_stop`."""
    prepared = [
        (close, shifted(close, 1), charting.reach_of_stop(high, low, close, periods, multiplier))
        for high, low, close in stretches
    ]
    prices, earlier, reaches = _tables(prepared)
    stop, side = np.full_like(prices, np.nan), np.full_like(prices, np.nan)
    upper, lower, is_long = _missing(prices), _missing(prices), np.zeros(prices.shape[1], dtype=bool)
    for row in range(periods, len(prices)):
        price, before, far = prices[row], earlier[row], reaches[row]
        above, below = price + far, price - far
        begins = np.isnan(upper)
        was_long = np.where(begins, price >= before, is_long)
        upper = np.where(begins | (above < upper) | (before > upper), above, upper)
        lower = np.where(begins | (below > lower) | (before < lower), below, lower)
        is_long = price > np.where(was_long, lower, upper)
        stop[row], side[row] = np.where(is_long, lower, upper), np.where(is_long, 1.0, -1.0)
    return stop, side


def vidya(stretches: Stretches, periods: int) -> tuple[Table, ...]:
    """`charting.vidya`."""
    prices, weights = _tables([(close, charting.weights_of_momentum(close, periods)) for (close,) in stretches])
    return (_following(prices, weights, first=0),)


def frama(stretches: Stretches, periods: int) -> tuple[Table, ...]:
    """`charting.frama`."""
    prices, weights = _tables(
        [(close, charting.weights_of_dimension(high, low, periods)) for high, low, close in stretches]
    )
    result, previous = np.full_like(prices, np.nan), _missing(prices)
    for row in range(periods - 1, len(prices)):
        price, weight = prices[row], weights[row]
        followed = np.where(np.isnan(weight), previous, previous + weight * (price - previous))
        previous = result[row] = np.where(np.isnan(previous), price, followed)
    return (result,)


def _following(prices: Table, weights: Table, first: int) -> Table:
    """An average that follows prices by weights; a row without a weight has no value, and leaves the average."""
    result, previous = np.full_like(prices, np.nan), _missing(prices)
    for row in range(first, len(prices)):
        price, weight = prices[row], weights[row]
        unknown = np.isnan(weight)
        followed = np.where(np.isnan(previous), price, previous + weight * (price - previous))
        result[row] = np.where(unknown, np.nan, followed)
        previous = np.where(unknown, previous, followed)
    return result


def mcginley(stretches: Stretches, periods: int) -> tuple[Table, ...]:
    """`charting.mcginley`."""
    prices = table([close for (close,) in stretches])

    def step(line: Floats, price: Floats) -> Floats:
        power = np.array(list(map(charting.fourth_power, (price / line).tolist())))
        return np.where((power == 0) | (line == 0), np.nan, line + (price - line) / (periods * power))

    result = np.full_like(prices, np.nan)
    with np.errstate(all="ignore"):
        result[periods - 1 :] = _recursive(prices[periods - 1 :], step, _missing(prices))
    return (result,)


def mama_of_median(stretches: Stretches, fast: float, slow: float) -> tuple[Table, ...]:
    """`tradingview.mama_of_median`."""
    medians = [(high + low) / 2 for high, low in stretches]
    prices = table(medians)
    phases = _phases(prices)
    mama, fama = np.full_like(prices, np.nan), np.full_like(prices, np.nan)
    mama[5] = fama[5] = [median[:6].mean() for median in medians]
    with np.errstate(all="ignore"):
        alphas = np.maximum(fast / np.maximum(phases[:-1] - phases[1:], 1.0), slow)
    for row in range(6, len(prices)):
        alpha = alphas[row - 1]
        mama[row] = alpha * prices[row] + (1 - alpha) * mama[row - 1]
        fama[row] = alpha / 2 * mama[row] + (1 - alpha / 2) * fama[row - 1]
    return mama, fama


def _phases(prices: Table) -> Table:
    """The phase of the dominant cycle at each bar in degrees: `tradingview._phases`."""
    smooth, detrended, quadrature, in_phase = (np.zeros_like(prices) for _ in range(4))
    smooth[6:] = (4 * prices[6:] + 3 * prices[5:-1] + 2 * prices[4:-2] + prices[3:-3]) / 10
    period, i2, q2, real, imaginary = (np.zeros(prices.shape[1]) for _ in range(5))
    with np.errstate(all="ignore"):
        for row in range(6, len(prices)):
            gain = 0.075 * period + 0.54
            detrended[row] = _hilbert(smooth, row, gain)
            quadrature[row], in_phase[row] = _hilbert(detrended, row, gain), detrended[row - 3]
            i2_before, q2_before = i2, q2
            i2 = 0.2 * (in_phase[row] - _hilbert(quadrature, row, gain)) + 0.8 * i2_before
            q2 = 0.2 * (quadrature[row] + _hilbert(in_phase, row, gain)) + 0.8 * q2_before
            real = 0.2 * (i2 * i2_before + q2 * q2_before) + 0.8 * real
            imaginary = 0.2 * (i2 * q2_before - q2 * i2_before) + 0.8 * imaginary
            turns = (imaginary != 0) & (real != 0)
            found = np.where(turns, 2 * pi / _of_bits(atan, imaginary / real), 0.0)
            found = np.minimum(np.maximum(found, 0.67 * period), 1.5 * period)
            period = 0.2 * np.minimum(np.maximum(found, 6.0), 50.0) + 0.8 * period
        return np.where(in_phase != 0, _of_bits(atan, quadrature / in_phase) * DEGREES, 0.0)


def _hilbert(values: Table, row: int, gain: Floats) -> Floats:
    """Ehlers' Hilbert transform of four rows."""
    early, late = values[row - 6], values[row - 4]
    return (0.0962 * values[row] + 0.5769 * values[row - 2] - 0.5769 * late - 0.0962 * early) * gain


# ---- momentum


def fisher(stretches: Stretches, periods: int) -> tuple[Table, ...]:
    """`charting.fisher`."""
    places = table(list(starmap(charting.place_of_median, ((high, low, periods) for high, low in stretches))))
    values, value = np.zeros_like(places), np.zeros(places.shape[1])
    for row in range(1, len(places)):
        value = 0.66 * places[row] + 0.67 * value
        value = values[row] = np.where(np.abs(value) > charting.NEARLY_ONE, np.copysign(charting.CLIPPED, value), value)
    halves = 0.5 * np.log((1 + values) / (1 - values))
    line = np.zeros_like(places)
    for row in range(1, len(places)):
        line[row] = halves[row] + 0.5 * line[row - 1]
    trigger = np.full_like(line, np.nan)
    trigger[1:] = line[:-1]
    return line, trigger


def price_momentum(stretches: Stretches, first: int, second: int, signal: int) -> tuple[Table, ...]:
    """`charting.price_momentum`."""
    rates = [_roc(close, 1)[1:] for (close,) in stretches]
    rate = 10 * _weighted(rates, first)
    lines = np.ascontiguousarray(rate.T)
    smooth = np.ascontiguousarray(_weighted([*lines], second).T)
    begins = first + second - 1
    line = np.full((len(stretches), smooth.shape[1] + begins), np.nan)
    line[:, begins:] = smooth
    averages = np.full_like(line, np.nan)
    for row, each, (close,) in zip(averages, line, stretches, strict=True):
        row[begins : len(close)] = _ema(each[begins : len(close)], signal)
    return line.T, averages.T


def _weighted(values: Sequence[Floats], periods: int) -> Table:
    """From the row on that the mean of the first values begins: then a weight of 2 / periods."""
    begin = np.array([float(each[:periods].mean()) for each in values])
    later = _recursive(
        table([each[periods:] for each in values]), lambda line, value: line + (value - line) * 2 / periods, begin
    )
    return np.concatenate([begin[None], later])


def qqe(stretches: Stretches, periods: int, smoothing: int, factor: float) -> tuple[Table, ...]:
    """`charting.qqe`."""
    prepared = [charting.smoothed_strength(close, periods, smoothing, factor) for (close,) in stretches]
    lines, earlier, reaches = _tables([(line, shifted(line, 1), reach) for line, reach in prepared])
    trailing, upper, lower = np.full_like(lines, np.nan), _missing(lines), _missing(lines)
    is_up = np.ones(lines.shape[1], dtype=bool)
    for row, far in enumerate(reaches):
        unknown = np.isnan(far)
        if unknown.all():
            continue
        value, before = lines[row], earlier[row]
        turns_up = np.where(~np.isnan(upper) & ~is_up, value > upper, ~(value < lower))
        below, above = value - far, value + far
        raised = np.where((before > lower) & (value > lower) & ~(below > lower), lower, below)
        lowered = np.where((before < upper) & (value < upper) & ~(above < upper), upper, above)
        is_up = np.where(unknown, is_up, turns_up)
        lower, upper = np.where(unknown, lower, raised), np.where(unknown, upper, lowered)
        trailing[row] = np.where(unknown, np.nan, np.where(is_up, lower, upper))
    return lines, trailing
