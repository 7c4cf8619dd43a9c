"""Averages that remember for ever and can be gone on with: for all series at once, from a state or from the beginning.

An average of this kind needs one number to go on from any bar. Going on gives the same bits as computing everything,
provided that the tail begins on a multiple of BLOCK: blocks are what the computation is made of. Where the numbers are
kept is the warehouse's matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.market.candles import Floats

# Bars in a block. Checkpoints lie after every so many bars of a series: long enough that they take a thousandth of the
# space of what they belong to, short enough that a refresh reads few bars more than it looks back anyway.
BLOCK = 128


@dataclass(frozen=True, slots=True)
class Average:
    """s[i] = s[i-1] + weight * (x[i] - s[i-1]), begun at row `begins` with the mean of the first `periods` values."""

    state: str
    periods: int
    weight: float
    begins: int


def smoothed(periods: int) -> Average:
    """The SMMA of Bill Williams' alligator: s[i] = (s[i-1] * (periods - 1) + x[i]) / periods from row `periods` on."""
    return Average(f"smma_{periods}", periods, 1 / periods, begins=periods)


def averages(bars: Bars, values: Floats, wanted: Sequence[Average]) -> list[Floats]:
    """Each average of one column, in its unit; NaN before row `begins` of a series.

    >>> prices = np.array([1.0, 3.0, 99.0, 6.0])
    >>> bars = Bars(np.arange(4).astype("datetime64[us]"), {}, np.array([0, 4]))
    >>> averages(bars, prices, [smoothed(2)])[0]
    array([nan, nan,  2.,  4.])
    """
    blocks, number = _Blocks.of(bars), bars.number
    padded = blocks.padded(values)
    parts = [_part(bars, blocks, padded, average) for average in wanted]
    _carry(blocks, parts)
    finished = [part.finished()[blocks.cells] for part in parts]
    for average, line in zip(wanted, finished, strict=True):
        line[number < average.begins] = np.nan
    return finished


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Where the rows of each series lie when every series fills whole blocks."""

    counts: NDArray[np.int64]
    firsts: NDArray[np.int64]
    cells: NDArray[np.int64]

    @classmethod
    def of(cls, bars: Bars) -> "_Blocks":
        counts = -(-bars.lengths // BLOCK)
        firsts = np.cumsum(counts) - counts
        return cls(counts, firsts, np.repeat(firsts * BLOCK, bars.lengths) + bars.position)

    def padded(self, values: Floats) -> Floats:
        cells = np.zeros(int(self.counts.sum()) * BLOCK)
        cells[self.cells] = values
        return cells


@dataclass(frozen=True, slots=True)
class _Part:
    """One average, block by block: as it would be if each block began at its own first value, and what adds to that.

    Distances from a block's first value, because a market that stands still then has an average equal to its price.
    """

    base: Floats
    alone: Floats
    fall: Floats
    # The state before each series, and of each block the distance that its predecessor leaves it.
    state: Floats
    left_over: Floats

    def finished(self) -> Floats:
        total = self.left_over[:, None] * self.fall
        total += self.alone
        total += self.base[:, None]
        return total.ravel()


def _part(bars: Bars, blocks: _Blocks, padded: Floats, average: Average) -> _Part:
    cells, state = _begun(bars, blocks, padded, average)
    rows = cells.reshape(-1, BLOCK)
    base = rows[:, 0].copy()
    fall = np.power(1 - average.weight, np.arange(1, BLOCK + 1), dtype=np.float64)
    alone = np.subtract(rows, base[:, None], out=rows)
    # s[i] = fall[i] * sum of weight * x[j] / fall[j]: one running sum, in the same order wherever a block is computed.
    alone /= fall
    np.cumsum(alone, axis=1, out=alone)
    alone *= average.weight * fall
    return _Part(base, alone, fall, state, np.empty(len(base)))


def _begun(bars: Bars, blocks: _Blocks, padded: Floats, average: Average) -> tuple[Floats, Floats]:
    """The cells and states to start from: a series that begins stands at its seed up to the row where it counts."""
    cells = padded.copy()
    state = bars.states.get(average.state, np.empty(len(bars.lengths))).astype(np.float64)
    begins = np.flatnonzero((bars.earlier == 0) & (bars.lengths > average.begins))
    starts = blocks.firsts[begins] * BLOCK
    first = padded[starts]
    window = padded[starts[:, None] + np.arange(average.periods)]
    state[begins] = first + (window - first[:, None]).sum(axis=1) / average.periods
    cells[starts[:, None] + np.arange(average.begins + 1)] = state[begins][:, None]
    return cells, state


def _carry(blocks: _Blocks, parts: Sequence[_Part]) -> None:
    """Hand each block's last value to the next: block after block, for all averages and series at once."""
    order = np.argsort(-blocks.counts, kind="stable")
    firsts, counts = blocks.firsts[order], blocks.counts[order]
    base = np.stack([part.base for part in parts])
    ends = np.stack([part.alone[:, -1] for part in parts])
    fall = np.array([[part.fall[-1]] for part in parts])
    state = np.stack([part.state[order] for part in parts])
    left_over = np.empty_like(base)
    for step in range(int(counts.max(initial=0))):
        block = firsts[: np.searchsorted(-counts, -step)] + step
        own = base[:, block]
        distance = state[:, : len(block)] - own
        left_over[:, block] = distance
        state[:, : len(block)] = distance * fall + ends[:, block] + own
    for part, distances in zip(parts, left_over, strict=True):
        part.left_over[:] = distances
