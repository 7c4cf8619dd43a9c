"""Many series as one run of arrays, and what a computation over them must say of itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import Floats, Times

Values = NDArray[np.float64] | NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Bars:
    """Candles of several series behind one another, each in order of open_time.

    Series i is the slice `starts[i]:starts[i + 1]` of every array; `columns` holds CANDLE_COLUMNS as float64.

    A series may go on from a checkpoint instead of beginning with its first candle: `before` counts the candles that it
    has before these, and `states` gives what its recursions had come to by then, one value a series (any for a series
    that begins).
    """

    open_time: Times
    columns: Mapping[str, Floats]
    starts: NDArray[np.int64]
    before: NDArray[np.int64] | None = None
    states: Mapping[str, Floats] = field(default_factory=dict)
    # Whether what the recursions come to at each row is wanted too.
    with_states: bool = False
    # The row of each series from which on values are wanted; its first one where nothing is said.
    first: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.open_time)

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    @property
    def slices(self) -> Sequence[slice]:
        """The rows of each series."""
        return [slice(int(a), int(b)) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """The first row of each series that is wanted; the row after its last where none is."""
        return self.starts[:-1] if self.first is None else self.first

    @property
    def wanted_rows(self) -> NDArray[np.int64]:
        """The rows that values are wanted of."""
        return np.flatnonzero(np.arange(len(self)) >= np.repeat(self.first_rows, self.lengths))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many rows each series has here."""
        return np.diff(self.starts)

    @property
    def earlier(self) -> NDArray[np.int64]:
        """How many candles each series has before its first row here."""
        return np.zeros(len(self.starts) - 1, dtype=np.int64) if self.before is None else self.before

    @property
    def position(self) -> NDArray[np.int64]:
        """Each row's number among the rows of its series here, from 0."""
        return np.arange(len(self)) - np.repeat(self.starts[:-1], self.lengths)

    @property
    def number(self) -> NDArray[np.int64]:
        """Each row's number in the whole series, from 0."""
        return self.position + np.repeat(self.earlier, self.lengths)

    @property
    def remaining(self) -> NDArray[np.int64]:
        """How many rows of its series come after each row."""
        return np.repeat(self.starts[1:], self.lengths) - 1 - np.arange(len(self))


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
    # Bars before that it looks at where its recursions go on from a checkpoint; as many as `warm_up` where it has none.
    reach: int | None = None


@dataclass(frozen=True, slots=True)
class Computation:
    """A table of computed columns over candles, one row out per candle in."""

    name: str
    columns: Sequence[Column]
    # Gives an array per column, one value for each row wanted: float64 with NaN for null, or text with None for null;
    # and where they are asked for, one per state, with a value for every row.
    compute: Callable[[Bars], Mapping[str, Values]]
    # Whether the table repeats the candle columns beside its own.
    carries_candles: bool = False
    # What has to be known of a series' past, beside its last bars, to go on from any checkpoint.
    states: Sequence[str] = ()
    # The states without which nothing can go on; all of them where nothing is said. The others may be missing.
    required_states: Sequence[str] | None = None
    # A row may be computed from where its block of so many bars begins, counted from the series' first bar.
    block: int = 1

    def compute_with_states(self, bars: Bars) -> tuple[Mapping[str, Values], Mapping[str, Values]]:
        """The columns of the table at the rows wanted, and by the side what its recursions came to at every row."""
        results = dict(self.compute(replace(bars, with_states=True)))
        states = {name: results.pop(name) for name in self.states}
        return results, states

    @property
    def warm_up(self) -> int:
        """Bars to read before the first one to write: after a checkpoint where there are states."""
        return max((_needed(column) for column in self.columns), default=0)

    @property
    def repaint(self) -> int:
        """Bars to write again before the first one that changed."""
        return max((column.repaint for column in self.columns), default=0)


def _needed(column: Column) -> int:
    return column.warm_up if column.reach is None else column.reach
