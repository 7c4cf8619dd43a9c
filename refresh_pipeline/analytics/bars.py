"""Candles of many series as one set of arrays, and the description of a computation over them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.fingerprints import Fingerprint
from refresh_pipeline.market.candles import Floats, Times

Values = NDArray[np.float64] | NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Bars:
    """Candles of several series behind one another, each in order of open_time.

    Series i is the slice `starts[i]:starts[i + 1]` of every array; `columns` holds CANDLE_COLUMNS as float64.

    A series may start at a checkpoint instead of its first candle: `before` counts its earlier candles, and `states`
    holds the value of each recursion at the checkpoint, one per series; ignored for series that start here.
    """

    open_time: Times
    columns: Mapping[str, Floats]
    starts: NDArray[np.int64]
    before: NDArray[np.int64] | None = None
    states: Mapping[str, Floats] = field(default_factory=dict)
    # Whether the recursions' values at each row are wanted too.
    with_states: bool = False
    # Where each average's present block stands, by its state: see `recursive.averages`, which reads and writes it.
    memory: dict[str, Floats] | None = None
    # The first row of each series whose values are wanted; None for its first row.
    first: NDArray[np.int64] | None = None
    # The volumes of the bars before the first row of each series, the newest last: one row a series, NaN where there
    # are fewer bars. None where no series starts at a checkpoint, or no formula looks back beyond one.
    earlier_volumes: Floats | None = None
    # The asset class of each series, whose sessions may be others than the calendar's; None where no series has one.
    classes: NDArray[np.object_] | None = None
    # The last of these bars, from each series' newest checkpoint on, where recursions go on; None where they go on from
    # the first bar here.
    recent: "Bars | None" = None

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
        """The first wanted row of each series; the row after its last where none is wanted."""
        return self.starts[:-1] if self.first is None else self.first

    @property
    def wanted_rows(self) -> NDArray[np.int64]:
        """The rows whose values are wanted."""
        return np.flatnonzero(np.arange(len(self)) >= np.repeat(self.first_rows, self.lengths))

    def from_rows(self, first: NDArray[np.int64]) -> "Bars":
        """The same bars, of which the values from each series' row `first` on are wanted."""
        recent = self.recent
        if recent is not None:
            recent = replace(recent, first=recent.starts[1:] - (self.starts[1:] - first))
        return replace(self, first=first, recent=recent)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of rows of each series here."""
        return np.diff(self.starts)

    @property
    def earlier(self) -> NDArray[np.int64]:
        """The number of candles of each series before its first row here."""
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
        """The number of rows of its series after each row."""
        return np.repeat(self.starts[1:], self.lengths) - 1 - np.arange(len(self))

    def of_series(self, first: int, until: int) -> "Bars":
        """The bars of the series with these numbers, the last one excluded; views, not copies."""
        rows, series = slice(int(self.starts[first]), int(self.starts[until])), slice(first, until)
        return Bars(
            self.open_time[rows],
            {name: values[rows] for name, values in self.columns.items()},
            self.starts[first : until + 1] - rows.start,
            before=None if self.before is None else self.before[series],
            states={name: values[series] for name, values in self.states.items()},
            with_states=self.with_states,
            first=None if self.first is None else self.first[series] - rows.start,
            earlier_volumes=None if self.earlier_volumes is None else self.earlier_volumes[series],
            classes=None if self.classes is None else self.classes[series],
            recent=None if self.recent is None else self.recent.of_series(first, until),
        )

    def of_class(self, name: str) -> NDArray[np.bool_]:
        """The rows of the series of an asset class."""
        if self.classes is None:
            return np.zeros(len(self), dtype=bool)
        return np.repeat((self.classes == name).astype(bool), self.lengths)


@dataclass(frozen=True, slots=True)
class Column:
    """One computed column: its meaning, the bars that it depends on and the bars that a new bar may change."""

    name: str
    description: str
    unit: str
    # Bars before a row after which its value no longer depends on the start of the history (1e-9 relative).
    warm_up: int = 0
    # Bars back from the newest that the next bar may still change.
    repaint: int = 0
    sql_type: str = "double"
    # Bars before a row that it reads when its recursions continue from a checkpoint; None for `warm_up` bars.
    reach: int | None = None

    @property
    def needed_before(self) -> int:
        """Bars to read before the first one to write, counted from a checkpoint where there are states."""
        return self.warm_up if self.reach is None else self.reach


def price_column(name: str, description: str, warm_up: int = 0, reach: int | None = None) -> Column:
    """A column in the unit of the instrument's price."""
    return Column(name, description, "price", warm_up=warm_up, reach=reach)


