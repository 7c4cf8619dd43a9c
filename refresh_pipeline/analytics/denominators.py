"""Ratios of TA-Lib whose denominator is 0: 0/0 is null. The windows of our own formulas handle this themselves.

TA-Lib writes a number of its own there (0, 1, 50 or what rounding left), which reads as oversold, trending or neutral.
A denominator counts as 0 where it is a tie: all prices of its window within 1e-9, an average that remembers for ever
below 1e-13 of the price. Each function here takes what the function of TA-Lib takes and gives a mask for each output,
or one for all of them. A mask follows from its row's window or from the rows before: none looks ahead.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.rolling import shifted, standard_deviation
from refresh_pipeline.analytics.talib_functions import bare
from refresh_pipeline.analytics.ties import AVERAGES, averages_tie, prices_tie
from refresh_pipeline.market.candles import Floats

Mask = NDArray[np.bool_]
Masks = Mask | tuple[Mask, ...]

# TA-Lib's moving averages over a window: of an undefined value in it they have none either. The others never forget.
FINITE_AVERAGES = (0, 2, 5)
# RSI runs from 0 to 100.
RSI_TIE = 1e-9
# TA-Lib takes a money flow below 1 for none; this power of two changes no digit of the ratio.
FLOW_SCALE = 2.0**60

_max, _min, _rma, _ema, _rsi, _range = (bare(name) for name in ("MAX", "MIN", "RMA", "EMA", "RSI", "TRANGE"))
_plus_movement, _minus_movement, _money_flow = (bare(name) for name in ("PLUS_DM", "MINUS_DM", "MFI"))


def _highest(values: Floats, periods: int) -> Floats:
    return _max(values, periods) if periods > 1 else values


def _lowest(values: Floats, periods: int) -> Floats:
    return _min(values, periods) if periods > 1 else values


def _wilder(values: Floats, periods: int) -> Floats:
    return _rma(values, periods) if periods > 1 else values


def _exponential(values: Floats, periods: int) -> Floats:
    return _ema(values, periods) if periods > 1 else values


def _changes(values: Floats) -> Floats:
    return np.abs(np.diff(values, prepend=values[:1]))


def _true_range(high: Floats, low: Floats, close: Floats) -> Floats:
    return np.nan_to_num(_range(high, low, close))


def _any(mask: Mask, periods: int, kind: int = 0) -> Mask:
    """Whether it holds in one of the last rows; in the row itself where the average never forgets."""
    return _highest(mask.astype(np.float64), periods) > 0 if kind in FINITE_AVERAGES else mask


def _no_range(high: Floats, low: Floats, periods: int) -> Mask:
    return _highest(high, periods) - _lowest(low, periods) <= prices_tie(high)


def _none_above(moves: Floats, periods: int, price: Floats) -> Mask:
    return _highest(moves, periods) <= prices_tie(price)


# ---- of a window


def _williams(high: Floats, low: Floats, _: Floats, periods: int) -> Masks:
    return _no_range(high, low, periods)


def _fast_stochastic(high: Floats, low: Floats, _: Floats, *settings: int) -> Masks:
    fast, slow, kind = settings
    undefined = _no_range(high, low, fast)
    return undefined, _any(undefined, slow, kind)


def _stochastic(high: Floats, low: Floats, _: Floats, *settings: int) -> tuple[Mask, Mask]:
    fast, k, k_kind, d, d_kind = settings
    slow_k = _any(_no_range(high, low, fast), k, k_kind)
    return slow_k, _any(slow_k, d, d_kind)


def _kdj(high: Floats, low: Floats, close: Floats, *settings: int) -> Masks:
    slow_k, slow_d = _stochastic(high, low, close, *settings)
    return slow_k, slow_d, slow_d | slow_k


def _stochastic_rsi(close: Floats, periods: int, fast: int, slow: int, kind: int) -> Masks:
    rsi = _rsi(close, periods)
    undefined = _any(_strength(close, periods), fast)
    undefined |= _highest(rsi, fast) - _lowest(rsi, fast) <= RSI_TIE
    return undefined, _any(undefined, slow, kind)


def _balance(_: Floats, high: Floats, low: Floats, __: Floats) -> Masks:
    return high - low <= prices_tie(high)


def _commodity_channel(high: Floats, low: Floats, close: Floats, periods: int) -> Masks:
    typical = (high + low + close) / 3
    return _no_range(typical, typical, periods)


def _money(high: Floats, low: Floats, close: Floats, volume: Floats, periods: int) -> Masks:
    typical = (high + low + close) / 3
    flows = (volume > 0) & (_changes(typical) > prices_tie(typical))
    return _highest(flows.astype(np.float64), periods) == 0


def _chaikin_flow(_: Floats, __: Floats, ___: Floats, volume: Floats, periods: int) -> Masks:
    return _highest(volume, periods) == 0


def _facilitation(_: Floats, __: Floats, volume: Floats) -> Masks:
    return volume == 0


def _ultimate(high: Floats, low: Floats, close: Floats, *periods: int) -> Masks:
    return _none_above(_true_range(high, low, close), min(periods), close)


def _vortex(high: Floats, low: Floats, close: Floats, periods: int) -> Masks:
    return _none_above(_true_range(high, low, close), periods, close)


def _way_of_close(close: Floats, periods: int) -> Masks:
    return _none_above(_changes(close), periods, close)


def _bodies(opened: Floats, close: Floats, periods: int) -> Masks:
    return _none_above(np.abs(close - opened), periods, close)


def _is_constant(values: Floats, periods: int, scale: Floats) -> Mask:
    """Whether the variance is below 1e-13 of the scale's square: TA-Lib's sums of squares have no more digits."""
    # A window's variance is at least the square of its range over twice its length: hardly any needs a deviation.
    spread = _highest(values, periods) - _lowest(values, periods)
    if not (spread**2 <= 4 * periods * AVERAGES * scale**2).any():
        return np.zeros(len(values), dtype=bool)
    return standard_deviation(values, periods) ** 2 <= AVERAGES * scale**2


def _correlation(high: Floats, low: Floats, periods: int) -> Masks:
    return _is_constant(high, periods, high) | _is_constant(low, periods, low)


def _beta(high: Floats, _: Floats, periods: int) -> Masks:
    changes = np.nan_to_num(high / shifted(high, 1) - 1)
    spread = _highest(changes, periods) - _lowest(changes, periods)
    return spread <= np.maximum(prices_tie(np.ones(len(high))), np.sqrt(AVERAGES) * _highest(np.abs(changes), periods))


# ---- of averages that remember for ever


def _strength(close: Floats, periods: int) -> Mask:
    return _wilder(_changes(close), periods) <= averages_tie(close)


def _directional(high: Floats, low: Floats, close: Floats, periods: int) -> Mask:
    return _wilder(_true_range(high, low, close), periods) <= averages_tie(close)


def _movement(high: Floats, low: Floats, close: Floats, periods: int) -> Mask:
    moved = _plus_movement(high, low, periods) + _minus_movement(high, low, periods)
    return moved <= periods * averages_tie(close)


def _rating(high: Floats, low: Floats, close: Floats, periods: int) -> Masks:
    undefined = _movement(high, low, close, periods)
    return undefined | (shifted(undefined.astype(np.float64), periods - 1) > 0)


def _stochastic_momentum(high: Floats, low: Floats, close: Floats, *settings: int) -> Masks:
    periods, fast, slow, _ = settings
    spans = np.nan_to_num(_highest(high, periods) - _lowest(low, periods))
    return _exponential(_exponential(spans, slow), fast) <= averages_tie(close)


def _true_strength(close: Floats, first: int, second: int) -> Masks:
    return _exponential(_exponential(_changes(close), first), second) <= averages_tie(close)


def _relative_volatility(close: Floats, periods: int, deviation: int) -> Masks:
    deviations = np.nan_to_num(standard_deviation(close, deviation))
    return _wilder(deviations, periods) <= averages_tie(close)


def _mass(high: Floats, low: Floats, fast: int, slow: int) -> Masks:
    return _any(_exponential(_exponential(high - low, fast), fast) <= averages_tie(high), slow)


def _chaikin_volatility(high: Floats, low: Floats, periods: int, back: int) -> Masks:
    undefined = _exponential(high - low, periods) <= averages_tie(high)
    return shifted(undefined.astype(np.float64), back) > 0


def _volume_oscillator(volume: Floats, fast: int, slow: int, kind: int) -> Masks:
    if kind in FINITE_AVERAGES:
        return _highest(volume, max(fast, slow)) == 0
    return _exponential(volume, max(fast, slow)) <= AVERAGES * np.maximum.accumulate(volume)


# For a function of TA-Lib: the mask, and in words where it holds.
UNDEFINED: Mapping[str, tuple[Callable[..., Masks], str]] = {
    "WILLR": (_williams, "the highest high is the lowest low"),
    "STOCHF": (_fast_stochastic, "the highest high is the lowest low; D as well for such a bar among its own"),
    "STOCH": (_stochastic, "the highest high is the lowest low on a bar of its averages"),
    "KDJ": (_kdj, "the highest high is the lowest low; the averages go on with 0 for such a bar, as TA-Lib's do"),
    "STOCHRSI": (_stochastic_rsi, "the RSI is null or the same on all bars"),
    "BOP": (_balance, "the bar has no range"),
    "CCI": (_commodity_channel, "all typical prices are equal"),
    "MFI": (_money, "no volume moved the typical price"),
    "CMF": (_chaikin_flow, "nothing was traded; a bar without range counts with 0"),
    "MARKETFI": (_facilitation, "nothing was traded"),
    "ULTOSC": (_ultimate, "the true ranges of the shortest period are 0"),
    "VORTEX": (_vortex, "all true ranges are 0"),
    "ER": (_way_of_close, "the close did not change"),
    "VHF": (_way_of_close, "the close did not change"),
    "CMOU": (_way_of_close, "the close did not change"),
    "IMI": (_bodies, "no bar has a body"),
    "CORREL": (_correlation, "highs or lows are constant (a variance below 1e-13 of the price's square)"),
    "BETA": (_beta, "the highs' changes are constant"),
    "RSI": (_strength, "the average change is 0"),
    "CMO": (_strength, "the average change is 0"),
    "PLUS_DI": (_directional, "the average true range is 0"),
    "MINUS_DI": (_directional, "the average true range is 0"),
    "DX": (_movement, "the average directional movement is 0"),
    "ADX": (_movement, "the average directional movement is 0"),
    "ADXR": (_rating, "one of its two ADX is null"),
    "SMI": (_stochastic_momentum, "the average range is 0"),
    "TSI": (_true_strength, "the average change is 0"),
    "RVI": (_relative_volatility, "the average deviation is 0"),
    "MASSI": (_mass, "an average range is 0"),
    "CVI": (_chaikin_volatility, "the earlier average range is 0"),
    "PVO": (_volume_oscillator, "the average volume is 0"),
}
# Values of TA-Lib that are kept, though others write null there or mean another bar.
KEPT: Mapping[str, str] = {
    "FRACTAL": "The flag is at the bar that confirms the extreme, rightbars after it; fractal_up_2 and fractal_down_2 "
    "of the enhanced candles are at the extreme itself.",
    "SUPERTREND": "The trend is 1 while the line is below the close and -1 while it is above.",
    "AROON": "Of equal highs or lows the latest counts, so that a flat market is at 100.",
    "AROONOSC": "Of equal highs or lows the latest counts, so that a flat market is at 0.",
    "AD": "A bar without range adds 0.",
    "ADOSC": "A bar without range adds 0.",
    "PERCENTRANK": "The share of earlier closes that are lower: 0 on a flat market.",
    "HT_DCPERIOD": "TA-Lib's own value on a flat market.",
    "HT_DCPHASE": "TA-Lib's own value on a flat market, where rounding decides it.",
    "HT_SINE": "TA-Lib's own value on a flat market, where rounding decides it.",
    "HT_TRENDMODE": "TA-Lib's own value on a flat market.",
}


def note(name: str) -> str:
    """The sentence on a function's values where it divides 0 by 0; empty where it never does."""
    if name in UNDEFINED:
        return f" Null where {UNDEFINED[name][1]}."
    return f" {KEPT[name]}" if name in KEPT else ""


