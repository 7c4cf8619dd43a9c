"""Indicators as expressions in a market's YAML: arithmetic of candles, with windows that look back alone.

An expression is read into a tree of a few kinds of nodes; nothing of it is executed as Python. Its warm-up follows from
its windows. It is checked by truncation like every indicator of one's own.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refresh_pipeline.analytics.bars import Column
from refresh_pipeline.analytics.evaluation import BlockFormula, Part
from refresh_pipeline.analytics.own_indicators import require_no_look_ahead
from refresh_pipeline.analytics.rolling import (
    ratio,
    shifted,
    simple_moving_average,
    standard_deviation,
    windowed_maximum,
    windowed_sum,
)
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Floats

LONGEST, MOST_NODES, MOST_BARS = 500, 200, 2000
# Functions of a value and a number of bars; how many bars before a row each of them reads less than that number.
WINDOWS: Mapping[str, tuple[Callable[[Floats, int], Floats], int]] = {
    "lag": (shifted, 0),
    "mean": (simple_moving_average, 1),
    "sum": (windowed_sum, 1),
    "std": (standard_deviation, 1),
    "max": (windowed_maximum, 1),
    "min": (lambda values, bars: -windowed_maximum(-values, bars), 1),
}
PLAIN: Mapping[str, tuple[Callable[..., Floats], int]] = {
    "abs": (np.abs, 1),
    "log": (np.log, 1),
    "exp": (np.exp, 1),
    "sqrt": (np.sqrt, 1),
    "where": (lambda condition, yes, no: np.where(np.isnan(condition), np.nan, np.where(condition != 0, yes, no)), 3),
}
OPERATORS: Mapping[type[ast.AST], Callable[..., Floats]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: ratio,
    ast.Pow: np.power,
    ast.USub: np.negative,
}
COMPARISONS: Mapping[type[ast.AST], Callable[..., np.ndarray]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
FUNCTIONS = ", ".join([*(f"{name}(x, bars)" for name in WINDOWS), *(f"{name}(...)" for name in PLAIN)])
ALLOWED = f"allowed: {', '.join(CANDLE_COLUMNS)}, numbers, + - * / **, comparisons (1 or 0), {FUNCTIONS}"


class ExpressionError(ValueError):
    """An expression cannot be used; the message says which part, and what is allowed."""


@dataclass(frozen=True, slots=True)
class _Read:
    """What an expression reads: its candle columns in order, and how many bars before a row."""

    inputs: tuple[str, ...]
    bars: int


def expression_part(name: str, text: str) -> Part[BlockFormula]:
    """The part of one column that an expression computes.

    Raises:
        ExpressionError: the expression is none, or does more than is allowed.
        OwnIndicatorError: a value depends on later bars, which no allowed expression should.
    """
    read = _read(_tree(text))
    if not read.inputs:
        raise ExpressionError(f"found {text!r}, which reads no candle; {ALLOWED}")
    formula = BlockFormula(expression_values, list(read.inputs), [text, read.inputs], read.bars)
    require_no_look_ahead(name, formula)
    return Part([Column(name, f"{text}.", "number", warm_up=formula.begins_before)], formula)


def expression_values(*given: object) -> Floats:
    """The values of an expression: arrays of candles, then its text and the names of the arrays.

    >>> expression_values(np.array([1.0, 2.0, 4.0]), "close / lag(close, 1) - 1", ("close",))
    array([nan,  1.,  1.])
    """
    *arrays, text, names = given
    known: dict[str, Floats] = dict(zip(names, arrays, strict=True))  # pyright: ignore[reportArgumentType]
    with np.errstate(all="ignore"):
        values = np.asarray(_value(_tree(str(text)), known), dtype=np.float64)
    # Infinite is no value: a division by zero is null, as everywhere.
    return np.where(np.isfinite(values), values, np.nan)


def _tree(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise ExpressionError(f"found {len(text)} characters, allowed: {LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"found {text!r}, which is no expression: {getattr(error, 'msg', error)}") from None
    if sum(1 for _ in ast.walk(tree)) > MOST_NODES:
        raise ExpressionError(f"found an expression of more than {MOST_NODES} parts; allowed: fewer")
    return tree


def _read(node: ast.expr) -> _Read:
    """What a node reads; refuses every kind of node that is not allowed."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _Read((), 0)
        case ast.Name(id=name) if name in CANDLE_COLUMNS:
            return _Read((name,), 0)
        case ast.UnaryOp(op=operator, operand=operand) if type(operator) in OPERATORS:
            return _read(operand)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
            return _both([left, right])
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in COMPARISONS:
            return _both([left, right])
        case ast.Call(func=ast.Name(id=name), args=[value, bars], keywords=[]) if name in WINDOWS:
            within = _read(value)
            return _Read(within.inputs, within.bars + _bars(name, bars) - WINDOWS[name][1])
        case ast.Call(func=ast.Name(id=name), args=values, keywords=[]) if (
            len(values) == PLAIN.get(name, (None, -1))[1]
        ):
            return _both(values)
    raise ExpressionError(f"found {ast.unparse(node)!r}; {ALLOWED}")


def _both(nodes: Sequence[ast.expr]) -> _Read:
    parts = [_read(node) for node in nodes]
    inputs = tuple(dict.fromkeys(name for part in parts for name in part.inputs))
    return _Read(inputs, max(part.bars for part in parts))


def _bars(name: str, node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as bars) if not isinstance(bars, bool) and 1 <= bars <= MOST_BARS:
            return bars
    raise ExpressionError(
        f"{name}: found {ast.unparse(node)!r} bars, allowed: 1 to {MOST_BARS}; later bars are unknown"
    )


def _value(node: ast.expr, known: Mapping[str, Floats]) -> Floats:
    match node:
        case ast.Constant(value=value):
            return np.full(len(next(iter(known.values()))), float(value))  # pyright: ignore[reportArgumentType]
        case ast.Name(id=name):
            return known[name]
        case ast.UnaryOp(op=operator, operand=operand):
            return OPERATORS[type(operator)](_value(operand, known))
        case ast.BinOp(left=left, op=operator, right=right):
            return OPERATORS[type(operator)](_value(left, known), _value(right, known))
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            one, other = _value(left, known), _value(right, known)
            return np.where(np.isnan(one) | np.isnan(other), np.nan, COMPARISONS[type(operator)](one, other))
        case ast.Call(func=ast.Name(id=name), args=[value, ast.Constant(value=bars)]) if name in WINDOWS:
            return WINDOWS[name][0](_value(value, known), int(bars))  # pyright: ignore[reportArgumentType]
        case ast.Call(func=ast.Name(id=name), args=values):
            return PLAIN[name][0](*(_value(each, known) for each in values))
    raise ExpressionError(f"found {ast.unparse(node)!r}; {ALLOWED}")
