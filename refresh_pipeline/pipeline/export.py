"""Export files: which of a market's exports are due, series by series, and their writing. No Dagster.

What an export is, its YAML says (`market.exports`); how a file is written whole or not at all, `destinations.files`.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from refresh_pipeline.destinations.parallel import map_in_threads
from refresh_pipeline.files.atomic import one_line, sha256_of, temporary_folder
from refresh_pipeline.files.growing import Blocks
from refresh_pipeline.files.staging import StagedTable
from refresh_pipeline.files.writer import ExportError, TableWriter, ending_of, feather_writer
from refresh_pipeline.market.export_spec import Format
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline.export_content import (
    Wanted,
    columns_of,
    content_of,
    first_row_of,
    names_of,
    types_of,
    wanted_files,
    wanted_paths,
    window_of,
)
from refresh_pipeline.pipeline.export_dataset import DatasetResult, all_of, dataset_rows, write_datasets
from refresh_pipeline.pipeline.export_growth import GrownFile, grow_files
from refresh_pipeline.pipeline.progress import advance
from refresh_pipeline.warehouse.connection import WarehouseBusy
from refresh_pipeline.warehouse.manifests import EXPORTED_AT_ONCE, UNREADABLE, Exported, Rows
from refresh_pipeline.warehouse.outcomes import Attempt
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

log = logging.getLogger("refresh_pipeline")

# The rows of a series in memory or on disk, or why they cannot be read.
Content = Rows | StagedTable | ExportError

# Writing waits for the disk half of its time.
WORKERS = min(8, 2 * (os.cpu_count() or 1))
STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(slots=True)
class _Done:
    """What became of a series' files."""

    files: list[Exported] = field(default_factory=list)
    replaced: int = 0
    rows: int = 0
    bytes: int = 0
    errors: list[ExportError] = field(default_factory=list)
    has_data: bool = False
    seconds: float = 0.0

    def add(self, row: Exported, *, replaced: bool, rows: int, size: int) -> None:
        """Count a file, with the rows and bytes that were written; `replaced` where any were."""
        self.files.append(row)
        self.replaced += replaced
        self.rows = max(self.rows, rows if replaced else 0)
        self.bytes += size if replaced else 0


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose files are written, and below which folder."""

    market: Market
    root: Path


def current_files(warehouse: Warehouse, market: Market) -> list[Exported]:
    """The manifest's rows of every file that the market's YAML asks for now."""
    wanted = wanted_paths(market)
    files = [each for each in warehouse.exported(market, market.series) if each.path in wanted]
    return [*files, *dataset_rows(warehouse, market)]


def unwanted_files(warehouse: Warehouse, market: Market) -> list[Exported]:
    """The manifest's rows of files of the market's series and datasets that its YAML no longer asks for."""
    wanted = wanted_paths(market) | {row.path for row in dataset_rows(warehouse, market)}
    of_all = [all_of(timeframe) for timeframe in market.timeframes]
    return [each for each in warehouse.exported(market, [*market.series, *of_all]) if each.path not in wanted]


def check_exports(market: Market) -> None:
    """Raise where the market's YAML asks for files that this installation cannot write.

    Raises:
        MarketError: a package is missing.
    """
    for export in market.exports.values():
        if Format.feather in export.formats:
            try:
                feather_writer()
            except ExportError as error:
                raise MarketError(f"market {market.name!r}: exports.{export.name}: {error}") from error


def export(
    warehouse: Warehouse,
    market: Market,
    root: Path,
    batch: Sequence[Series],
    now: datetime,
    *,
    cells_at_once: int = EXPORTED_AT_ONCE,
) -> dict[Series, Attempt]:
    """Write the files of every series that changed since they were written, and those that are missing.

    A file that would hold what it holds already is left alone; a file that cannot be written, or a series that cannot
    be read, stops no other. At most `cells_at_once` cells (rows times columns) are read at once.
    """
    with warehouse.session(market.name):
        pending = warehouse.pending_recompute(market, Table.exports, batch)
        manifest = {each.path: each for each in warehouse.exported(market, batch)}
        held = warehouse.series_stats(market, batch)
    changed = set(pending.series)
    due = {series: _due(market, root, series, manifest, series in changed) for series in batch}
    due = {series: files for series, files in due.items() if files and held[series].candle_count}
    grow = grow_files(warehouse, market, root, due, manifest=manifest, pending=pending)
    grown = {each.file.path: each for each in grow}
    whole = {series: [file for file in files if file.path not in grown] for series, files in due.items()}
    whole = {series: files for series, files in whole.items() if files}
    done = {series: _Done() for series in due if series not in whole}
    for number, (series, result) in enumerate(_written(warehouse, market, root, whole, cells_at_once), start=1):
        done[series] = result
        advance(Table.exports, number, len(whole))
    for each in grown.values():
        _add_grown(done[each.file.series], each)
    datasets = write_datasets(warehouse, market, root, batch, pending)
    _add_datasets(done, datasets, pending.series)
    is_exported = np.array([series in done and not done[series].errors for series in pending.series], dtype=bool)
    rows = [file for result in done.values() for file in result.files if file != manifest.get(file.path)]
    rows += [file for result in datasets.values() for file in result.rows]
    with warehouse.session(market.name):
        warehouse.drop_exports(market, [path for result in datasets.values() for path in result.gone])
        warehouse.record_exports(market, rows, pending.take(is_exported), now)
    have = {each.series for each in manifest.values()}
    have |= {each for each in batch if each.timeframe in datasets and held[each].candle_count}
    left = {s: Attempt.of(changed=False, has_data=s in have) for s in batch if s not in done}
    return {series: left[series] if series in left else _attempt(done[series]) for series in batch}


def _due(market: Market, root: Path, series: Series, manifest: Mapping[str, Exported], changed: bool) -> list[Wanted]:
    files = wanted_files(market, series)
    if changed:
        return files
    return [each for each in files if _is_missing(root, each, manifest.get(each.path))]


def _is_missing(root: Path, file: Wanted, row: Exported | None) -> bool:
    return row is None or row.shape != file.shape or not (root / file.path).is_file()


def _written(
    warehouse: Warehouse, market: Market, root: Path, due: Mapping[Series, Sequence[Wanted]], cells_at_once: int
) -> Iterator[tuple[Series, _Done]]:
    files = [each for some in due.values() for each in some]
    if not files:
        return
    columns, window, place = columns_of(market, files), window_of(files), _Place(market, root)
    # On the disk of the export files, as large as the longest series.
    with ExitStack() as opened, temporary_folder(root.with_name(f"{root.name}-staged")) as folder:
        # A writer is one connection: no two threads may use it at once.
        stager = opened.enter_context(TableWriter(writers=WORKERS + 1))
        writers: SimpleQueue[TableWriter] = SimpleQueue()
        for _ in range(WORKERS):
            writers.put(opened.enter_context(stager.another()))

        def content(number: int, series: Series, pieces: Iterator[Rows]) -> tuple[Series, Content]:
            return series, read_content(stager, folder / str(number), series, pieces)

        def write(answer: tuple[Series, Content]) -> tuple[Series, _Done]:
            series, own = answer
            writer = writers.get()
            try:
                return series, _write_series(writer, place, due[series], own)
            finally:
                writers.put(writer)

        pieces = warehouse.pieces_to_export(market, list(due), columns, window, cells_at_once)
        contents = (content(number, *answer) for number, answer in enumerate(pieces))
        yield from map_in_threads(write, contents, WORKERS)


def read_content(stager: TableWriter, folder: Path, series: Series, pieces: Iterator[Rows]) -> Content:
    """A series' rows: in memory where they are one piece, else staged in a folder; the error if reading fails."""
    try:
        first = next(pieces, None)
        second = next(pieces, None)
        if first is None or second is None:
            return first or {"open_time": np.array([], dtype="datetime64[us]")}
        folder.mkdir(parents=True)
        return stager.stage(chain([first, second], pieces), folder)
    except ExportError as error:
        return error
    except WarehouseBusy:
        raise
    except (*UNREADABLE, OSError) as error:
        return ExportError(f"{series}: not exported: its rows cannot be read: {one_line(error)}; the other series are")


