"""Export files against DuckDB's own COPY of the same rows, and skipping unchanged ones against looking at each file."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import duckdb

from refresh_pipeline.market.export_spec import Export, Format, Layer
from refresh_pipeline.market.model import Market
from refresh_pipeline.pipeline import export, export_content
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.schema import Table, queue_full_recompute
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.cycle import fill
from refresh_pipeline_tests.benchmarks.measuring import Findings, Size, side_by_side
from refresh_pipeline_tests.benchmarks.venue import market_at

NOW = datetime(2026, 1, 8, tzinfo=UTC)
NOWHERE = "http://127.0.0.1:1"
LAYERS = (Layer.candles, Layer.enhanced, Layer.indicators)
# A round of both takes some ten seconds on two cores.
ROUNDS = 2


def measure(size: Size, folder: Path) -> Findings:
    """One Parquet file a series and layer: all of them written, and all of them found unchanged."""
    market, database = _market(size), folder / "exports.duckdb"
    warehouse = Warehouse(database=str(database))
    fill(warehouse, market, size.stored)
    folders = (folder / f"exported-{number}" for number in count())
    rounds, files = min(size.rounds, ROUNDS), len(market.series) * len(LAYERS)
    written = side_by_side(
        f"write {files} files of {size.stored} candles",
        lambda: _export_anew(warehouse, market, next(folders)),
        lambda: bare_copy(database, market, next(folders)),
        rounds,
        "bare: no hash, no flush to disk, no other name first",
    )
    root = next(folders)
    _export_anew(warehouse, market, root)
    skipped = side_by_side(
        f"skip {files} unchanged files",
        lambda: export.export(warehouse, market, root, market.series, NOW),
        lambda: [path.stat() for path in files_of(market, root)],
        rounds,
        "bare: a look at each file's size",
    )
    return {f"export files of {len(market.series)} series x m1 against DuckDB's own COPY": [written, skipped]}


def _market(size: Size) -> Market:
    export = Export(name="bench", layers=LAYERS, formats=(Format.parquet,))
    market = market_at(NOWHERE, size.exported, size.stored, keep="90d")
    return market.model_copy(update={"exports": {"bench": export}})


def _export_anew(warehouse: Warehouse, market: Market, root: Path) -> None:
    with warehouse.get_connection() as connection, transaction(connection):
        connection.execute(f"delete from {market.name}.exports")
        queue_full_recompute(connection, market.name, Table.exports)
    done = export.export(warehouse, market, root, market.series, NOW)
    assert sum(int(str(each.metadata["files"])) for each in done.values()) == len(market.series) * len(LAYERS)


def files_of(market: Market, root: Path) -> Iterator[Path]:
    """Every file that there should be."""
    return (root / file.path for series in market.series for file in export_content.wanted_files(market, series))


def bare_copy(database: Path, market: Market, root: Path) -> None:
    """The same rows into files of the same names, by one COPY a file."""
    tables = {
        Layer.candles: (Table.enhanced_candles, "open_time, open, high, low, close, volume"),
        Layer.enhanced: (Table.enhanced_candles, "* exclude (instrument, timeframe)"),
        Layer.indicators: (Table.indicators, "* exclude (instrument, timeframe)"),
    }
    with duckdb.connect(str(database), read_only=True) as connection:
        for series in market.series:
            for file in export_content.wanted_files(market, series):
                path = root / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                table, columns = tables[file.layer]
                connection.execute(
                    f"copy (select {columns} from {market.name}.{table} where instrument = '{series.instrument}' "
                    f"and timeframe = '{series.timeframe}' order by open_time) to '{path}' "
                    "(format parquet, compression zstd)"
                )
