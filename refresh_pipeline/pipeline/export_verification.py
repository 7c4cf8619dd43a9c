"""Whether export files hold what they should: every row of every file, its schema, and the table that it came from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.files.growing import Blocks
from refresh_pipeline.files.reader import TableReader
from refresh_pipeline.files.writer import ExportError
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, faults
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline.export import is_as_written
from refresh_pipeline.pipeline.export_content import Wanted, columns_of, content_of, wanted_files, window_of
from refresh_pipeline.pipeline.progress import advance
from refresh_pipeline.warehouse.manifests import Exported
from refresh_pipeline.warehouse.queries import Fault
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

Cells = Mapping[str, NDArray]


def verify(warehouse: Warehouse, market: Market, root: Path, batch: Sequence[Series]) -> tuple[int, list[Fault]]:
    """How many files were read to their end, and what is wrong with any of them.

    A file whose series changed since it was written is not held against the table; its rows must make sense anyway.
    """
    warehouse.prepare(market)
    manifest = {each.path: each for each in warehouse.exported(market, batch)}
    changed = set(warehouse.pending_recompute(market, Table.exports, batch).series)
    files = [file for series in batch for file in wanted_files(market, series) if file.path in manifest]
    by_series: dict[Series, list[Wanted]] = {}
    for file in files:
        by_series.setdefault(file.series, []).append(file)
    found: list[Fault] = []
    if not files:
        return 0, found
    rows = warehouse.rows_to_export(market, list(by_series), columns_of(market, files), window_of(files))
    with TableReader() as reader:
        for number, (series, own) in enumerate(rows, start=1):
            for file in by_series[series]:
                wanted = content_of(market, file, own)
                found += _faults(reader, root, manifest[file.path], wanted, is_current=series not in changed)
            advance("verify", number, len(by_series))
    return len(files), found


def _faults(reader: TableReader, root: Path, row: Exported, wanted: Cells, *, is_current: bool) -> Iterator[Fault]:
    path = root / row.path
    try:
        if not path.is_file():
            yield Fault(row.series, None, f"{row.path}: the file is gone")
            return
        if _is_appended_to(path, row):
            words = f"{path.stat().st_size - row.bytes:,} bytes behind the recorded ones; publish again to repair it"
            yield Fault(row.series, None, f"{row.path}: {words}")
            return
        names = reader.names(path)
        if row.rows and names != [*wanted]:
            yield Fault(row.series, None, f"{row.path}: {_schema_words(names, [*wanted])}")
            return
        held = reader.read(path, {name: values.dtype.kind for name, values in wanted.items()})
    except ExportError as error:
        yield Fault(row.series, None, str(error))
        return
    if not is_as_written(root, row):
        yield Fault(row.series, None, f"{row.path}: the file is not the one that was written")
    yield from _row_faults(row, held)
    if is_current:
        yield from _differences(row, held, wanted)


def _is_appended_to(path: Path, row: Exported) -> bool:
    """Whether a file that grows holds what was recorded and more, as a killed append leaves it."""
    if not row.block_hashes or path.stat().st_size <= row.bytes:
        return False
    return Blocks.of(path, row.bytes) == Blocks.parse(row.bytes, row.block_hashes)


def _schema_words(names: Sequence[str], wanted: Sequence[str]) -> str:
    missing = [name for name in wanted if name not in names]
    more = [name for name in names if name not in wanted]
    parts = [f"lacks {', '.join(missing[:3])}"] if missing else []
    parts += [f"has {', '.join(more[:3])} besides"] if more else []
    return f"columns differ: {'; '.join(parts) or 'their order'} ({len(names)} there, {len(wanted)} wanted)"


def _row_faults(row: Exported, held: Cells) -> Iterator[Fault]:
    """What is wrong with rows by themselves: their number, their order, candles that contradict themselves."""
    times = next(iter(held.values()))
    if len(times) != row.rows:
        yield Fault(row.series, None, f"{row.path}: {len(times)} rows, {row.rows} were written")
    out_of_order = np.flatnonzero(~(times[1:] > times[:-1]))
    if len(out_of_order):
        number = int(out_of_order[0]) + 1
        yield Fault(row.series, times[number], f"{row.path}: row {number + 1} does not follow the one before it")
    columns = {name.lower(): values for name, values in held.items() if name.lower() in CANDLE_COLUMNS}
    if set(columns) == set(CANDLE_COLUMNS):
        reasons = faults(Candles(times.astype("datetime64[us]"), columns))
        bad = [number for number, reason in enumerate(reasons.tolist()) if reason]
        for number in bad[:1]:
            yield Fault(row.series, times[number], f"{row.path}: row {number + 1} of {len(bad)} bad: {reasons[number]}")


def _differences(row: Exported, held: Cells, wanted: Cells) -> Iterator[Fault]:
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
            yield Fault(row.series, next(iter(wanted.values()))[number], what)
            return


def _differing(held: NDArray, wanted: NDArray) -> NDArray[np.int64]:
    if wanted.dtype.kind == "O":
        return np.flatnonzero(np.array([one != other for one, other in zip(held, wanted, strict=True)], dtype=bool))
    if wanted.dtype.kind == "M":
        return np.flatnonzero((held != wanted) & ~(np.isnat(held) & np.isnat(wanted)))
    one, other = held.astype(np.float64), wanted.astype(np.float64)
    return np.flatnonzero((one != other) & ~(np.isnan(one) & np.isnan(other)))
