"""Formulas that compute many blocks in one call give the bits of a call for each block."""

from dataclasses import replace

import numpy as np
import pytest

from refresh_pipeline.analytics import charting, side_by_side
from refresh_pipeline.analytics.charting_registry import CHARTING, ChartingFunction
from refresh_pipeline.analytics.denominators import without_nulls
from refresh_pipeline.analytics.evaluation import BlockFormula, Part, of_kind, outputs_of
from refresh_pipeline.analytics.tradingview import VARIANTS
from refresh_pipeline.market.candles import Floats
from refresh_pipeline_tests.analytics.sample_bars import INDICATORS, Market, history

RECURSIONS = {name: each for name, each in {**CHARTING, **VARIANTS}.items() if each.side_by_side}
MARKETS = (
    Market(bars=6000, volatility=0.002, seed=1),
    Market(bars=6000, halted=500, seed=2),
    Market(bars=6000, volatility=0.0005, price=1.0, tick=0.001, halted=200, seed=3),
)


def stretches_of(formula: BlockFormula, market: Market) -> list[list[Floats]]:
    """Stretches as blocks have them, of several lengths."""
    candles, ends = history(market), (1024, 1300, 1811, 2100, 2700, 3212, 4001, 4999, 6000)
    begins = [(end - 1) // 512 * 512 - formula.begins_before for end in ends]
    return [
        [candles[name][max(begin, 0) : end] for name in formula.takes] for begin, end in zip(begins, ends, strict=True)
    ]


@pytest.mark.parametrize("market", MARKETS, ids=lambda market: f"seed {market.seed}")
@pytest.mark.parametrize("function", RECURSIONS.values(), ids=list(RECURSIONS))
def test_many_stretches_at_once_have_the_values_of_each_alone(function: ChartingFunction, market: Market) -> None:
    formula = function.part(function.parameters, [name for name, *_ in function.columns]).formula
    assert isinstance(formula, BlockFormula)
    assert formula.side_by_side is not None
    stretches = stretches_of(formula, market)
    together = formula.side_by_side(stretches, *formula.arguments)
    for number, stretch in enumerate(stretches):
        alone = formula.function(*stretch, *formula.arguments)
        for output, wanted in zip(together, alone if isinstance(alone, tuple) else (alone,), strict=True):
            np.testing.assert_array_equal(output[: len(wanted), number], wanted)


@pytest.mark.parametrize("prices", [(1e100, 1e-100), (1e-100, 1e100)], ids=["collapse", "rise"])
def test_a_line_begins_anew_where_a_price_leaves_all_measure(prices: tuple[float, float]) -> None:
    close = np.repeat(prices, 40)
    alone = charting.mcginley(close, 14)
    [together] = side_by_side.mcginley([[close]], 14)
    np.testing.assert_array_equal(together[:, 0], alone)
    assert np.isfinite(alone[-30:]).all()


PARTS = [part for part in INDICATORS.parts if isinstance(part, Part)]
WINDOWED = [part.formula for part in of_kind(PARTS, BlockFormula) if part.formula.of_a_window]


@pytest.mark.parametrize("market", MARKETS, ids=lambda market: f"seed {market.seed}")
def test_a_function_of_a_window_has_the_same_values_wherever_its_arrays_begin(market: Market) -> None:
    candles = history(market)
    candles = {**candles, "volume_or_0": np.nan_to_num(candles["volume"])}
    for formula in WINDOWED:
        function, _ = without_nulls(formula.function)
        plain, arrays = replace(formula, function=function), [candles[name] for name in formula.takes]
        whole = outputs_of(plain, arrays, 0)
        for begin, end in ((1, 700), (513, 1100), (3000, 6000), (4099, 5555)):
            late = outputs_of(plain, [values[begin:end] for values in arrays], formula.begins_before)
            for output, wanted in zip(late, whole, strict=True):
                np.testing.assert_array_equal(output, wanted[begin + formula.begins_before : end], str(formula))
