"""Three kinds of formulas and their evaluation, for many series at once. The list of indicators is in registry.py.

A value must not depend on the bar at which a refresh begins to read. A `RecursiveFormula` continues from a checkpoint,
bit for bit. A `BlockFormula` is called on a slice of one series that begins a fixed number of bars before the row's
block: every refresh calls the same function on the same bars. A `RowFormula` uses values of its row and earlier bars.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Column, Values
from refresh_pipeline.analytics.cumulative import exponential_average
from refresh_pipeline.analytics.denominators import without_nulls
from refresh_pipeline.analytics.fingerprints import Fingerprint, fingerprint
from refresh_pipeline.analytics.null_masks import Movement, Nulls, nulls_of, window_masks
from refresh_pipeline.analytics.recursive import averages
from refresh_pipeline.market.candles import Floats

# Bars per block of a BlockFormula: a tail computes half a block before its first row, a whole history calls each
# function once per block.
# A multiple of recursive.CHECKPOINT_BARS, so that a block can begin at a checkpoint.
BLOCK_BARS = 512
# Raised when this module's evaluation of blocks changes values.
BLOCKS_VERSION = 1
# Warm-ups are rounded up to these numbers of bars: formulas that begin at the same bar share their slices.
STEPS = (32, 64, 128, 256, 384, 512, 640, 768)
# Stretches from which on a step of all of them is faster than a loop over each, and how many fit into a cache.
SEVERAL, AT_ONCE = 8, 1024
# Rows of consecutive blocks that a function of a window computes in one call, as many as fit into a core's cache.
SPAN_BARS = 16 * BLOCK_BARS


@dataclass(frozen=True, slots=True)
class RecursiveFormula:
    """Computes all series at once, row by row from a state: an array per column, then one per state, for all rows."""

    compute: Callable[[Bars], Sequence[Values]]
    states: Sequence[str] = ()
    # Whether it continues only where its states are known; otherwise a missing state means that there is no value yet.
    required_states: bool = False
    # Bars before a checkpoint whose volumes it reads: a window of so many bars is whole after a checkpoint too.
    lookback: int = field(default=0, compare=False)
    # Raised with every change of the formula's code that changes a value: stored values are computed anew.
    version: int = 1


@dataclass(frozen=True, slots=True)
class BlockFormula:
    """A function of arrays: slices of some columns of one series, then fixed arguments."""

    function: Callable[..., Floats | tuple[Floats, ...]]
    takes: Sequence[str]
    arguments: Sequence[object]
    warm_up: int
    # The first rows of a series, which have no value; for functions that write 0 there.
    undefined: int = 0
    # Bars whose volume a value needs to know; 0 where it takes none.
    needs_volume_of: int = 0
    # Whether it returns row numbers, which count from the start of the slice.
    counts_rows: bool = False
    # Whether its last argument is the number of rows before the first wanted one, and its result omits those rows.
    leaves_out: bool = False
    version: int = 1
    # Whether a value has the same bits wherever a stretch with its window begins: no running sums, no averages.
    of_a_window: bool = field(default=False, compare=False)
    # The same function of many stretches at once, see side_by_side.py; None where it is called stretch by stretch.
    side_by_side: Callable[..., tuple[Floats, ...]] | None = field(default=None, compare=False)

    @property
    def begins_before(self) -> int:
        """The number of bars before a block at which its slices begin."""
        return next((step for step in STEPS if step >= self.warm_up), self.warm_up)


@dataclass(frozen=True, slots=True)
class RowFormula:
    """A function of the values known at each wanted row; `needs` names the columns that it takes besides candles."""

    compute: Callable[["Rows"], Sequence[Values]]
    needs: Sequence[str] = ()
    # Bars before the row that the function itself reads.
    reach: int = 1
    version: int = 1


Formula_co = TypeVar("Formula_co", bound=RecursiveFormula | BlockFormula | RowFormula, covariant=True)


@dataclass(frozen=True, slots=True)
class Part(Generic[Formula_co]):
    """Columns that are computed together, and their formula."""

    columns: Sequence[Column]
    formula: Formula_co

    @property
    def names(self) -> list[str]:
        """Its columns' names, in order."""
        return [column.name for column in self.columns]

    @property
    def states(self) -> list[str]:
        """The states that a checkpoint stores for it."""
        return list(self.formula.states) if isinstance(self.formula, RecursiveFormula) else []


