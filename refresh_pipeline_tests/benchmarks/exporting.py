"""Export files against DuckDB's own COPY of the same rows, and skipping unchanged ones against looking at each file."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import duckdb

from refresh_pipeline import exporting
from refresh_pipeline.market.exports import Export, Format, Layer
from refresh_pipeline.market.model import Market
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.schema import Table, mark_all_stale
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Size, side_by_side
from refresh_pipeline_tests.benchmarks.wide_run import wide_market

NOW = datetime(2026, 1, 8, tzinfo=UTC)
LAYERS = (Layer.candles, Layer.enhanced, Layer.indicators)
# A round of both takes minutes on two cores.
ROUNDS = 2


def measure(size: Size, database: Path) -> list[Comparison]:
    """One Parquet file a series and layer: all of them written, and all of them found unchanged."""
    market, warehouse = _market(size), Warehouse(database=str(database))
    for table in (Table.enhanced_candles, Table.indicators):
        warehouse.refresh_tail(market, table, market.series)
    folders = (database.parent / f"exported-{number}" for number in count())
    rounds = min(size.rounds, ROUNDS)
    written = side_by_side(
        f"write {len(market.series)} series x {len(LAYERS)} layers",
        lambda: _export_anew(warehouse, market, next(folders)),
        lambda: bare_copy(database, market, next(folders)),
        rounds,
    )
    root = next(folders)
    _export_anew(warehouse, market, root)
    skipped = side_by_side(
        f"skip {len(market.series) * len(LAYERS)} unchanged files",
        lambda: exporting.export(warehouse, market, root, market.series, NOW),
        lambda: [path.stat() for path in files_of(market, root)],
        rounds,
    )
    notes = ("bare: no hash, no flush to disk, no other name first", "bare: a look at each file's size")
    return [
        Comparison(each.what, each.ours, each.bare, note) for each, note in zip((written, skipped), notes, strict=True)
    ]


def _market(size: Size) -> Market:
    export = Export(name="bench", layers=LAYERS, formats=(Format.parquet,))
    return wide_market(size).model_copy(update={"exports": {"bench": export}})


def _export_anew(warehouse: Warehouse, market: Market, root: Path) -> None:
    with warehouse.get_connection() as connection, transaction(connection):
        connection.execute(f"delete from {market.name}.exports")
        mark_all_stale(connection, market.name, Table.exports)
    done = exporting.export(warehouse, market, root, market.series, NOW)
    assert sum(int(str(each.more["files"])) for each in done.values()) == len(market.series) * len(LAYERS)


def files_of(market: Market, root: Path) -> Iterator[Path]:
    """Every file that there should be."""
    return (root / file.path for series in market.series for file in exporting.wanted_files(market, series))


def bare_copy(database: Path, market: Market, root: Path) -> None:
    """The same rows into files of the same names, by one COPY a file."""
    tables = {
        Layer.candles: (Table.enhanced_candles, "open_time, open, high, low, close, volume"),
        Layer.enhanced: (Table.enhanced_candles, "* exclude (instrument, timeframe)"),
        Layer.indicators: (Table.indicators, "* exclude (instrument, timeframe)"),
    }
    with duckdb.connect(str(database), read_only=True) as connection:
        for series in market.series:
            for file in exporting.wanted_files(market, series):
                path = root / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                table, columns = tables[file.layer]
                connection.execute(
                    f"copy (select {columns} from {market.name}.{table} where instrument = '{series.instrument}' "
                    f"and timeframe = '{series.timeframe}' order by open_time) to '{path}' "
                    "(format parquet, compression zstd)"
                )
