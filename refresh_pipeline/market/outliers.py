"""Implausible prices in coherent candles: a check flags them and changes nothing.

Four kinds are flagged: a jump that the next candle takes back; a factor of a hundred (pence and pounds); a step of the
size of a split; a single price far from the candle's others. What counts as far is a matter of the series:
a multiple of how much its closes usually move, and never less than half as much again.

A violent market is no fault: its candles have wide ranges of their own that lead from one price to the next, its
neighbours move as wildly, or its turnover is a multiple of the usual one. A split has none of these.
"""

from collections.abc import Callable, Mapping
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
# Evidence of trading. A step: the candle's own range is such a share of it. A wide candle, up to sevenfold: its
# neighbours reach as far, within a quarter. Both: at most so many times the median move of the bars around, or such
# a surge of turnover. Tried on GME in January 2021, where 11 of 23 true days had been taken for faults.
SHARE_OF_STEP = 0.25
WIDEST_TRADED = 2.0
REACH = 0.25
BARS_AROUND = 5
TIMES_MOVES_AROUND = 3.5
SURGE = 5.0
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
        prices: open, high, low and close, positive, in order of time within each series; `volume` where it is known.
        starts: where each series begins, and the end of the last one.

    >>> close = np.array([10.0, 10.1, 10.0, 1000.0, 10.1, 10.0, 2.0, 2.01])
    >>> found = price_faults(dict.fromkeys(("open", "high", "low", "close"), close), np.array([0, 8]))
    >>> found.rows.tolist(), [kind.value for kind in found.kinds]
    ([3, 6], ['a factor of 100', 'a step, as a split makes it'])
    """
    logs = {name: np.log(values) for name, values in prices.items() if name != "volume"}
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
    trading = _Trading(logs, moves, width, _surges(prices, starts), starts)
    faults = {
        Kind.unit: (hundredfold, moves),
        Kind.spike: (trading.without(jumps & taken_back, trading.explains_move), moves),
        Kind.step: (trading.without(jumps & ~taken_back, trading.explains_step), moves),
        Kind.inside: (trading.without(width > np.maximum(threshold, LEAST_JUMP), trading.explains_width), width),
    }
    return _first_of_each(faults, len(moves))


@dataclass(frozen=True, slots=True)
class _Trading:
    """The evidence that a violent candle was traded. Prices, moves and widths are logarithms."""

    logs: Mapping[str, Floats]
    moves: Floats
    width: Floats
    surges: NDArray[np.bool_]
    starts: NDArray[np.int64]

    def without(self, flagged: NDArray[np.bool_], explains: Callable[[int], bool]) -> NDArray[np.bool_]:
        """The flagged candles that trading does not explain."""
        left = flagged.copy()
        for row in np.flatnonzero(flagged):
            left[row] = not explains(int(row))
        return left

    def explains_step(self, row: int) -> bool:
        """Whether the candle's own range is a good part of the step, or the market explains it."""
        return bool(self.width[row] >= SHARE_OF_STEP * abs(self.moves[row])) or self.explains_move(row)

    def explains_move(self, row: int) -> bool:
        """Whether turnover surges, or the bars around move as wildly."""
        return bool(self.surges[row]) or self._is_usual_here(row, abs(self.moves[row]))

    def explains_width(self, row: int) -> bool:
        """Whether the bars beside reach as far, or the market explains it; never where no market moves as far."""
        width = self.width[row]
        beside = self._around(row, 1)
        reached = (
            beside.size > 0
            and self.logs["low"][beside].min() <= self.logs["low"][row] + REACH
            and self.logs["high"][beside].max() >= self.logs["high"][row] - REACH
        )
        return bool(width < WIDEST_TRADED and (reached or self.surges[row] or self._is_usual_here(row, width)))

    def _is_usual_here(self, row: int, size: float) -> bool:
        around = self._around(row, BARS_AROUND)
        return around.size >= BARS_AROUND and size <= TIMES_MOVES_AROUND * np.median(np.abs(self.moves[around]))

    def _around(self, row: int, bars: int) -> NDArray[np.int64]:
        """The rows of the same series up to so many bars away, without the row itself."""
        series = np.searchsorted(self.starts, row, side="right") - 1
        first, end = max(self.starts[series], row - bars), min(self.starts[series + 1], row + bars + 1)
        rows = np.arange(first, end)
        return rows[rows != row]


def _surges(prices: Mapping[str, Floats], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Candles whose turnover is a multiple of their series' median; at the lower of both prices beside a jump.

    At the lower price a split, which multiplies shares and divides their price, gives no more turnover than before.
    """
    close = prices["close"]
    if "volume" not in prices or not len(close):
        return np.zeros(len(close), dtype=bool)
    before = np.concatenate([close[:1], close[:-1]])
    turnover = np.nan_to_num(prices["volume"]) * np.minimum(close, before)
    medians = [float(np.median(turnover[a:b])) if b > a else 0.0 for a, b in pairwise(starts)]
    usual = np.repeat(np.array(medians), np.diff(starts))
    return (usual > 0) & (turnover >= SURGE * usual)


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