@dataclass(frozen=True, slots=True)
class Rows:
    """The wanted rows, with the columns computed so far."""

    bars: Bars
    at: NDArray[np.int64]
    columns: dict[str, Values] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Values:
        return self.columns[name] if name in self.columns else self.take(self.bars[name])

    def take(self, values: Values) -> Values:
        """The values of an array of all rows at the wanted rows."""
        return values if len(self.at) == len(values) else values[self.at]

    def numbers(self, name: str) -> Floats:
        """A column of numbers."""
        return self[name].astype(np.float64, copy=False)

    def before(self, name: str) -> Floats:
        """A candle column of the bar before each row; NaN at a series' first bar."""
        values = np.append(self.bars[name], np.nan)[self.at - 1]
        return np.where(self.bars.number[self.at] > 0, values, np.nan)


def fingerprints(parts: Sequence[Part]) -> dict[str, Fingerprint]:
    """The fingerprints of all columns and states; a part comes after the parts whose columns it needs.

    A state that several parts share has the same values from each of them, and one fingerprint whatever their order.
    """
    columns: dict[str, Fingerprint] = {}
    states: dict[str, Fingerprint] = {}
    for part in parts:
        needed = part.formula.needs if isinstance(part.formula, RowFormula) else ()
        needs = {name: columns[name] for name in needed}
        machinery = (BLOCK_BARS, BLOCKS_VERSION) if isinstance(part.formula, BlockFormula) else ()
        whole = fingerprint(part.formula.version, _ingredients(part.formula), machinery, needs=needs)
        for number, column in enumerate(part.columns):
            columns[column.name] = fingerprint(whole.version, whole.text, number, column.sql_type)
        for state in part.states:
            shared = fingerprint(whole.version, whole.text, state)
            states[state] = min(shared, states.get(state, shared), key=lambda each: each.text)
    return columns | states


def _ingredients(formula: RecursiveFormula | BlockFormula | RowFormula) -> object:
    """What a formula's values depend on: of a block formula's warm-up, the number of bars it comes to."""
    if not isinstance(formula, BlockFormula):
        return formula
    return (
        *(formula.function, formula.takes, formula.arguments, formula.begins_before),
        *(formula.undefined, formula.needs_volume_of, formula.counts_rows, formula.leaves_out),
    )


def evaluate(parts: Sequence[Part], bars: Bars) -> tuple[dict[str, Values], dict[str, Floats]]:
    """All columns at the wanted rows, and the states at every row, of `bars.recent` where there is one.

    A part comes after the parts whose columns it needs. No value is infinite: a missing number is
    NaN, a missing text None.
    """
    bars = _with_volumes(bars)
    rows = Rows(bars, bars.wanted_rows)
    recent = rows if bars.recent is None else Rows(_with_volumes(bars.recent), bars.recent.wanted_rows)
    states = evaluate_recursive(of_kind(parts, RecursiveFormula), recent)
    rows.columns.update(recent.columns)
    rows.columns.update(_evaluate_blocks(of_kind(parts, BlockFormula), rows))
    for part in of_kind(parts, RowFormula):
        rows.columns.update(zip(part.names, part.formula.compute(rows), strict=True))
    return {name: finite(values) for name, values in rows.columns.items() if name not in bars.columns}, states


def _with_volumes(bars: Bars) -> Bars:
    return replace(bars, columns={**bars.columns, "volume_or_0": np.nan_to_num(bars["volume"])})


def of_kind(parts: Sequence[Part], kind: type[Formula_co]) -> list[Part[Formula_co]]:
    """The parts with one kind of formula."""
    return [part for part in parts if isinstance(part.formula, kind)]