@lru_cache(maxsize=256)
def defined(name: str) -> Callable[..., Floats | tuple[Floats, ...]]:
    """The function of TA-Lib behind a name, with null for 0/0."""
    function = _scaled_money_flow if name == "MFI" else bare(name)
    return partial(_with_nulls, function, UNDEFINED[name][0]) if name in UNDEFINED else function


# Masks that follow from a window alone; the others follow from averages that remember for ever.
OF_A_WINDOW = frozenset(
    {
        *(_williams, _fast_stochastic, _stochastic, _kdj, _balance, _commodity_channel, _money, _chaikin_flow),
        *(_facilitation, _ultimate, _vortex, _way_of_close, _bodies, _correlation, _beta),
    }
)
# Masks that are false where the market moved in the last bars; true of the second set where it moved in the bars before
# as well.
NEEDS_A_HALT = frozenset(
    {_strength, _directional, _movement, _stochastic_momentum, _true_strength, _relative_volatility}
)
NEEDS_AN_EARLIER_HALT = frozenset({_rating, _mass, _chaikin_volatility})


def is_stochastic_rsi(mask: object) -> bool:
    """Whether it is the mask of STOCHRSI, which compares values of the RSI."""
    return mask is _stochastic_rsi


def is_volume_oscillator(mask: object) -> bool:
    """Whether it is the mask of PVO, which is false where volume was traded in the last bars."""
    return mask is _volume_oscillator