def number_column(name: str, description: str, unit: str) -> Column:
    """A column of numbers in another unit."""
    return Column(name, description, unit)


def flag_column(name: str, description: str, warm_up: int = 0, reach: int | None = None, repaint: int = 0) -> Column:
    """A column of 0 and 1, signals also -1."""
    return Column(name, description, "flag", warm_up=warm_up, reach=reach, repaint=repaint, sql_type="tinyint")


def text_column(name: str, description: str, warm_up: int = 0, reach: int | None = None) -> Column:
    """A column of a few words."""
    return Column(name, description, "text", warm_up=warm_up, reach=reach, sql_type="varchar")


@dataclass(frozen=True, slots=True)
class Computation:
    """A table of computed columns over candles, one row out per candle in."""

    name: str
    columns: Sequence[Column]
    # Returns an array per column, one value per wanted row: float64 with NaN for null, or text with None for null. With
    # `Bars.with_states` also an array per state, one value for every row.
    compute: Callable[[Bars], Mapping[str, Values]]
    # Whether the table repeats the candle columns.
    carries_candles: bool = False
    # The states that a checkpoint stores, which continue a series besides its last bars.
    states: Sequence[str] = ()
    # The states without which a series cannot continue; None for all. The others may be missing.
    required_states: Sequence[str] | None = None
    # Bars per block, counted from the series' first bar: a row is computed from the start of its block.
    block: int = 1
    # What each column and each state is computed with, by name; one without a fingerprint never changes.
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)
    # Returns the computation of some of the columns and states alone; without it, every column is computed for some.
    narrow: Callable[[Collection[str]], "Computation"] | None = None
    # The states of a stored checkpoint, in order, where these are not `states`: of a narrowed computation.
    checkpoint_states: Sequence[str] | None = None
    # Bars before a checkpoint whose volumes its recursions read: `Bars.earlier_volumes`.
    lookback: int = 0
    # Whether its recursions read no bar before the row, so that they may go on in `Bars.recent`.
    continues_anywhere: bool = False
    # The parts of a table of indicators, for `live_indicators`, which computes them a bar at a time.
    parts: Sequence[object] = ()

    @property
    def stored_states(self) -> Sequence[str]:
        """The states of a stored checkpoint, in order."""
        return self.states if self.checkpoint_states is None else self.checkpoint_states

    def narrowed(self, names: Collection[str]) -> "Computation":
        """The computation of these columns and states alone, with the states that these columns continue from."""
        narrowed = self.narrow(names) if self.narrow else self
        return replace(narrowed, checkpoint_states=self.stored_states)

    def compute_with_states(self, bars: Bars) -> tuple[Mapping[str, Values], Mapping[str, Values]]:
        """The columns of the table at the wanted rows, and the states at every row.

        Where there is `bars.recent`, the states are those at its rows.
        """
        results = dict(self.compute(replace(bars, with_states=True)))
        states = {name: results.pop(name) for name in self.states}
        return results, states

    @property
    def warm_up(self) -> int:
        """Bars to read before the first one to write, counted from a checkpoint where there are states."""
        return max((column.needed_before for column in self.columns), default=0)

    @property
    def repaint(self) -> int:
        """Bars to rewrite before the first one that changed."""
        return max((column.repaint for column in self.columns), default=0)