def finite(values: Values) -> Values:
    """The values with NaN in place of infinities."""
    if values.dtype == object:
        return values
    infinite = np.isinf(values)
    return np.where(infinite, np.nan, values) if infinite.any() else values


# ---- recursive formulas


def evaluate_recursive(parts: Sequence[Part[RecursiveFormula]], rows: Rows) -> dict[str, Floats]:
    """Add the parts' columns to the rows; gives their states at every row."""
    states: dict[str, Floats] = {}
    # Two sets of columns may have the same formula: `ad` and `ad_line` are one sum.
    computed = _averages_of_close(parts, rows.bars)
    for part in parts:
        compute = part.formula.compute
        if compute not in computed:
            computed[compute] = compute(rows.bars)
        results = computed[compute]
        columns, carried = results[: len(part.columns)], results[len(part.columns) :]
        states |= {
            name: values.astype(np.float64, copy=False) for name, values in zip(part.states, carried, strict=True)
        }
        rows.columns.update({name: rows.take(values) for name, values in zip(part.names, columns, strict=True)})
    return states


def _averages_of_close(
    parts: Sequence[Part[RecursiveFormula]], bars: Bars
) -> dict[Callable[[Bars], Sequence[Values]], Sequence[Values]]:
    """The results of all EMAs at once: handing values from block to block takes as long for one as for ten."""
    wanted = {
        compute: compute.keywords["average"]
        for compute in (part.formula.compute for part in parts)
        if isinstance(compute, partial) and compute.func is exponential_average
    }
    lines = averages(bars, bars["close"], list(wanted.values())) if wanted else []
    return {compute: [line, line] for compute, line in zip(wanted, lines, strict=True)}


# ---- block formulas


@dataclass(frozen=True, slots=True)
class _BlockRows:
    """The wanted rows of one series within one block, and their place in the result."""

    begin: int
    end: int
    # The block's first row, and the series'; rows count in the stacked arrays.
    block: int
    series: int
    # The number in its series that the first row of the series here has.
    earlier: int
    into: int

    def start(self, before: int) -> int:
        """The first row of the stretch that begins so many bars before the block, or with the series."""
        return max(self.block - before, self.series)


def _blocks(bars: Bars) -> Iterator[_BlockRows]:
    into = 0
    for rows, first, earlier in zip(bars.slices, bars.first_rows.tolist(), bars.earlier.tolist(), strict=True):
        begin = first
        while begin < rows.stop:
            number = begin - rows.start + earlier
            block = begin - number % BLOCK_BARS
            end = min(block + BLOCK_BARS, rows.stop)
            yield _BlockRows(begin, end, block, rows.start, earlier, into)
            into += end - begin
            begin = end


def _spans(blocks: Sequence[_BlockRows]) -> list[_BlockRows]:
    """Consecutive blocks of a series joined, up to SPAN_BARS rows each."""
    spans: list[_BlockRows] = []
    for block in blocks:
        last = spans[-1] if spans else None
        if last and last.series == block.series and last.end == block.begin and block.end - last.block <= SPAN_BARS:
            spans[-1] = replace(last, end=block.end)
        else:
            spans.append(block)
    return spans


def _evaluate_blocks(parts: Sequence[Part[BlockFormula]], rows: Rows) -> dict[str, Values]:
    names = [name for part in parts for name in part.names]
    matrix = np.empty((len(names), len(rows.at)))
    groups = [(before, takes, [_NullingCall.of(*call) for call in calls]) for before, takes, calls in grouped(parts)]
    if parts:
        movement = Movement.of(rows.bars)
        blocks = list(_blocks(rows.bars))
        windows, others = _split(groups)
        for span in _spans(blocks):
            _compute_block(windows, rows.bars, span, movement, matrix)
        together = [_Together.of(group, blocks) for group in others]
        for block_rows in blocks:
            alone = [each.left_of(block_rows) for each in together]
            _compute_block(alone, rows.bars, block_rows, movement, matrix)
        for each in together:
            each.compute(rows.bars, matrix)
    for _, takes, calls in groups:
        for call in calls:
            call.null_by_window(rows, takes, matrix)
    _null_missing(parts, rows, matrix)
    return dict(zip(names, matrix, strict=True))


