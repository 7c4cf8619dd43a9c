"""Formulas: columns with what computes them, and how a list of formulas becomes a computation.

Which formulas there are is said in enhanced_candles.py and indicators.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Column, Computation, Values


@dataclass(frozen=True, slots=True)
class Formula:
    """One or several columns that are computed together."""

    columns: Sequence[Column]
    # Gives one array per column. The bars hold the numeric columns of earlier formulas beside the candle's own.
    compute: Callable[[Bars], Sequence[Values]]
    # Rows at the beginning of each series that have no value yet.
    undefined: int = 0


def computation(name: str, formulas: Sequence[Formula], *, carries_candles: bool) -> Computation:
    """A computation of all columns of some formulas, evaluated in their order."""
    columns = [column for formula in formulas for column in formula.columns]
    return Computation(name, columns, partial(_compute, tuple(formulas)), carries_candles)


def _compute(formulas: Sequence[Formula], bars: Bars) -> Mapping[str, Values]:
    position = bars.position
    computed: dict[str, Values] = {}
    for formula in formulas:
        results = dict(zip((column.name for column in formula.columns), formula.compute(bars), strict=True))
        _null_beginnings(results, position < formula.undefined)
        computed |= results
        numbers = {name: values for name, values in results.items() if values.dtype != object}
        bars = replace(bars, columns={**bars.columns, **numbers})
    return computed


def _null_beginnings(results: Mapping[str, Values], undefined: np.ndarray) -> None:
    for values in results.values():
        values[undefined] = None if values.dtype == object else np.nan
