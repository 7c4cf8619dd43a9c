"""Recursive averages (EMA, SMMA) for many series at once, resumable from a checkpoint.

A checkpoint is one number per average. Resuming gives the same bits as computing everything, provided that the tail
begins on a multiple of CHECKPOINT_BARS, because the computation works block by block. The warehouse stores the
checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.market.candles import Floats

# Bars between two checkpoints of a series. At 128 they take a thousandth of the space of the table that they belong to,
# and a refresh reads few bars more than its formulas look back.
CHECKPOINT_BARS = 128


@dataclass(frozen=True, slots=True)
class Average:
    """s[i] = s[i-1] + weight * (x[i] - s[i-1]); row `begins` holds the mean of the first `periods` values."""

    state: str
    periods: int
    weight: float
    begins: int


def smoothed(periods: int) -> Average:
    """The SMMA of Bill Williams' alligator: s[i] = (s[i-1] * (periods - 1) + x[i]) / periods from row `periods` on."""
    return Average(f"smma_{periods}", periods, 1 / periods, begins=periods)


def averages(bars: Bars, values: Floats, wanted: Sequence[Average]) -> list[Floats]:
    """Each average of one column, in its unit; NaN before row `begins` of a series.

    With `Bars.memory`, where each series' last block stands is written there; a later call with one row a series goes
    on from it, bit for bit.

    >>> prices = np.array([1.0, 3.0, 99.0, 6.0])
    >>> bars = Bars(np.arange(4).astype("datetime64[us]"), {}, np.array([0, 4]))
    >>> averages(bars, prices, [smoothed(2)])[0]
    array([nan, nan,  2.,  4.])
    """
    if bars.memory is not None and (bars.lengths == 1).all() and (bars.earlier > 0).all():
        return [_next_row(bars, bars.memory, values, average) for average in wanted]
    blocks, number = _Blocks.of(bars), bars.number
    padded = blocks.padded(values)
    parts = [_part(bars, blocks, padded, average) for average in wanted]
    _carry(blocks, parts)
    finished = [blocks.unpadded(part.finished()) for part in parts]
    if bars.memory is not None:
        for average, part, line in zip(wanted, parts, finished, strict=True):
            bars.memory[average.state] = _last_block(bars, blocks, padded, (average, part, line))
    early = np.flatnonzero(number < max((average.begins for average in wanted), default=0))
    for average, line in zip(wanted, finished, strict=True):
        line[early[number[early] < average.begins]] = np.nan
    return finished


def _next_row(bars: Bars, memory: dict[str, Floats], values: Floats, average: Average) -> Floats:
    """One more row of each series, from where its present block stands: the same operations in the same order."""
    base, total, left_over, value = memory[average.state]
    at = bars.earlier % CHECKPOINT_BARS
    begins = at == 0
    fall = np.power(1 - average.weight, np.arange(1, CHECKPOINT_BARS + 1), dtype=np.float64)
    left_over = np.where(begins, value - values, left_over)
    base = np.where(begins, values, base)
    total = np.where(begins, 0.0, total) + (values - base) / fall[at]
    value = left_over * fall[at] + total * (average.weight * fall)[at] + base
    memory[average.state] = np.stack([base, total, left_over, value])
    return value


