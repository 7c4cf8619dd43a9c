"""Whether export files hold what they should: every row of every file, its schema, and the table that it came from."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.files.atomic import temporary_folder
from refresh_pipeline.files.growing import Blocks
from refresh_pipeline.files.reader import TableReader
from refresh_pipeline.files.staging import StagedTable
from refresh_pipeline.files.writer import ExportError, TableWriter, kind_of
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, faults
from refresh_pipeline.market.export_spec import Format, period_at
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline.export import is_as_written, read_content
from refresh_pipeline.pipeline.export_content import (
    FULL,
    Wanted,
    columns_of,
    content_of,
    first_row_of,
    names_of,
    wanted_files,
    window_of,
)
from refresh_pipeline.pipeline.export_dataset import dataset_rows, datasets
from refresh_pipeline.pipeline.progress import advance
from refresh_pipeline.warehouse.manifests import EXPORTED_AT_ONCE, Exported, Rows
from refresh_pipeline.warehouse.queries import Fault
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

Cells = Mapping[str, NDArray]


@dataclass(frozen=True, slots=True)
class _Content:
    """What a file should hold: its columns' kinds, and the columns themselves, some at a time."""

    kinds: Mapping[str, str]
    columns: Callable[[Sequence[str]], Cells]
    rows: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where files are read, and a folder for those that are too long to be read at once."""

    reader: TableReader
    root: Path
    folder: Path


def verify(
    warehouse: Warehouse,
    market: Market,
    root: Path,
    batch: Sequence[Series],
    *,
    cells_at_once: int = EXPORTED_AT_ONCE,
) -> tuple[int, list[Fault]]:
    """How many files were read to their end, and what is wrong with any of them.

    A file whose series changed since it was written is not held against the table; its rows must make sense anyway. At
    most `cells_at_once` cells (rows times columns) of a file are in memory at once, but at least one column.
    """
    warehouse.prepare(market)
    manifest = {each.path: each for each in warehouse.exported(market, batch)}
    changed = set(warehouse.pending_recompute(market, Table.exports, batch).series)
    files = [file for series in batch for file in wanted_files(market, series) if file.path in manifest]
    by_series: dict[Series, list[Wanted]] = {}
    for file in files:
        by_series.setdefault(file.series, []).append(file)
    found: list[Fault] = []
    with (
        TableReader() as reader,
        TableWriter() as stager,
        temporary_folder(root.with_name(f"{root.name}-staged")) as folder,
    ):
        place = _Place(reader, root, folder)
        columns, window = (columns_of(market, files), window_of(files)) if files else ([], FULL)
        pieces = warehouse.pieces_to_export(market, list(by_series), columns, window, cells_at_once) if files else ()
        for number, (series, own) in enumerate(pieces, start=1):
            read = read_content(stager, folder / str(number), series, own)
            for file in by_series[series]:
                row = manifest[file.path]
                if isinstance(read, ExportError):
                    found.append(Fault(series, None, f"{row.path}: {read}"))
                    continue
                wanted = _content(reader, market, file, read)
                found += _faults(place, row, wanted, is_current=series not in changed, cells_at_once=cells_at_once)
            if isinstance(read, StagedTable):
                shutil.rmtree(read.folder, ignore_errors=True)
            advance("verify", number, len(by_series))
        timeframes = list(dict.fromkeys(series.timeframe for series in batch))
        shared, faults = _verify_datasets(warehouse, market, place, timeframes)
    return len(files) + shared, [*found, *faults]


def _verify_datasets(
    warehouse: Warehouse, market: Market, place: _Place, timeframes: Sequence[Timeframe]
) -> tuple[int, list[Fault]]:
    """The same for files of all instruments, whose rows are in the order of the instruments."""
    count, found = 0, []
    for dataset in datasets(market, timeframes):
        changed = warehouse.pending_recompute(market, Table.exports, dataset.series).series
        for row in dataset_rows(warehouse, market, dataset):
            period = period_at(np.datetime64(row.first_open_time, "us"), dataset.timeframe)
            file = dataset.file(period)
            begin, end = period.astype("datetime64[us]"), (period + 1).astype("datetime64[us]")
            rows = warehouse.rows_between(market, dataset.series, columns_of(market, [file]), begin, end)
            cells = dataset.content(rows, np.ones(len(rows["open_time"]), dtype=bool), file)
            wanted = _Content(_kinds(cells), partial(_chosen, cells), len(rows["open_time"]))
            found += _faults(place, row, wanted, is_current=not changed, is_ordered=False)
            count += 1
    return count, found


def _content(reader: TableReader, market: Market, file: Wanted, read: Rows | StagedTable) -> _Content:
    if not isinstance(read, StagedTable):
        cells = content_of(market, file, read)
        return _Content(_kinds(cells), partial(_chosen, cells), len(next(iter(cells.values()))))
    names = {theirs: ours for ours, theirs in names_of(market, file.layer, file.export)}
    first_row = first_row_of(read.open_times, file.export.window)
    kinds = {theirs: read.kinds[ours].letter for theirs, ours in names.items()}

    def columns(wanted: Sequence[str]) -> Cells:
        return reader.staged(read, {name: names[name] for name in wanted}, first_row)

    return _Content(kinds, columns, len(read.open_times) - first_row)


def _kinds(cells: Cells) -> dict[str, str]:
    return {name: values.dtype.kind for name, values in cells.items()}


def _chosen(cells: Cells, names: Sequence[str]) -> Cells:
    return {name: cells[name] for name in names}


def _faults(
    place: _Place,
    row: Exported,
    wanted: _Content,
    *,
    is_current: bool,
    is_ordered: bool = True,
    cells_at_once: int = EXPORTED_AT_ONCE,
) -> Iterator[Fault]:
    path = place.root / row.path
    try:
        if not path.is_file():
            yield Fault(row.series, None, f"{row.path}: the file is gone")
            return
        if _is_appended_to(path, row):
            words = f"{path.stat().st_size - row.bytes:,} bytes behind the recorded ones; publish again to repair it"
            yield Fault(row.series, None, f"{row.path}: {words}")
            return
        names = place.reader.names(path)
        if row.rows and names != [*wanted.kinds]:
            yield Fault(row.series, None, f"{row.path}: {_schema_words(names, [*wanted.kinds])}")
            return
        if not is_as_written(place.root, row):
            yield Fault(row.series, None, f"{row.path}: the file is not the one that was written")
        yield from _cell_faults(place, row, wanted, (is_current, is_ordered), cells_at_once)
    except ExportError as error:
        yield Fault(row.series, None, str(error))


def _is_appended_to(path: Path, row: Exported) -> bool:
    """Whether a file that grows holds what was recorded and more, as a killed append leaves it."""
    if not row.block_hashes or path.stat().st_size <= row.bytes:
        return False
    return Blocks.of(path, row.bytes) == Blocks.parse(row.bytes, row.block_hashes)


def _cell_faults(
    place: _Place, row: Exported, wanted: _Content, ways: tuple[bool, bool], cells_at_once: int
) -> Iterator[Fault]:
    """What is wrong with rows and cells: the columns are read in groups that fit in memory, candles first."""
    is_current, is_ordered = ways
    path, kinds = place.root / row.path, wanted.kinds
    candles = [name for number, name in enumerate(kinds) if not number or name.lower() in CANDLE_COLUMNS]
    others = [name for name in kinds if name not in candles]
    width = max(cells_at_once // max(row.rows, wanted.rows, 1), 1)
    groups = [candles, *(others[first : first + width] for first in range(0, len(others), width))]
    if len(groups) > 2 and kind_of(path)[0] is not Format.parquet:
        # Parsed once; a group of columns of a Parquet file is read without the others.
        place.folder.mkdir(parents=True, exist_ok=True)
        between = place.folder / "held.parquet"
        place.reader.as_parquet(path, kinds, between)
        path = between
    for number, names in enumerate(groups):
        held = place.reader.read(path, {name: kinds[name] for name in names})
        if not number:
            yield from _row_faults(row, held, is_ordered=is_ordered)
        differs = list(_differences(row, held, wanted.columns(names), names[0])) if is_current else []
        yield from differs
        if differs:
            return


def _schema_words(names: Sequence[str], wanted: Sequence[str]) -> str:
    missing = [name for name in wanted if name not in names]
    more = [name for name in names if name not in wanted]
    parts = [f"lacks {', '.join(missing[:3])}"] if missing else []
    parts += [f"has {', '.join(more[:3])} besides"] if more else []
    return f"columns differ: {'; '.join(parts) or 'their order'} ({len(names)} there, {len(wanted)} wanted)"


def _row_faults(row: Exported, held: Cells, *, is_ordered: bool) -> Iterator[Fault]:
    """What is wrong with rows by themselves: their number, their order, candles that contradict themselves."""
    times = next(iter(held.values()))
    if len(times) != row.rows:
        yield Fault(row.series, None, f"{row.path}: {len(times)} rows, {row.rows} were written")
    out_of_order = np.flatnonzero(~(times[1:] > times[:-1])) if is_ordered else np.array([], dtype=np.int64)
    if len(out_of_order):
        number = int(out_of_order[0]) + 1
        yield Fault(row.series, times[number], f"{row.path}: row {number + 1} does not follow the one before it")
    columns = {name.lower(): values for name, values in held.items() if name.lower() in CANDLE_COLUMNS}
    if set(columns) == set(CANDLE_COLUMNS) and is_ordered:
        reasons = faults(Candles(times.astype("datetime64[us]"), columns))
        bad = [number for number, reason in enumerate(reasons.tolist()) if reason]
        for number in bad[:1]:
            yield Fault(row.series, times[number], f"{row.path}: row {number + 1} of {len(bad)} bad: {reasons[number]}")


def _differences(row: Exported, held: Cells, wanted: Cells, key: str) -> Iterator[Fault]:
    """The first cell of a file that is another than the table's."""
    for name, values in wanted.items():
        if len(held[name]) != len(values):
            yield Fault(row.series, None, f"{row.path}: {len(held[name])} rows, the table has {len(values)}")
            return
        differs = _differing(held[name], values)
        if len(differs):
            number = int(differs[0])
            said, meant = held[name][number], values[number]
            what = f"{row.path}: {name} in row {number + 1}: {said} there, {meant} in the table"
            opened = wanted[key][number] if wanted[key].dtype.kind == "M" else None
            yield Fault(row.series, opened, what)
            return


def _differing(held: NDArray, wanted: NDArray) -> NDArray[np.int64]:
    if wanted.dtype.kind == "O":
        return np.flatnonzero(np.array([one != other for one, other in zip(held, wanted, strict=True)], dtype=bool))
    if wanted.dtype.kind == "M":
        return np.flatnonzero((held != wanted) & ~(np.isnat(held) & np.isnat(wanted)))
    one, other = held.astype(np.float64), wanted.astype(np.float64)
    return np.flatnonzero((one != other) & ~(np.isnan(one) & np.isnan(other)))