def _write_series(writer: TableWriter, place: _Place, files: Sequence[Wanted], content: Content) -> _Done:
    done, began = _Done(), time.monotonic()
    if isinstance(content, ExportError):
        log.info("%s: %s", place.market.name, content)
        done.errors.append(content)
        return done
    times = content.open_times if isinstance(content, StagedTable) else content["open_time"]
    for file in files if len(times) else ():
        try:
            _write_file(writer, place, file, content, done)
        except ExportError as error:
            log.info("%s %s: %s", place.market.name, file.series, error)
            done.errors.append(error)
    if isinstance(content, StagedTable):
        shutil.rmtree(content.folder, ignore_errors=True)
    done.seconds = time.monotonic() - began
    return done


def _write_file(writer: TableWriter, place: _Place, file: Wanted, content: Rows | StagedTable, done: _Done) -> None:
    market, root = place.market, place.root
    times = content.open_times if isinstance(content, StagedTable) else content["open_time"]
    path, compression = root / file.path, file.export.compression_of(file.kind)
    older = older_name(root, file.path) if file.export.keep.newest > 1 else None
    first_row = first_row_of(times, file.export.window)
    types = types_of(market, file)
    how: dict[str, Any] = {"compression": compression, "time_format": file.time_format, "older": older, "types": types}
    if isinstance(content, StagedTable):
        names = {theirs: ours for ours, theirs in names_of(market, file.layer, file.export)}
        written = writer.write_staged(content, names, path, first_row=first_row, **how)
    else:
        written = writer.write(content_of(market, file, content), path, **how)
    first, last = (times[index].astype(datetime) for index in (first_row, -1))
    entry = (file.export.name, file.layer.value, file.kind.value, file.path, file.shape)
    sha256, blocks = written.sha256, Blocks.of(path) if file.grows else None
    if blocks is not None:
        sha256 = blocks.digest
    row = Exported(file.series, *entry, written.rows, written.bytes, sha256, first, last, str(blocks or ""))
    done.add(row, replaced=written.replaced, rows=written.rows, size=written.bytes)


