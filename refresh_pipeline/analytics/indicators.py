"""Indicators: the registry, one entry each, and the table that follows from it. How an average is computed is not here.

From an entry come the columns of the table with their types, units, descriptions and warm-ups, the documentation and
the tests. Adding an indicator is adding an entry to REGISTRY.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Column, Values
from refresh_pipeline.analytics.formulas import Formula, computation
from refresh_pipeline.analytics.recursions import (
    LAST_BIT,
    LEVEL,
    average_true_range,
    bars_to_forget,
    convergence_divergence,
    each_per_series,
    exponential_moving_average,
    per_series,
    relative_strength_index,
)
from refresh_pipeline.analytics.windows import simple_moving_average, standard_deviation, without_residue


@dataclass(frozen=True, slots=True)
class Output:
    """A column of an indicator; `{periods}` and the like in name and description stand for its parameters."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True, slots=True)
class Indicator:
    """One indicator: everything that the table, the documentation and the tests know of it."""

    name: str
    group: str
    # Whose formula it is, and which of its variants.
    source: str
    # One set of columns for each.
    parameters: Sequence[Mapping[str, int]]
    outputs: Sequence[Output]
    # All three take the parameters by name; `compute` takes the bars first and gives an array per output.
    compute: Callable[..., Sequence[Values]]
    # Rows at the beginning of a series without a value.
    undefined: Callable[..., int]
    warm_up: Callable[..., int]

    def formulas(self) -> Iterator[Formula]:
        """One formula for each set of parameters."""
        for parameters in self.parameters:
            compute = partial(self.compute, **parameters)
            yield Formula(self._columns(parameters), compute, undefined=self.undefined(**parameters))

    def _columns(self, parameters: Mapping[str, int]) -> list[Column]:
        warm_up = self.warm_up(**parameters)
        return [
            Column(
                output.name.format(**parameters), output.description.format(**parameters), output.unit, warm_up=warm_up
            )
            for output in self.outputs
        ]


def _sma(bars: Bars, periods: int) -> Sequence[Values]:
    return [simple_moving_average(bars["close"], periods)]


def _ema(bars: Bars, periods: int) -> Sequence[Values]:
    return [per_series(exponential_moving_average, bars, "close", periods=periods)]


def _rsi(bars: Bars, periods: int) -> Sequence[Values]:
    return [per_series(relative_strength_index, bars, "close", periods=periods)]


def _atr(bars: Bars, periods: int) -> Sequence[Values]:
    ranges = per_series(average_true_range, bars, "high", "low", "close", periods=periods)
    return [without_residue(ranges, bars["close"])]


def _macd(bars: Bars, fast: int, slow: int, signal: int) -> Sequence[Values]:
    lines = each_per_series(convergence_divergence, 3, bars, "close", fast=fast, slow=slow, signal=signal)
    return [without_residue(line, bars["close"]) for line in lines]


def _bollinger(bars: Bars, periods: int, deviations: int) -> Sequence[Values]:
    close = bars["close"]
    middle = simple_moving_average(close, periods)
    reach = deviations * standard_deviation(close, periods)
    upper, lower = middle + reach, middle - reach
    width = upper - lower
    percent = np.divide(close - lower, width, out=np.full(len(close), np.nan), where=width > 0)
    return [upper, middle, lower, width, percent]


def _rows_before_window(periods: int, **_: int) -> int:
    return periods - 1


def _ema_weight(periods: int) -> float:
    return 2 / (periods + 1)


REGISTRY: Sequence[Indicator] = (
    Indicator(
        name="sma",
        group="moving averages",
        source="Arithmetic mean; the same as TA-Lib SMA.",
        parameters=[{"periods": periods} for periods in (10, 20, 50, 100, 200)],
        outputs=[Output("sma_{periods}", "price", "Mean of the last {periods} closes.")],
        compute=_sma,
        undefined=_rows_before_window,
        warm_up=_rows_before_window,
    ),
    Indicator(
        name="ema",
        group="moving averages",
        source="TA-Lib EMA: weight 2 / (periods + 1), begun with the mean of the first closes.",
        parameters=[{"periods": periods} for periods in (10, 20, 50, 100, 200)],
        outputs=[Output("ema_{periods}", "price", "Exponential average of closes over {periods} bars.")],
        compute=_ema,
        undefined=_rows_before_window,
        warm_up=lambda periods: periods - 1 + bars_to_forget(_ema_weight(periods), LEVEL),
    ),
    Indicator(
        name="rsi",
        group="momentum",
        source="TA-Lib RSI: Wilder, New Concepts in Technical Trading Systems, 1978.",
        parameters=[{"periods": periods} for periods in (14, 21)],
        outputs=[Output("rsi_{periods}", "0 to 100", "Relative strength of gains against losses over {periods} bars.")],
        compute=_rsi,
        undefined=lambda periods: periods,
        warm_up=lambda periods: periods + bars_to_forget(1 / periods, LAST_BIT),
    ),
    Indicator(
        name="macd",
        group="momentum",
        source="TA-Lib MACD: Appel; both averages begin on the bar where the slow one can.",
        parameters=[{"fast": 12, "slow": 26, "signal": 9}],
        outputs=[
            Output("macd_line", "price", "EMA{fast} - EMA{slow} of closes."),
            Output("macd_signal", "price", "EMA{signal} of macd_line."),
            Output("macd_histogram", "price", "macd_line - macd_signal."),
        ],
        compute=_macd,
        undefined=lambda fast, slow, signal: slow + signal - 2,
        warm_up=lambda fast, slow, signal: slow + signal - 2 + bars_to_forget(_ema_weight(slow), LAST_BIT),
    ),
    Indicator(
        name="atr",
        group="volatility",
        source="TA-Lib ATR: Wilder, New Concepts in Technical Trading Systems, 1978.",
        parameters=[{"periods": periods} for periods in (14, 21)],
        outputs=[Output("atr_{periods}", "price", "Wilder's average of the true range over {periods} bars.")],
        compute=_atr,
        undefined=lambda periods: periods,
        warm_up=lambda periods: periods + bars_to_forget(1 / periods, LAST_BIT),
    ),
    Indicator(
        name="bollinger_bands",
        group="volatility",
        source="Bollinger; population standard deviation, as TA-Lib BBANDS.",
        parameters=[{"periods": 20, "deviations": 2}],
        outputs=[
            Output("bb_upper", "price", "Mean of the last {periods} closes + {deviations} standard deviations."),
            Output("bb_middle", "price", "Mean of the last {periods} closes."),
            Output("bb_lower", "price", "Mean of the last {periods} closes - {deviations} standard deviations."),
            Output("bb_width", "price", "bb_upper - bb_lower."),
            Output("bb_percent", "ratio", "(close - bb_lower) / bb_width; null where the bands have no width."),
        ],
        compute=_bollinger,
        undefined=_rows_before_window,
        warm_up=_rows_before_window,
    ),
)

INDICATORS = computation(
    "indicators", [formula for indicator in REGISTRY for formula in indicator.formulas()], carries_candles=False
)