def _last_block(bars: Bars, blocks: "_Blocks", padded: Floats, computed: "tuple[Average, _Part, Floats]") -> Floats:
    """Where each series' last block stands: its first value, its running sum, what it was left, the line's value."""
    average, part, line = computed
    block, last = blocks.firsts + blocks.counts - 1, bars.starts[1:] - 1
    fall = np.power(1 - average.weight, np.arange(1, CHECKPOINT_BARS + 1), dtype=np.float64)
    rows = padded.reshape(-1, CHECKPOINT_BARS)[block]
    sums = np.cumsum((rows - part.base[block][:, None]) / fall, axis=1)
    at = (bars.lengths - 1) % CHECKPOINT_BARS
    return np.stack([part.base[block], sums[np.arange(len(block)), at], part.left_over[block], line[last]])


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The places of each series' rows when every series is padded to whole blocks."""

    counts: NDArray[np.int64]
    firsts: NDArray[np.int64]
    cells: NDArray[np.int64]

    @classmethod
    def of(cls, bars: Bars) -> "_Blocks":
        counts = -(-bars.lengths // CHECKPOINT_BARS)
        firsts = np.cumsum(counts) - counts
        return cls(counts, firsts, np.repeat(firsts * CHECKPOINT_BARS, bars.lengths) + bars.position)

    def padded(self, values: Floats) -> Floats:
        cells = np.zeros(int(self.counts.sum()) * CHECKPOINT_BARS)
        cells[self._places] = values
        return cells

    def unpadded(self, cells: Floats) -> Floats:
        """The rows that `padded` has put into cells."""
        return cells[self._places]

    @property
    def _places(self) -> slice | NDArray[np.int64]:
        # The rows of a single series lie as they do.
        return slice(0, len(self.cells)) if len(self.counts) == 1 else self.cells


@dataclass(frozen=True, slots=True)
class _Part:
    """One average, block by block: its value if each block started at its first value, plus the predecessor's rest.

    Values are distances from a block's first value, so that the average of constant prices equals the price exactly.
    """

    base: Floats
    alone: Floats
    fall: Floats
    # The state before each series, and per block the distance that its predecessor hands over.
    state: Floats
    left_over: Floats

    def finished(self) -> Floats:
        total = self.left_over[:, None] * self.fall
        total += self.alone
        total += self.base[:, None]
        return total.ravel()


def _part(bars: Bars, blocks: _Blocks, padded: Floats, average: Average) -> _Part:
    cells, state = _begun(bars, blocks, padded, average)
    rows = cells.reshape(-1, CHECKPOINT_BARS)
    base = rows[:, 0].copy()
    fall = np.power(1 - average.weight, np.arange(1, CHECKPOINT_BARS + 1), dtype=np.float64)
    alone = np.subtract(rows, base[:, None], out=rows)
    # s[i] = fall[i] * sum of weight * x[j] / fall[j]: one running sum, in the same order wherever a block is computed.
    alone /= fall
    np.cumsum(alone, axis=1, out=alone)
    alone *= average.weight * fall
    return _Part(base, alone, fall, state, np.empty(len(base)))


def _begun(bars: Bars, blocks: _Blocks, padded: Floats, average: Average) -> tuple[Floats, Floats]:
    """The cells and states to start from: a new series holds its seed up to row `begins`."""
    cells = padded.copy()
    state = bars.states.get(average.state, np.empty(len(bars.lengths))).astype(np.float64)
    begins = np.flatnonzero((bars.earlier == 0) & (bars.lengths > average.begins))
    starts = blocks.firsts[begins] * CHECKPOINT_BARS
    first = padded[starts]
    window = padded[starts[:, None] + np.arange(average.periods)]
    state[begins] = first + (window - first[:, None]).sum(axis=1) / average.periods
    cells[starts[:, None] + np.arange(average.begins + 1)] = state[begins][:, None]
    return cells, state


def _carry(blocks: _Blocks, parts: Sequence[_Part]) -> None:
    """Hand each block's last value to the next block, for all averages and series at once."""
    order = np.argsort(-blocks.counts, kind="stable")
    firsts, counts = blocks.firsts[order], blocks.counts[order]
    base = np.stack([part.base for part in parts])
    ends = np.stack([part.alone[:, -1] for part in parts])
    fall = np.array([[part.fall[-1]] for part in parts])
    state = np.stack([part.state[order] for part in parts])
    left_over = np.empty_like(base)
    if len(counts) == 1:
        _carry_along(base, ends, fall[:, 0], state[:, 0], left_over)
        counts = counts[:0]
    for step in range(int(counts.max(initial=0))):
        block = firsts[: np.searchsorted(-counts, -step)] + step
        first_values = base[:, block]
        distance = state[:, : len(block)] - first_values
        left_over[:, block] = distance
        state[:, : len(block)] = distance * fall + ends[:, block] + first_values
    for part, distances in zip(parts, left_over, strict=True):
        part.left_over[:] = distances


def _carry_along(base: Floats, ends: Floats, falls: Floats, states: Floats, left_over: Floats) -> None:
    """The distances of a single series: Python's numbers are faster than arrays of one value."""
    for first_values, last, fall, value, distances in zip(
        base, ends, falls.tolist(), states.tolist(), left_over, strict=True
    ):
        handed_over = []
        for first, end in zip(first_values.tolist(), last.tolist(), strict=True):
            distance = value - first
            handed_over.append(distance)
            value = distance * fall + end + first  # noqa: PLW2901 - the state goes on
        distances[:] = handed_over