def _add_datasets(
    done: dict[Series, _Done], datasets: Mapping[Timeframe, DatasetResult], changed: Sequence[Series]
) -> None:
    """Count a timeframe's files of all instruments as one of each series that changed."""
    for series in changed:
        if result := datasets.get(series.timeframe):
            own = done.setdefault(series, _Done())
            own.has_data = True
            own.replaced += result.replaced > 0
            own.errors += result.errors


def _add_grown(done: _Done, grown: GrownFile) -> None:
    done.add(grown.row, replaced=grown.rows > 0, rows=grown.rows, size=grown.bytes)


def is_as_written(root: Path, row: Exported) -> bool:
    """Whether a file still has the length and the hash that the manifest has; False where it is gone.

    Raises:
        OSError: it cannot be read.
    """
    path = root / row.path
    if not path.is_file() or path.stat().st_size != row.bytes:
        return False
    if row.block_hashes:
        return Blocks.of(path) == Blocks.parse(row.bytes, row.block_hashes)
    return sha256_of(path) == row.sha256


def _attempt(done: _Done) -> Attempt:
    is_written = bool(done.replaced and not done.errors)
    return Attempt.of(
        reasons=[str(error) for error in done.errors],
        changed=is_written,
        has_data=bool(done.files) or done.has_data,
        rows_added=done.rows if is_written else 0,
        seconds=done.seconds,
        metadata={"files": done.replaced, "bytes": done.bytes},
    )


# ---- files that were replaced


def older_folder(root: Path) -> Path:
    """Where replaced files are kept: beside the folder of exports, so that who reads all of that meets none twice."""
    return root.with_name(f"{root.name}-older")


def older_name(root: Path, path: str) -> Path | None:
    """The name of the current file once it is replaced: with its time of writing, and a number within one second."""
    try:
        written = datetime.fromtimestamp((root / path).stat().st_mtime, UTC)
    except FileNotFoundError:
        return None
    name = older_folder(root) / path
    ending = ending_of(name)
    for number in count(1):
        suffix = f"-{number}" if number > 1 else ""
        older = name.with_name(f"{name.name.removesuffix(ending)}.{written:{STAMP}}{suffix}{ending}")
        # A replacement that was interrupted has kept this very file already.
        if not older.exists() or older.samefile(root / path):
            return older
    return None
