"""Indicators of other packages: entry points of the group `refresh_pipeline.indicators`, checked for look-ahead.

An entry point names an `Indicator` that `own_indicator` has made. It is checked by truncation before its use: no value
may change when later bars are cut off, or bars before the warm-up.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

import numpy as np

from refresh_pipeline.analytics.bars import Column
from refresh_pipeline.analytics.evaluation import BlockFormula, Part
from refresh_pipeline.analytics.registry import DefaultColumns, Indicator
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Floats

GROUP = "refresh_pipeline.indicators"
# The name of their group in a market's YAML: `compute: [own]`.
OWN = "own"
# Bars of the check behind the warm-up, and the relative precision that every stored column keeps.
BARS_CHECKED, PRECISION = 64, 1e-9


class OwnIndicatorError(ValueError):
    """An indicator of another package cannot be used; the message names it and says why."""


def own_indicator(
    name: str,
    compute: Callable[..., Floats],
    *,
    inputs: Sequence[str] = ("close",),
    warm_up: int,
    description: str,
    unit: str = "number",
    version: int = 1,
) -> Indicator:
    """An indicator of one column, computed from the bars of one series.

    Args:
        name: of the indicator and of its column: lower-case letters, digits and _.
        compute: gets a float64 array for each input, oldest bar first, and returns one of the same length; NaN
            for no value. It gets stretches of a series that begin `warm_up` bars or more before the first wanted row.
        inputs: open, high, low, close or volume.
        warm_up: bars before a row that its value depends on.
        description: its meaning, as the web UI and the documentation show it.
        unit: of its values.
        version: raise it whenever `compute` changes: stored values are computed anew then.

    Raises:
        OwnIndicatorError: an argument is not allowed.
    """
    if not name.isidentifier() or name != name.lower():
        raise OwnIndicatorError(f"name: found {name!r}, allowed: lower-case letters, digits and _")
    if unknown := [each for each in inputs if each not in CANDLE_COLUMNS]:
        raise OwnIndicatorError(f"{name}: inputs: found {unknown[0]!r}, allowed: {', '.join(CANDLE_COLUMNS)}")
    if warm_up < 0:
        raise OwnIndicatorError(f"{name}: warm_up: found {warm_up}, allowed: 0 or more")
    formula = BlockFormula(compute, list(inputs), [], warm_up, version=version)
    column = Column(name, description, unit, warm_up=formula.begins_before)
    return Indicator(
        name=name,
        group=OWN,
        source=f"{compute.__module__}.{getattr(compute, '__name__', name)}.",
        parameters={},
        outputs=[name],
        shipped=[DefaultColumns(OWN, {}, [name])],
        cumulative=False,
        part=lambda _, __: Part([column], formula),
    )


def require_no_look_ahead(name: str, formula: BlockFormula) -> None:
    """Compute simulated bars whole and cut, and compare.

    Raises:
        OwnIndicatorError: the function fails, its result has another length, a value depends on later bars, or on bars
            before the warm-up.
    """
    count = formula.warm_up + BARS_CHECKED
    bars = _simulated(count)
    arrays = [bars[each] for each in formula.takes]
    whole = _computed(name, formula, arrays)
    for cut in range(count - BARS_CHECKED + 1, count, 7):
        if not _equal(_computed(name, formula, [each[:cut] for each in arrays]), whole[:cut]):
            raise OwnIndicatorError(f"{name}: a value changes when later bars are cut off: it looks ahead")
    for first in range(1, BARS_CHECKED, 7):
        begun = _computed(name, formula, [each[first:] for each in arrays])
        if not _equal(begun[formula.warm_up :], whole[first + formula.warm_up :]):
            raise OwnIndicatorError(
                f"{name}: a value depends on more than the {formula.warm_up} bars of its warm_up; raise it"
            )


def _computed(name: str, formula: BlockFormula, arrays: Sequence[Floats]) -> Floats:
    try:
        values = np.asarray(formula.function(*(each.copy() for each in arrays), *formula.arguments), dtype=np.float64)
    except Exception as error:
        raise OwnIndicatorError(f"{name}: {type(error).__name__}: {error}") from error
    if values.shape != arrays[0].shape:
        raise OwnIndicatorError(
            f"{name}: found values of shape {values.shape}, allowed: {arrays[0].shape}, one for each bar"
        )
    return values


def _equal(left: Floats, right: Floats) -> bool:
    return bool(np.allclose(left, right, rtol=PRECISION, atol=0, equal_nan=True))


def _simulated(count: int) -> dict[str, Floats]:
    """Bars of a random walk, the same each time."""
    random = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, count)))
    opened = np.append(100.0, close[:-1])
    spread = random.uniform(1.0, 1.01, (2, count))
    high, low = np.maximum(opened, close) * spread[0], np.minimum(opened, close) / spread[1]
    return dict(zip(CANDLE_COLUMNS, (opened, high, low, close, random.uniform(1, 100, count)), strict=True))


@lru_cache(maxsize=1)
def own_indicators() -> tuple[Indicator, ...]:
    """The indicators of installed packages; one that cannot be used raises OwnIndicatorError when it is chosen."""
    return tuple(map(_loaded, sorted(entry_points(group=GROUP), key=lambda point: point.name)))


def _loaded(point: EntryPoint) -> Indicator:
    try:
        indicator = _require_indicator(point.load())
        formula = indicator.part({}, indicator.outputs).formula
        if isinstance(formula, BlockFormula):
            require_no_look_ahead(indicator.name, formula)
    except Exception as error:
        return _unusable(point, error)
    return indicator


def _require_indicator(found: object) -> Indicator:
    if not isinstance(found, Indicator):
        raise OwnIndicatorError(f"found {type(found).__name__}, allowed: the result of own_indicator")
    return found


def _unusable(point: EntryPoint, error: Exception) -> Indicator:
    message = f"indicator {point.name!r} of {point.value} cannot be used: {error}"

    def refuse(*_: object) -> Part:
        raise OwnIndicatorError(message) from error

    shipped = [DefaultColumns(OWN, {}, [point.name])]
    return Indicator(point.name, OWN, point.value, {}, [point.name], shipped, cumulative=False, part=refuse)
