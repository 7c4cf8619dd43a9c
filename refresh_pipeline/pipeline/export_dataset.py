"""Exports of the layout `dataset`: files that hold all instruments of a timeframe and a stretch of time.

One file for many series costs a fiftieth of a file for each: a Parquet file of some 280 columns takes 15 ms, whether it
has one row or a hundred. Only the stretches of rows that changed are written. Files of one series are `export`'s part.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.files.atomic import one_line
from refresh_pipeline.files.writer import ExportError, TableWriter
from refresh_pipeline.market.export_spec import ALL_INSTRUMENTS, Export, Format, Layer, Layout, period_at
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline.export_content import Wanted, columns_of, content_of, types_of
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.computed_batch import PendingRecompute
from refresh_pipeline.warehouse.connection import WarehouseBusy
from refresh_pipeline.warehouse.manifests import EXPORTED_AT_ONCE, UNREADABLE, Exported, Rows
from refresh_pipeline.warehouse.outcomes import SeriesStats
from refresh_pipeline.warehouse.warehouse import Warehouse

Period = np.datetime64


@dataclass(slots=True)
class DatasetResult:
    """What became of the files of one timeframe: `rows` for the manifest, `gone` paths, and how many were replaced."""

    rows: list[Exported] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    replaced: int = 0
    bytes: int = 0
    errors: list[ExportError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """What writes files, and the folder of exports."""

    writer: TableWriter
    root: Path


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """The files of one export, layer and timeframe, as the market's YAML asks for them."""

    market: Market
    export: Export
    layer: Layer
    timeframe: Timeframe

    @property
    def series(self) -> list[Series]:
        """The series whose rows these files hold, in the market's order."""
        return [each for each in self.market.series if each.timeframe is self.timeframe]

    def file(self, period: Period) -> Wanted:
        """The file of one stretch of time."""
        path = self.export.dataset_path(self.market.name, self.layer, self.timeframe, period)
        return Wanted(all_of(self.timeframe), self.export, self.layer, Format.parquet, path)

    def folder(self, root: Path) -> Path:
        """The folder of these files, which holds no others."""
        return (root / self.file(period_at(np.datetime64(0, "us"), self.timeframe)).path).parent

    def periods(self, first: np.datetime64, last: np.datetime64) -> list[Period]:
        """The stretches from one open time to another, both included."""
        begin, end = period_at(first, self.timeframe), period_at(last, self.timeframe)
        return [*np.arange(begin, end + 1)]

    def content(self, rows: Rows, chosen: NDArray, file: Wanted) -> dict[str, NDArray]:
        """The columns of one file: the instrument, and those of its layer."""
        names = np.array([each.instrument for each in self.series], dtype=object)
        own = {name: values[chosen] for name, values in rows.items()}
        return {"instrument": names[own["series_no"]], **content_of(self.market, file, own)}


def all_of(timeframe: Timeframe) -> Series:
    """What the manifest has in place of a series for a file of all instruments."""
    return Series(ALL_INSTRUMENTS, timeframe)


def datasets(market: Market, timeframes: Sequence[Timeframe] = ()) -> list[DatasetFiles]:
    """Every dataset that the market's YAML asks for, of some timeframes or all."""
    return [
        DatasetFiles(market, export, layer, timeframe)
        for export in market.exports.values()
        if export.layout is Layout.dataset
        for layer in export.layers
        for timeframe in timeframes or market.timeframes
    ]


def dataset_rows(warehouse: Warehouse, market: Market, wanted: DatasetFiles | None = None) -> list[Exported]:
    """The manifest's rows of the files of all datasets, or of one of them."""
    known = {
        (each.export.name, each.layer.value, each.timeframe) for each in ([wanted] if wanted else datasets(market))
    }
    if not known:
        return []
    rows = warehouse.exported(market, [all_of(each) for each in market.timeframes])
    return [row for row in rows if (row.export, row.layer, row.series.timeframe) in known]


def write_datasets(
    warehouse: Warehouse,
    market: Market,
    root: Path,
    batch: Sequence[Series],
    pending: PendingRecompute,
) -> dict[Timeframe, DatasetResult]:
    """Write the due files of the batch's timeframes; gives a result for each timeframe that has a dataset."""
    since: dict[Timeframe, np.datetime64] = {}
    for series, moment in zip(pending.series, pending.since, strict=True):
        since[series.timeframe] = min(since.get(series.timeframe, moment), moment)
    results: dict[Timeframe, DatasetResult] = {}
    wanted = datasets(market, list(dict.fromkeys(series.timeframe for series in batch)))
    with TableWriter() as writer:
        for dataset in wanted:
            result = results.setdefault(dataset.timeframe, DatasetResult())
            _write(_Place(writer, root), warehouse, dataset, since.get(dataset.timeframe), result)
    return results


