"""Implausible prices in coherent candles: a check flags them and changes nothing.

A jump that the next candle takes back, a factor of a hundred (pence and pounds), a step as a split makes it that is not
in the prices before, and a single price of a candle far from its others. What counts as far is a matter of the series:
a multiple of how much its closes usually move, and never less than half as much again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import Floats

# In logarithms of a ratio. The largest true moves of what these were tried on: 15 % in a day (SPY, 2008), 14 % in an
# hour (bitcoin, 2017), threefold in a day for a share of a hundredth of a cent, which moves by its tick every day.
LEAST_JUMP = np.log(1.5)
USUAL_MOVES = 8.0
HUNDREDFOLD = np.log(100.0)
# What a market does in the same bar beside.
NEAR_HUNDRED = 0.2
# How much of a jump may be left after the next candle has taken it back.
LEFT_OVER = 0.25


@dataclass(frozen=True, slots=True)
class PriceFaults:
    """Rows of candles with a fault: which, what it looks like, and the ratio that gives it away."""

    rows: NDArray[np.int64]
    kinds: NDArray[np.object_]
    ratios: Floats


class Kind(StrEnum):
    """What a fault looks like."""

    unit = "a factor of 100"
    spike = "a jump that the next candle takes back"
    step = "a step, as a split makes it"
    inside = "a price far from the candle's others"


def price_faults(prices: Mapping[str, Floats], starts: NDArray[np.int64]) -> PriceFaults:
    """The candles with an implausible price, of many series behind one another.

    Args:
        prices: open, high, low and close, positive, in order of time within each series.
        starts: where each series begins, and the end of the last one.

    >>> close = np.array([10.0, 10.1, 10.0, 1000.0, 10.1, 10.0, 2.0, 2.01])
    >>> found = price_faults(dict.fromkeys(("open", "high", "low", "close"), close), np.array([0, 8]))
    >>> found.rows.tolist(), [kind.value for kind in found.kinds]
    ([3, 6], ['a factor of 100', 'a step, as a split makes it'])
    """
    logs = {name: np.log(values) for name, values in prices.items()}
    moves = _moves(logs["close"], starts)
    threshold = np.maximum(LEAST_JUMP, USUAL_MOVES * _usual(moves, starts))
    following = np.append(moves[1:], 0.0)
    following[starts[1:] - 1] = 0.0
    taken_back = np.abs(moves + following) < LEFT_OVER * np.abs(moves)
    # The way back is no fault of its own.
    is_way_back = np.concatenate([[False], taken_back[:-1] & (np.abs(moves[:-1]) > threshold[:-1])])[: len(moves)]
    jumps = (np.abs(moves) > threshold) & ~is_way_back
    hundredfold = (np.abs(np.abs(moves) - HUNDREDFOLD) < NEAR_HUNDRED) & ~is_way_back
    width = logs["high"] - logs["low"]
    faults = {
        Kind.unit: (hundredfold, moves),
        Kind.spike: (jumps & taken_back, moves),
        Kind.step: (jumps & ~taken_back, moves),
        Kind.inside: (width > np.maximum(threshold, LEAST_JUMP), width),
    }
    return _first_of_each(faults, len(moves))


def _moves(log_close: Floats, starts: NDArray[np.int64]) -> Floats:
    """How far each close lies from the one before, in logarithms; 0 for the first of a series."""
    moves = np.diff(log_close, prepend=log_close[:1])
    moves[starts[:-1][np.diff(starts) > 0]] = 0.0
    return moves


def _usual(moves: Floats, starts: NDArray[np.int64]) -> Floats:
    """How much a series' closes usually move: the median of those that moved, jumps taken as no more than twofold."""
    sizes = np.minimum(np.abs(moves), np.log(2.0))
    usual = [_median_of_moved(sizes[a:b]) for a, b in pairwise(starts)]
    return np.repeat(np.array(usual), np.diff(starts))


def _median_of_moved(sizes: Floats) -> float:
    moved = sizes[sizes > 0]
    # A handful of moves says nothing of what is usual.
    return float(np.median(moved)) if len(moved) >= 5 else 0.0


def _first_of_each(faults: Mapping[Kind, tuple[NDArray[np.bool_], Floats]], count: int) -> PriceFaults:
    kinds, ratios = np.full(count, None, dtype=object), np.zeros(count)
    for kind, (holds, logs) in reversed(list(faults.items())):
        kinds[holds] = kind
        ratios[holds] = np.exp(logs[holds])
    rows = np.flatnonzero(np.any([holds for holds, _ in faults.values()], axis=0))
    return PriceFaults(rows, kinds[rows], ratios[rows])
