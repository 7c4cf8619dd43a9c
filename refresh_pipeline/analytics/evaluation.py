"""How the columns of indicators are computed, many series at once: three kinds of parts. Which ones: indicators.py.

A value must not depend on where a refresh happened to begin reading. A `RecursiveFormula` goes on from a checkpoint,
bit for bit. A `BlockFormula` looks at one stretch of one series that begins a fixed number of bars before the block of
the row: every refresh calls the same function on the same bars. A `RowFormula` takes values of its row and of bars
before it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Column, Values
from refresh_pipeline.market.candles import Floats

# Bars in a block: a tail computes half of one before its first row, a whole history calls each function once a block.
# A multiple of continued.BLOCK, so that a block can begin at a checkpoint.
BLOCK = 512
# Bars before a block, in steps: what begins at the same bar shares its slices.
STEPS = (32, 64, 128, 256, 384, 512, 640, 768)


@dataclass(frozen=True, slots=True)
class RecursiveFormula:
    """All series at once, row by row from a state: gives an array per column and then one per state, for all rows."""

    compute: Callable[[Bars], Sequence[Values]]
    states: Sequence[str] = ()
    # Whether it can go on only where its states are known; else a missing one says that there is nothing yet.
    required_states: bool = False


@dataclass(frozen=True, slots=True)
class BlockFormula:
    """A function of arrays: some columns of one stretch of one series, and then fixed arguments."""

    function: Callable[..., Floats | tuple[Floats, ...]]
    takes: Sequence[str]
    arguments: Sequence[object]
    warm_up: int
    # Rows of a series without a value, for functions that write 0 there.
    undefined: int = 0
    # Bars whose volume a value needs to know; 0 where it takes none.
    needs_volume_of: int = 0
    # Whether it gives rows' numbers, which count from the stretch's beginning.
    counts_rows: bool = False
    # Whether it is told, as its last argument, how many rows come before the first one wanted, and leaves them out.
    leaves_out: bool = False

    @property
    def begins_before(self) -> int:
        """How many bars before a block its stretches begin."""
        return next((step for step in STEPS if step >= self.warm_up), self.warm_up)


@dataclass(frozen=True, slots=True)
class RowFormula:
    """Something of what is known at each wanted row; `needs` are the columns that it takes beside candles."""

    compute: Callable[["Rows"], Sequence[Values]]
    needs: Sequence[str] = ()
    # Bars before the row that it looks at by itself.
    reach: int = 1


How_co = TypeVar("How_co", bound=RecursiveFormula | BlockFormula | RowFormula, covariant=True)


@dataclass(frozen=True, slots=True)
class Part(Generic[How_co]):
    """Columns that are computed together, and how."""

    columns: Sequence[Column]
    how: How_co

    @property
    def names(self) -> list[str]:
        """Its columns' names, in order."""
        return [column.name for column in self.columns]

    @property
    def states(self) -> list[str]:
        """What it has to know at a checkpoint."""
        return list(self.how.states) if isinstance(self.how, RecursiveFormula) else []


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that are wanted, with what is known of them so far."""

    bars: Bars
    at: NDArray[np.int64]
    columns: dict[str, Values] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Values:
        return self.columns[name] if name in self.columns else self.take(self.bars[name])

    def take(self, values: Values) -> Values:
        """What an array of all rows has at these."""
        return values if len(self.at) == len(values) else values[self.at]

    def numbers(self, name: str) -> Floats:
        """A column that holds no text."""
        return self[name].astype(np.float64, copy=False)

    def before(self, name: str) -> Floats:
        """A candle column of the bar before each row; NaN at a series' first bar."""
        values = np.append(self.bars[name], np.nan)[self.at - 1]
        return np.where(self.bars.number[self.at] > 0, values, np.nan)


def evaluate(parts: Sequence[Part], bars: Bars) -> tuple[dict[str, Values], dict[str, Floats]]:
    """All columns at the wanted rows, and the states at every row.

    What a part needs comes before it. Nothing is infinite: what has no value is NaN, or None among texts.
    """
    bars = replace(bars, columns={**bars.columns, "volume_or_0": np.nan_to_num(bars["volume"])})
    rows = Rows(bars, bars.wanted_rows)
    states = _continued(_of_kind(parts, RecursiveFormula), rows)
    rows.columns.update(_blockwise(_of_kind(parts, BlockFormula), rows))
    for part in _of_kind(parts, RowFormula):
        rows.columns.update(zip(part.names, part.how.compute(rows), strict=True))
    return {name: _finite(values) for name, values in rows.columns.items() if name not in bars.columns}, states


def _of_kind(parts: Sequence[Part], kind: type[How_co]) -> list[Part[How_co]]:
    return [part for part in parts if isinstance(part.how, kind)]


def _finite(values: Values) -> Values:
    if values.dtype == object:
        return values
    infinite = np.isinf(values)
    return np.where(infinite, np.nan, values) if infinite.any() else values


# ---- what goes on from a state