def _write(
    place: _Place, warehouse: Warehouse, dataset: DatasetFiles, since: np.datetime64 | None, result: DatasetResult
) -> None:
    root = place.root
    with warehouse.session(dataset.market.name):
        known = {row.path: row for row in dataset_rows(warehouse, dataset.market, dataset)}
        stats = warehouse.series_stats(dataset.market, dataset.series)
    everything = _periods(dataset, stats)
    is_anew = any(row.shape != dataset.export.shape(Format.parquet) for row in known.values()) or not known
    is_whole = is_anew or _is_adjusted_later(warehouse, dataset, since)
    due = everything if is_whole else _due(root, dataset, everything, known, since)
    try:
        for period, rows, chosen in _read(warehouse, dataset, due):
            _write_file(place, dataset, (dataset.file(period), rows, chosen), result)
    except ExportError as error:
        result.errors.append(error)
        return
    except WarehouseBusy:
        raise
    except (*UNREADABLE, OSError) as error:
        words = f"the dataset of {dataset.timeframe} is not exported: its rows cannot be read: {one_line(error)}"
        result.errors.append(ExportError(words))
        return
    paths = {dataset.file(period).path for period in everything}
    empty = {dataset.file(period).path for period in due} - {row.path for row in result.rows}
    result.gone += [path for path in known if path not in paths or path in empty]
    _delete(root, dataset, result.gone, kept={row.path for row in result.rows} if is_anew else None)


def _is_adjusted_later(warehouse: Warehouse, dataset: DatasetFiles, since: np.datetime64 | None) -> bool:
    """Whether a changed row may be the last one before a dividend, whose factor changes all earlier rows then."""
    if since is None or not dataset.export.adjusted:
        return False
    factors = warehouse.adjustment_factors(dataset.market, dataset.series)
    return any((each.ex_time > since).any() for each in factors.values())


def _periods(dataset: DatasetFiles, stats: Mapping[Series, SeriesStats]) -> list[Period]:
    firsts = [each.first_open_time for each in stats.values() if each.first_open_time is not None]
    lasts = [each.last_open_time for each in stats.values() if each.last_open_time is not None]
    return dataset.periods(min(firsts), max(lasts)) if firsts and lasts else []


def _due(
    root: Path,
    dataset: DatasetFiles,
    everything: Sequence[Period],
    known: Mapping[str, Exported],
    since: np.datetime64 | None,
) -> list[Period]:
    """The stretches with changed rows, those before them whose flags later bars may alter, and those without a file."""
    paths = {period: dataset.file(period).path for period in everything}
    lost = {period for period, path in paths.items() if path in known and not (root / path).is_file()}
    if since is None:
        return sorted(lost)
    changed = period_at(since, dataset.timeframe)
    bar = np.timedelta64(dataset.timeframe.minutes, "m")
    repaint = max(table.repaint for table in computations(dataset.market).values())
    bars = int((since - changed.astype("datetime64[us]")) / bar)
    first = changed
    # A stretch without a file has no bars; one with a file may have fewer than fit.
    for period in reversed([each for each in everything if each < changed and paths[each] in known]):
        if bars >= repaint:
            break
        first, bars = period, bars + known[paths[period]].rows // max(len(dataset.series), 1)
    return sorted(lost | {period for period in everything if period >= first})


def _read(warehouse: Warehouse, dataset: DatasetFiles, due: Sequence[Period]) -> Iterator[tuple[Period, Rows, NDArray]]:
    """The rows of each stretch: several that follow one another in one query, as many as fit in memory."""
    if not due:
        return
    columns = columns_of(dataset.market, [dataset.file(due[0])])
    bar = np.timedelta64(dataset.timeframe.minutes, "m")
    ends = [(period + 1).astype("datetime64[us]") for period in due]
    begins = [period.astype("datetime64[us]") for period in due]
    cells = [
        int((end - begin) / bar + 1) * len(dataset.series) * len(columns)
        for begin, end in zip(begins, ends, strict=True)
    ]
    position = 0
    while position < len(due):
        until, size = position + 1, cells[position]
        while until < len(due) and begins[until] == ends[until - 1] and size + cells[until] <= EXPORTED_AT_ONCE:
            size, until = size + cells[until], until + 1
        rows = warehouse.rows_between(dataset.market, dataset.series, columns, begins[position], ends[until - 1])
        for number in range(position, until):
            times = rows["open_time"]
            yield due[number], rows, (times >= begins[number]) & (times < ends[number])
        position = until


def _write_file(
    place: _Place, dataset: DatasetFiles, part: tuple[Wanted, Rows, NDArray], result: DatasetResult
) -> None:
    file, rows, chosen = part
    if not chosen.any():
        return
    content = dataset.content(rows, chosen, file)
    types = types_of(dataset.market, file)
    compression = file.export.compression_of(file.kind)
    written = place.writer.write(content, place.root / file.path, compression=compression, types=types)
    times = content["open_time"]
    first, last = (moment.astype(datetime) for moment in (times.min(), times.max()))
    entry = (file.export.name, file.layer.value, file.kind.value, file.path, file.shape)
    result.rows.append(Exported(file.series, *entry, written.rows, written.bytes, written.sha256, first, last))
    result.replaced += written.replaced
    result.bytes += written.bytes if written.replaced else 0


def _delete(root: Path, dataset: DatasetFiles, gone: Sequence[str], kept: set[str] | None) -> None:
    """Delete files of stretches without rows, which a reader of the folder would take for data."""
    for path in gone:
        (root / path).unlink(missing_ok=True)
    if kept is None:
        return
    for path in dataset.folder(root).glob("*.parquet"):
        if path.relative_to(root).as_posix() not in kept:
            path.unlink(missing_ok=True)