def flat_strength(rsi: NDArray[np.float64], fast: int, slow: int, kind: int) -> tuple[Mask, Mask]:
    """Where STOCHRSI divides by 0 at the last of each row's values of the RSI: K, then D."""
    windows = np.lib.stride_tricks.sliding_window_view(rsi[:, -(fast + slow - 1) :], fast, axis=1)
    flat = windows.max(axis=2) - windows.min(axis=2) <= RSI_TIE
    return flat[:, -1], flat.any(axis=1) if kind in FINITE_AVERAGES else flat[:, -1]


def without_nulls(
    function: Callable[..., Floats | tuple[Floats, ...]],
) -> tuple[Callable[..., Floats | tuple[Floats, ...]], Callable[..., Masks] | None]:
    """The function of TA-Lib behind what `defined` gives, and its mask."""
    if isinstance(function, partial) and function.func is _with_nulls:
        return function.args
    return function, None


def is_money_flow(function: object) -> bool:
    """Whether it is the money flow's function, which scales the volume before it calls TA-Lib."""
    return function is _scaled_money_flow


def scaled(function: Callable[..., Floats | tuple[Floats, ...]], values: Sequence[Floats]) -> list[Floats]:
    """The arguments that `defined` hands to TA-Lib: the money flow's volume is scaled."""
    return [*values[:-1], values[-1] * FLOW_SCALE] if function is _scaled_money_flow else [*values]


def _scaled_money_flow(high: Floats, low: Floats, close: Floats, volume: Floats, periods: int) -> Floats:
    return _money_flow(high, low, close, volume * FLOW_SCALE, periods)


def _with_nulls(
    function: Callable[..., Floats | tuple[Floats, ...]], undefined: Callable[..., Masks], *arguments: object
) -> Floats | tuple[Floats, ...]:
    result, masks = function(*arguments), undefined(*arguments)
    if not isinstance(result, tuple):
        return _nulled(result, masks if isinstance(masks, np.ndarray) else masks[0])
    each = masks if isinstance(masks, tuple) else (masks,) * len(result)
    return tuple(_nulled(values, mask) for values, mask in zip(result, each, strict=True))


def _nulled(values: Floats, mask: Mask) -> Floats:
    return np.where(mask, np.nan, values) if mask.any() else values
