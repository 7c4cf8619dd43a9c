"""Growth of CSV files of candles: new rows are appended where a publishing would otherwise write the whole file.

A file that cannot grow is left out of the answer, and `export` writes it whole. That is so after a correction of a row
that the file holds, after a change by somebody else, and for a file with a second name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.destinations.parallel import map_in_threads
from refresh_pipeline.files.atomic import temporary_folder
from refresh_pipeline.files.growing import Blocks, Grown, grow
from refresh_pipeline.files.writer import ExportError, TableWriter
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline.export_content import Wanted, columns_of, content_of
from refresh_pipeline.warehouse.computed_batch import PendingRecompute
from refresh_pipeline.warehouse.connection import WarehouseBusy
from refresh_pipeline.warehouse.manifests import UNREADABLE, Exported, Rows
from refresh_pipeline.warehouse.warehouse import Warehouse

# More rows than that are soon written whole.
MOST_BARS = 2_000
WORKERS = 4
Candidate = tuple[Wanted, Exported]


@dataclass(frozen=True, slots=True)
class GrownFile:
    """A file that ends with its series' newest rows now: its row of the manifest, and what was appended."""

    file: Wanted
    row: Exported
    rows: int
    bytes: int


def grow_files(
    warehouse: Warehouse,
    market: Market,
    root: Path,
    due: Mapping[Series, Sequence[Wanted]],
    *,
    manifest: Mapping[str, Exported],
    pending: PendingRecompute,
) -> list[GrownFile]:
    """Append the new rows of every due file that can grow; gives these files alone."""
    candidates = _candidates(due, manifest, pending)
    if not candidates:
        return []
    series = [each for each in pending.series if each in candidates]
    positions = {each: number for number, each in enumerate(pending.series)}
    since = pending.since[[positions[each] for each in series]]
    files = [file for pairs in candidates.values() for file, _ in pairs]
    try:
        rows = dict(warehouse.rows_since(market, series, columns_of(market, files), since))
        with temporary_folder(root.with_name(f"{root.name}-staged")) as folder, TableWriter() as writer:
            folder.mkdir(parents=True)
            lines = list(_lines(writer, folder, market, candidates, rows))
    except WarehouseBusy:
        raise
    except (*UNREADABLE, ExportError, OSError):
        # Each series by itself then: what is wrong with one stops no other.
        return []
    grown = map_in_threads(lambda one: _grown(root, *one), iter(lines), WORKERS)
    return [each for each in grown if each is not None]


def _candidates(
    due: Mapping[Series, Sequence[Wanted]], manifest: Mapping[str, Exported], pending: PendingRecompute
) -> dict[Series, list[Candidate]]:
    found: dict[Series, list[Candidate]] = {}
    for number, series in enumerate(pending.series):
        behind = pending.last_open_time[number] - pending.since[number]
        if behind / np.timedelta64(series.timeframe.minutes, "m") > MOST_BARS:
            continue
        for file in due.get(series, ()):
            row = manifest.get(file.path)
            if row is not None and _can_grow(file, row, pending.since[number]):
                found.setdefault(series, []).append((file, row))
    return found


def _can_grow(file: Wanted, row: Exported, since: np.datetime64) -> bool:
    is_later = np.datetime64(row.first_open_time, "us") < since
    return bool(file.grows and row.shape == file.shape and row.block_hashes and is_later)


def _lines(
    writer: TableWriter,
    folder: Path,
    market: Market,
    candidates: Mapping[Series, Sequence[Candidate]],
    rows: Mapping[Series, Rows],
) -> Iterator[tuple[Wanted, Exported, list[bytes], NDArray]]:
    """Each candidate with the lines that it is to end with and their open times; one query formats those of a kind."""
    pairs = [(file, row) for series, pairs in candidates.items() if series in rows for file, row in pairs]

    def kind(pair: Candidate) -> tuple[str, str]:
        return pair[0].export.layout.value, pair[0].time_format

    for _, group in groupby(sorted(pairs, key=kind), key=kind):
        alike = list(group)
        contents = [content_of(market, file, rows[file.series]) for file, _ in alike]
        together = {name: np.concatenate([content[name] for content in contents]) for name in contents[0]}
        lines = writer.csv_lines(together, folder, time_format=alike[0][0].time_format)
        begin = 0
        for file, row in alike:
            times = rows[file.series]["open_time"]
            yield file, row, lines[begin : begin + len(times)], times
            begin += len(times)


def _grown(root: Path, file: Wanted, row: Exported, lines: Sequence[bytes], times: NDArray) -> GrownFile | None:
    recorded = Blocks.parse(row.bytes, row.block_hashes or "")
    try:
        grown: Grown | None = grow(root / file.path, recorded, lines) if lines else None
    except OSError:
        return None
    if grown is None:
        return None
    blocks = grown.blocks
    last: datetime = times[-1].astype(datetime)
    entry = replace(
        row,
        rows=row.rows + grown.rows,
        bytes=blocks.bytes,
        sha256=blocks.digest,
        block_hashes=str(blocks),
        last_open_time=last,
    )
    return GrownFile(file, entry, grown.rows, blocks.bytes - row.bytes)
