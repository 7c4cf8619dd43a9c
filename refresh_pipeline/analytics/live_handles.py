"""TA-Lib's stream handles of many series: a bar of each series in, a value of each handle out.

Handles that take the same columns and give as many values stand in one list, series by series. One pass of `map` calls
them and writes into one array. They are called as they were opened, and so as they lie in memory. Which functions there
are, and when handles are opened, is in live_indicators.py.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from operator import call
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.live_windows import Members
from refresh_pipeline.market.candles import Floats

# One bar in, the value or the values of the function out.
Update = Callable[..., Any]


class Handles:
    """The handles of several calls for each of several series."""

    def __init__(self, takes: Sequence[str], outputs: int, calls: Sequence[int], series: int) -> None:
        """No handle is open; `calls` are the numbers of calls that take these columns and give so many values."""
        self.takes, self.outputs, self.calls = takes, outputs, calls
        self._series = series
        self._updates: list[Update | None] = [None] * (series * len(calls))

    def begin(self, member: int, updates: Sequence[Update]) -> None:
        """Replace a series' handles, one for each call."""
        begin = member * len(self.calls)
        self._updates[begin : begin + len(self.calls)] = updates

    def step(self, members: Members, bars: Mapping[str, Sequence[float]]) -> Floats:
        """The values at a new bar of these series: an array of series x calls x outputs."""
        width = len(self.calls)
        taken = [chain.from_iterable(map(repeat, bars[name], repeat(width))) for name in self.takes]
        results: Any = map(call, self._of(members), *taken)  # pyright: ignore[reportArgumentType]
        if self.outputs > 1:
            results = chain.from_iterable(results)
        count = len(members) * width * self.outputs
        return np.fromiter(results, np.float64, count).reshape(len(members), width, self.outputs)

    def _of(self, members: Members) -> Sequence[Update | None]:
        if len(members) == self._series:
            return self._updates
        width = len(self.calls)
        return [
            update for member in members.tolist() for update in self._updates[member * width : (member + 1) * width]
        ]


def places(fills: Sequence[Sequence[Sequence[int]]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the outputs of calls go: the rows of a matrix, and the number of the output that fills each.

    Args:
        fills: of each call and each of its outputs, the rows that it fills.

    >>> [numbers.tolist() for numbers in places([[[4], [0]], [[1, 3], [2]]])]
    [[4, 0, 1, 3, 2], [0, 1, 2, 2, 3]]
    """
    outputs = [rows for each in fills for rows in each]
    rows = np.array([row for each in outputs for row in each], dtype=np.int64)
    return rows, np.repeat(np.arange(len(outputs)), [len(each) for each in outputs])
