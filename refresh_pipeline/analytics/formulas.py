"""Formulas: columns with their functions, and the computation that evaluates a list of formulas.

The formulas themselves are in enhanced_candles.py.
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
    # Returns one array per column, then one per state. The bars hold the numeric columns of earlier formulas.
    compute: Callable[[Bars], Sequence[Values]]
    # The first rows of each series, which have no value yet.
    undefined: int = 0
    # Names of recursions that columns use without being columns; checkpoints store their values.
    states: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """The names of its results, in order."""
        return [*(column.name for column in self.columns), *self.states]


def computation(name: str, formulas: Sequence[Formula], *, carries_candles: bool) -> Computation:
    """A computation of all columns of some formulas, evaluated in their order."""
    columns = [column for formula in formulas for column in formula.columns]
    states = [state for formula in formulas for state in formula.states]
    compute = partial(_compute, tuple(formulas), tuple(states))
    return Computation(name, columns, compute, carries_candles, states)


def _compute(formulas: Sequence[Formula], states: Sequence[str], bars: Bars) -> Mapping[str, Values]:
    computed, wanted = _evaluate(formulas, bars), bars.wanted_rows
    columns = {name: values[wanted] for name, values in computed.items() if name not in states}
    return columns | {name: computed[name] for name in states} if bars.with_states else columns


def _evaluate(formulas: Sequence[Formula], bars: Bars) -> Mapping[str, Values]:
    number = bars.number
    computed: dict[str, Values] = {}
    for formula in formulas:
        results = dict(zip(formula.names, formula.compute(bars), strict=True))
        if formula.undefined:
            _null_beginnings(results, number < formula.undefined)
        computed |= results
        numbers = {name: values for name, values in results.items() if values.dtype != object}
        bars = replace(bars, columns={**bars.columns, **numbers})
    return computed


def _null_beginnings(results: Mapping[str, Values], undefined: np.ndarray) -> None:
    rows = np.flatnonzero(undefined)
    for values in results.values():
        values[rows] = None if values.dtype == object else np.nan
