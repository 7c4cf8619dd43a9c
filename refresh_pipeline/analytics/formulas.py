"""Formulas: columns with their functions, and the computation that evaluates a list of formulas.

The formulas themselves are in enhanced_candles.py.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Column, Computation, Values
from refresh_pipeline.analytics.fingerprints import Fingerprint, fingerprint
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Floats


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
    # Raised with every change of its code that changes a value: stored values are computed anew.
    version: int = 1

    @property
    def names(self) -> list[str]:
        """The names of its results, in order."""
        return [*(column.name for column in self.columns), *self.states]


def computation(name: str, formulas: Sequence[Formula], *, carries_candles: bool) -> Computation:
    """A computation of all columns of some formulas, evaluated in their order."""
    needs = _needs(formulas)
    return _computation(
        name, formulas, needs, [result for formula in formulas for result in formula.names], carries_candles
    )


def _computation(
    name: str,
    formulas: Sequence[Formula],
    needs: Mapping[str, Collection[str]],
    wanted: Collection[str],
    carries_candles: bool,
) -> Computation:
    """A computation of the wanted columns, and of all states of the formulas."""
    columns = [column for formula in formulas for column in formula.columns if column.name in wanted]
    states = [state for formula in formulas for state in formula.states]
    compute = partial(_compute, tuple(formulas), [column.name for column in columns], tuple(states))
    return Computation(
        name,
        columns,
        compute,
        carries_candles,
        states,
        fingerprints=_fingerprints(formulas, needs),
        narrow=lambda names: _computation(name, _behind(names, formulas, needs), needs, names, carries_candles),
    )


def _behind(names: Collection[str], formulas: Sequence[Formula], needs: Mapping[str, Collection[str]]) -> list[Formula]:
    """The formulas of some columns and states, and those that they need, in their order."""
    wanted, chosen = set(names), []
    for formula in reversed(formulas):
        if wanted & {*formula.names}:
            chosen.append(formula)
            wanted |= {need for name in formula.names for need in needs[name]}
    return chosen[::-1]


def _fingerprints(formulas: Sequence[Formula], needs: Mapping[str, Collection[str]]) -> dict[str, Fingerprint]:
    known: dict[str, Fingerprint] = {}
    for formula in formulas:
        needed = {name: known[name] for result in formula.names for name in needs[result]}
        whole = fingerprint(formula.version, formula.compute, formula.undefined, formula.states, needs=needed)
        for number, name in enumerate(formula.names):
            known[name] = fingerprint(whole.version, whole.text, number)
    return known


class _Recorder(dict[str, Floats]):
    """Columns that record which of them are read."""

    def __init__(self, columns: Mapping[str, Floats]) -> None:
        super().__init__(columns)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Floats:
        self.read.add(name)
        return super().__getitem__(name)


def _needs(formulas: Sequence[Formula]) -> dict[str, set[str]]:
    """The results of earlier formulas that each result is computed from, by what each formula reads of two bars."""
    bars = Bars(
        np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[us]"),
        dict.fromkeys(CANDLE_COLUMNS, np.array([1.0, 2.0])),
        np.array([0, 2]),
    )
    needs: dict[str, set[str]] = {}
    for formula in formulas:
        recorder = _Recorder(bars.columns)
        results = formula.compute(replace(bars, columns=recorder))
        needs |= dict.fromkeys(formula.names, recorder.read & needs.keys())
        numbers = {name: values for name, values in zip(formula.names, results, strict=True) if values.dtype != object}
        bars = replace(bars, columns={**bars.columns, **numbers})
    return needs


def _compute(
    formulas: Sequence[Formula], names: Sequence[str], states: Sequence[str], bars: Bars
) -> Mapping[str, Values]:
    computed, wanted = _evaluate(formulas, bars), bars.wanted_rows
    every = len(wanted) == len(bars)
    columns = {name: computed[name] if every else computed[name][wanted] for name in names}
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