def _continued(parts: Sequence[Part[RecursiveFormula]], rows: Rows) -> dict[str, Floats]:
    states: dict[str, Floats] = {}
    for part in parts:
        results = part.how.compute(rows.bars)
        columns, carried = results[: len(part.columns)], results[len(part.columns) :]
        states |= {
            name: values.astype(np.float64, copy=False) for name, values in zip(part.states, carried, strict=True)
        }
        rows.columns.update({name: rows.take(each) for name, each in zip(part.names, columns, strict=True)})
    return states


# ---- what is computed a stretch at a time


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows of one series within one block: those wanted, and where they go in the result."""

    begin: int
    end: int
    # The block's first row, and the series'; rows count in the stacked arrays.
    block: int
    series: int
    # The number in its series that the first row of the series here has.
    earlier: int
    into: int


def _stretches(bars: Bars) -> Iterator[_Stretch]:
    into = 0
    for rows, first, earlier in zip(bars.slices, bars.first_rows.tolist(), bars.earlier.tolist(), strict=True):
        begin = first
        while begin < rows.stop:
            number = begin - rows.start + earlier
            block = begin - number % BLOCK
            end = min(block + BLOCK, rows.stop)
            yield _Stretch(begin, end, block, rows.start, earlier, into)
            into += end - begin
            begin = end


def _blockwise(parts: Sequence[Part[BlockFormula]], rows: Rows) -> dict[str, Values]:
    names = [name for part in parts for name in part.names]
    matrix = np.empty((len(names), len(rows.at)))
    groups = _grouped(parts)
    for stretch in _stretches(rows.bars):
        _compute_stretch(groups, rows.bars, stretch, matrix)
    _null_missing(parts, rows, matrix)
    return dict(zip(names, matrix, strict=True))


# How, and for each output the rows of the matrix that it fills. Calls with the same beginning and columns share slices.
_Call = tuple[BlockFormula, list[list[int]]]
_Group = tuple[int, Sequence[str], list[_Call]]


def _grouped(parts: Sequence[Part[BlockFormula]]) -> list[_Group]:
    groups: dict[tuple[int, tuple[str, ...]], dict[object, _Call]] = {}
    filled = 0
    for part in parts:
        how = part.how
        calls = groups.setdefault((how.begins_before, tuple(how.takes)), {})
        _, fills = calls.setdefault((how.function, tuple(how.arguments)), (how, [[] for _ in part.columns]))
        for number, one in enumerate(fills):
            one.append(filled + number)
        filled += len(part.columns)
    return [(before, takes, list(calls.values())) for (before, takes), calls in groups.items()]


def _compute_stretch(groups: Sequence[_Group], bars: Bars, stretch: _Stretch, matrix: Floats) -> None:
    into = slice(stretch.into, stretch.into + stretch.end - stretch.begin)
    for before, takes, calls in groups:
        start = max(stretch.block - before, stretch.series)
        arrays = [bars[name][start : stretch.end] for name in takes]
        for how, fills in calls:
            outputs = _outputs(how, arrays, stretch.begin - start)
            if how.counts_rows:
                outputs = [output + (start - stretch.series + stretch.earlier) for output in outputs]
            for numbers, output in zip(fills, outputs, strict=True):
                for number in numbers:
                    matrix[number, into] = output


def _outputs(how: BlockFormula, arrays: Sequence[Floats], before: int) -> Sequence[Floats]:
    """What the function gives, without the rows that only lead up to those wanted."""
    if how.leaves_out:
        result = how.function(*arrays, *how.arguments, before)
        return result if isinstance(result, tuple) else (result,)
    result = how.function(*arrays, *how.arguments)
    return [each[before:] for each in result] if isinstance(result, tuple) else (result[before:],)


def _null_missing(parts: Sequence[Part[BlockFormula]], rows: Rows, matrix: Floats) -> None:
    number, filled = rows.bars.number[rows.at], 0
    unknown = _Unknown.volumes(rows.bars)
    for part in parts:
        own = matrix[filled : filled + len(part.columns)]
        if part.how.undefined:
            own[:, number < part.how.undefined] = np.nan
        if part.how.needs_volume_of and unknown.any:
            own[:, unknown.among(part.how.needs_volume_of)[rows.at]] = np.nan
        filled += len(part.columns)


@dataclass(frozen=True, slots=True)
class _Unknown:
    """Where volumes are missing."""

    any: bool
    position: NDArray[np.int64]
    so_far: NDArray[np.int64]

    @classmethod
    def volumes(cls, bars: Bars) -> "_Unknown":
        unknown = np.isnan(bars["volume"])
        return cls(bool(unknown.any()), bars.position, np.append(0, np.cumsum(unknown)))

    def among(self, bars: int) -> NDArray[np.bool_]:
        """Whether one of the last so many bars of the series, the row's own included, has none."""
        row = np.arange(len(self.position))
        return self.so_far[row + 1] > self.so_far[row + 1 - np.minimum(bars, self.position + 1)]
