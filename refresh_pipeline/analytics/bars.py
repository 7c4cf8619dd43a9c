"""Many series as one run of arrays, and what a computation over them must say of itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import Floats, Times

Values = NDArray[np.float64] | NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Bars:
    """Candles of several series behind one another, each in order of open_time.

    Series i is the slice `starts[i]:starts[i + 1]` of every array; `columns` holds CANDLE_COLUMNS as float64.
    """

    open_time: Times
    columns: Mapping[str, Floats]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.open_time)

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    @property
    def slices(self) -> Sequence[slice]:
        """The rows of each series."""
        return [slice(int(a), int(b)) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]

    @property
    def position(self) -> NDArray[np.int64]:
        """Each row's number within its series, from 0."""
        return np.arange(len(self)) - np.repeat(self.starts[:-1], np.diff(self.starts))


@dataclass(frozen=True, slots=True)
class Column:
    """One computed column: what it means, and which rows a new bar makes it depend on or change."""

    name: str
    description: str
    unit: str
    # Bars before the first one wanted from which on a value no longer shows where the history began (1e-9 relative).
    warm_up: int = 0
    # Bars back from the newest that the next bar may still change.
    repaint: int = 0
    sql_type: str = "double"


@dataclass(frozen=True, slots=True)
class Computation:
    """A table of computed columns over candles, one row out per candle in."""

    name: str
    columns: Sequence[Column]
    # Gives an array per column, as long as the bars: float64 with NaN for null, or text with None for null.
    compute: Callable[[Bars], Mapping[str, Values]]
    # Whether the table repeats the candle columns beside its own.
    carries_candles: bool = False

    @property
    def warm_up(self) -> int:
        """Bars to read before the first one to write."""
        return max((column.warm_up for column in self.columns), default=0)

    @property
    def repaint(self) -> int:
        """Bars to write again before the first one that changed."""
        return max((column.repaint for column in self.columns), default=0)