# A formula, and per output the rows of the matrix that it fills. Calls with the same start and columns share slices.
Call = tuple[BlockFormula, list[list[int]]]
Group = tuple[int, Sequence[str], list[Call]]


def grouped(parts: Sequence[Part[BlockFormula]]) -> list[Group]:
    """The distinct calls of block formulas, by where their slices begin and the columns that they take."""
    groups: dict[tuple[int, tuple[str, ...]], dict[object, Call]] = {}
    filled = 0
    for part in parts:
        formula = part.formula
        calls = groups.setdefault((formula.begins_before, tuple(formula.takes)), {})
        _, fills = calls.setdefault((formula.function, tuple(formula.arguments)), (formula, [[] for _ in part.columns]))
        for number, matrix_rows in enumerate(fills):
            matrix_rows.append(filled + number)
        filled += len(part.columns)
    return [(before, takes, list(calls.values())) for (before, takes), calls in groups.items()]


@dataclass(frozen=True, slots=True)
class _NullingCall:
    """A call, and how its nulls for 0/0 are known: from windows at once, from averages only where a market halts."""

    formula: BlockFormula
    fills: list[list[int]]
    # The formula to call where the market stood still, moved, and moved all the time before: with its nulls or without.
    by_movement: tuple[BlockFormula, BlockFormula, BlockFormula]
    mask: Callable[..., Any] | None
    nulls: Nulls

    @classmethod
    def of(cls, formula: BlockFormula, fills: list[list[int]]) -> "_NullingCall":
        """The call that computes these rows of the matrix."""
        function, mask = without_nulls(formula.function)
        nulls, plain = nulls_of(mask, formula.arguments), replace(formula, function=function)
        # Nulls of windows are written later.
        still = plain if nulls in (Nulls.never, Nulls.window) else formula
        moved = plain if nulls is Nulls.halt else still
        return cls(formula, fills, (still, moved, plain if nulls is Nulls.earlier_halt else moved), mask, nulls)

    @property
    def depends_on_a_window(self) -> bool:
        """Whether its values and its nulls have the same bits wherever a stretch with their windows begins."""
        return self.formula.of_a_window and self.nulls in (Nulls.never, Nulls.window)

    def null_by_window(self, rows: Rows, takes: Sequence[str], matrix: Floats) -> None:
        """Write the nulls that follow from windows alone."""
        if self.nulls is not Nulls.window or self.mask is None:
            return
        masks = window_masks(self.mask, rows.bars, takes, self.formula.arguments, rows.at)
        each = masks if isinstance(masks, tuple) else (masks,) * len(self.fills)
        for numbers, mask in zip(self.fills, each, strict=True):
            if mask.any():
                for number in numbers:
                    matrix[number, mask] = np.nan


NullingGroup = tuple[int, Sequence[str], Sequence[_NullingCall]]


def _split(groups: Sequence[NullingGroup]) -> tuple[list[NullingGroup], list[NullingGroup]]:
    """The calls that depend on a window alone, whose nulls do so as well, and the other calls."""
    windows, others = [], []
    for before, takes, calls in groups:
        for chosen, of_a_window in ((windows, True), (others, False)):
            if kept := [call for call in calls if call.depends_on_a_window == of_a_window]:
                chosen.append((before, takes, kept))
    return windows, others


