"""What is stored of a candle, and what reading older rows costs where they are computed instead."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.warehouse import stored_values
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.schema import Table, qualified
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.measuring import SEED, Comparison, Findings, Size, replaced, side_by_side

NOW = datetime(2026, 1, 8, tzinfo=UTC)
SERIES, MOST_BARS, ROWS = 12, 3 * 1440, 500
WIDE, DAYS, STORED_DAYS = 487, 90, 3
TABLES = (Table.raw_candles, Table.checkpoints, Table.enhanced_candles, Table.indicators)


def measure(size: Size, folder: Path) -> Findings:
    """Bytes a candle of each table, the size that follows, and a stretch computed beside the same one read."""
    market, bars = market_of(min(size.series, SERIES)), min(size.stored * 2, MOST_BARS)
    warehouse = filled(folder / "storage.duckdb", market, bars)
    with replaced(stored_values, "ROUNDED", frozenset()):
        unrounded = filled(folder / "unrounded.duckdb", market, bars)
    candles = bars * len(market.series)
    stored = {table: _bytes(folder, warehouse, market, table) / candles for table in TABLES}
    full = {table: _bytes(folder, unrounded, market, table) / candles for table in TABLES}
    comparisons = [
        Comparison(f"{table.value}: bytes a candle", [stored[table]], [full[table]], "bare: full precision", unit="B")
        for table in TABLES
    ]
    comparisons.append(_estimate(stored, full))
    comparisons += [_stretch(warehouse, market, table, size.rounds) for table in computations(market)]
    return {f"what is stored of {len(market.series)} series x {bars} candles on m1": comparisons}


def market_of(series: int) -> Market:
    """A market whose rows are all stored."""
    names = ", ".join(f"I{number:03}/USD" for number in range(series))
    return parse_market(
        f"{{name: small, source: {{kind: demo}}, calendar: crypto, instruments: [{names}], timeframes: [m1], "
        "history: 90d, indicators: {keep: for ever}}",
        file="small.yaml",
    )


def filled(database: Path, market: Market, bars: int) -> Warehouse:
    """Candles with five digits and a volume with three decimals, at prices from 0.01 to 30,000, and their rows."""
    random = np.random.default_rng(SEED)
    times = instant(NOW) - np.timedelta64(1, "m") * np.arange(bars, 0, -1)
    warehouse = Warehouse(database)
    warehouse.prepare(market)
    warehouse.store_candles(market, {series: _walk(random, times) for series in market.series}, "test", NOW)
    for table in computations(market):
        warehouse.refresh_tail(market, table, market.series)
    return warehouse


def _walk(random: np.random.Generator, times: NDArray) -> Candles:
    price = 10.0 ** random.uniform(-2, 4.5)
    close = price * np.exp(np.cumsum(random.normal(0, 0.0004, len(times))))
    open_ = np.append(close[0], close[:-1])
    high = np.maximum(open_, close) * (1 + np.abs(random.normal(0, 0.0002, len(times))))
    low = np.minimum(open_, close) * (1 - np.abs(random.normal(0, 0.0002, len(times))))
    digits = max(0, 4 - int(np.floor(np.log10(price))))
    prices = [np.round(values, digits).astype(np.float64) for values in (open_, high, low, close)]
    volume = np.round(np.exp(random.normal(3, 1.5, len(times))), 3).astype(np.float64)
    return Candles(times, dict(zip(CANDLE_COLUMNS, [*prices, volume], strict=True)))


def _bytes(folder: Path, warehouse: Warehouse, market: Market, table: Table) -> int:
    """The size of a file with nothing but the rows of a table, in the order in which ticks append them."""
    file = folder / "table.duckdb"
    file.unlink(missing_ok=True)
    with duckdb.connect(str(file)) as connection:
        connection.execute(f"attach '{warehouse.database}' as source (read_only)")
        connection.execute(
            f"create table rows as from source.{qualified(market.name, table)} order by open_time, instrument"
        )
        connection.execute("detach source")
    return file.stat().st_size


def _estimate(stored: Mapping[Table, float], full: Mapping[Table, float]) -> Comparison:
    """The size of many series, of which the newest days of computed rows are stored."""
    minutes = WIDE * 1440 / 1e9
    lasting, expiring = TABLES[:2], TABLES[2:]
    ours = minutes * (DAYS * sum(stored[table] for table in lasting) + STORED_DAYS * sum(stored[t] for t in expiring))
    bare = minutes * DAYS * sum(full.values())
    what = f"{WIDE} series x {DAYS} days, {STORED_DAYS} of them stored as computed rows (estimate)"
    return Comparison(what, [ours], [bare], "bare: every row, full precision; target: 6 GB", unit="GB")


def _stretch(warehouse: Warehouse, market: Market, table: Table, rounds: int) -> Comparison:
    """ROWS rows x all columns of one series, computed on read beside read from the table."""
    series, columns = market.series[0], [column.name for column in computations(market)[table].columns]
    until = instant(NOW)
    since = until - np.timedelta64(ROWS, "m")

    def read() -> None:
        with warehouse.reader() as connection:
            arrays_of(
                connection,
                f"select * from {qualified(market.name, table)} where instrument = ? and timeframe = ? "
                "and open_time >= ? and open_time < ? order by open_time",
                [series.instrument, series.timeframe.value, since.item(), until.item()],
            )

    def computed() -> None:
        with warehouse.session():
            list(warehouse.computed_rows(market, table, series, since=since, until=until))

    what = f"{table.value}: {ROWS} rows x {len(columns)} columns, computed"
    return side_by_side(what, computed, read, rounds, "bare: read from the table")