@dataclass(frozen=True, slots=True)
class _Together:
    """The calls of a group that compute many stretches at once, those stretches, and the calls that do not."""

    group: NullingGroup
    calls: Sequence[_NullingCall]
    others: Sequence[_NullingCall]
    # Blocks whose stretch is at least as long as the warm-up.
    deep: Sequence[_BlockRows]

    @classmethod
    def of(cls, group: NullingGroup, blocks: Sequence[_BlockRows]) -> "_Together":
        before, _, every = group
        calls = [call for call in every if call.formula.side_by_side is not None]
        deep = [each for each in blocks if each.end - each.start(before) >= before] if calls else []
        if len(deep) < SEVERAL:
            return cls(group, [], every, [])
        return cls(group, calls, [call for call in every if call not in calls], deep)

    def left_of(self, block: _BlockRows) -> NullingGroup:
        """The group with the calls that are made for a block alone."""
        before, takes, every = self.group
        is_deep = block.end - block.start(before) >= before
        return before, takes, self.others if self.calls and is_deep else every

    def compute(self, bars: Bars, matrix: Floats) -> None:
        """Fill the rows of the matrix for all stretches."""
        before, takes, _ = self.group
        for begin in range(0, len(self.deep) if self.calls else 0, AT_ONCE):
            blocks = self.deep[begin : begin + AT_ONCE]
            stretches = [[bars[name][each.start(before) : each.end] for name in takes] for each in blocks]
            for call in self.calls:
                side_by_side = call.formula.side_by_side
                outputs = side_by_side(stretches, *call.formula.arguments) if side_by_side else ()
                for numbers, output in zip(call.fills, outputs, strict=True):
                    values = np.ascontiguousarray(output.T)
                    for block, row in zip(blocks, values, strict=True):
                        start = block.start(before)
                        wanted = row[block.begin - start : block.end - start]
                        matrix[numbers, block.into : block.into + len(wanted)] = wanted


def _compute_block(
    groups: Sequence[NullingGroup],
    bars: Bars,
    block_rows: _BlockRows,
    movement: Movement,
    matrix: Floats,
) -> None:
    into = slice(block_rows.into, block_rows.into + block_rows.end - block_rows.begin)
    moved = movement.throughout(block_rows.begin, block_rows.end, block_rows.series)
    for before, takes, calls in groups:
        start = block_rows.start(before)
        arrays = [bars[name][start : block_rows.end] for name in takes]
        for call in calls:
            outputs = outputs_of(call.by_movement[moved], arrays, block_rows.begin - start)
            if call.formula.counts_rows:
                outputs = [output + (start - block_rows.series + block_rows.earlier) for output in outputs]
            for numbers, output in zip(call.fills, outputs, strict=True):
                for number in numbers:
                    matrix[number, into] = output


def outputs_of(formula: BlockFormula, arrays: Sequence[Floats], before: int) -> Sequence[Floats]:
    """The function's outputs without the warm-up rows before the wanted ones."""
    if formula.leaves_out:
        result = formula.function(*arrays, *formula.arguments, before)
        return result if isinstance(result, tuple) else (result,)
    result = formula.function(*arrays, *formula.arguments)
    return [output[before:] for output in result] if isinstance(result, tuple) else (result[before:],)


def _null_missing(parts: Sequence[Part[BlockFormula]], rows: Rows, matrix: Floats) -> None:
    number, filled = rows.bars.number[rows.at], 0
    unknown = _Unknown.volumes(rows.bars)
    for part in parts:
        outputs = matrix[filled : filled + len(part.columns)]
        if part.formula.undefined:
            outputs[:, number < part.formula.undefined] = np.nan
        if part.formula.needs_volume_of and unknown.any:
            outputs[:, unknown.among(part.formula.needs_volume_of)[rows.at]] = np.nan
        filled += len(part.columns)


@dataclass(frozen=True, slots=True)
class _Unknown:
    """Where volumes are missing."""

    any: bool
    position: NDArray[np.int64]
    so_far: NDArray[np.int64]

    @classmethod
    def volumes(cls, bars: Bars) -> "_Unknown":
        """Where the volumes of bars are unknown, and how many are up to each bar."""
        unknown = np.isnan(bars["volume"])
        return cls(bool(unknown.any()), bars.position, np.append(0, np.cumsum(unknown)))

    def among(self, bars: int) -> NDArray[np.bool_]:
        """Whether one of the last so many bars of the series, up to and including the row, has no volume."""
        row = np.arange(len(self.position))
        return self.so_far[row + 1] > self.so_far[row + 1 - np.minimum(bars, self.position + 1)]
