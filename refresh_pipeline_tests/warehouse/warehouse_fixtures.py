"""Markets, candles and warehouses to test with, and what a warehouse's file says when it is asked directly."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import CANDLE_COLUMNS, PRICE_COLUMNS, Candles, Floats, Malformed, Times, instant
from refresh_pipeline.market.export_spec import Window
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline.warehouse.manifests import joined_columns
from refresh_pipeline.warehouse.schema import candle_columns
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import ON_A_LAKE, address_in, copied, keep

FULL = Window.model_validate("full")
FIRST = instant("2024-01-01T00:00")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BTC, ETH = Series("BTC/USD", Timeframe.m5), Series("ETH/USD", Timeframe.m5)


def market_of(
    instruments: Sequence[str] = ("BTC/USD", "ETH/USD"),
    timeframes: str = "[m5]",
    calendar: str = "crypto",
    name: str = "fair",
    two_sided: bool = False,
) -> Market:
    """A market as its YAML would describe it."""
    text = (
        f"{{name: {name}, source: {{kind: demo}}, calendar: {calendar}, instruments: [{', '.join(instruments)}], "
        f"timeframes: {timeframes}, history: 30d, two_sided: {str(two_sided).lower()}}}"
    )
    return parse_market(text, file="test.yaml")


SHIPPED_TABLES = computations(market_of())


# On a lake the tables of a market take a hundred statements: they are made once a process, and the catalogue is copied.
_templates: list[tuple[tuple[Market, ...], str]] = []


def prepared(folder: Path, *markets: Market) -> Warehouse:
    """A new warehouse in a folder, with the tables of these markets."""
    if not ON_A_LAKE:
        return _made(folder, markets)
    address = next((address for made, address in _templates if made == markets), None)
    if address is None:
        address = _made(Path(mkdtemp(prefix="lake-")), markets).database
        keep(address)
        _templates.append((markets, address))
    return Warehouse(database=copied(address, folder), patience=30)


def _made(folder: Path, markets: Sequence[Market]) -> Warehouse:
    warehouse = Warehouse(database=address_in(folder), patience=30)
    for market in markets:
        warehouse.prepare(market)
    return warehouse


def opens(count: int, first: int = 0, timeframe: Timeframe = Timeframe.m5) -> Times:
    """Opening times one after another, from the bar numbered `first` on."""
    return FIRST + length_of(timeframe) * np.arange(first, first + count)


def prices(count: int, seed: int = 0) -> dict[str, Floats]:
    """Candle columns of a market that wanders."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.standard_normal(count) * 0.01))
    open_ = np.concatenate([[100.0], close])[:count]
    high = np.maximum(open_, close) * (1 + 0.01 * random.random(count))
    low = np.minimum(open_, close) * (1 - 0.01 * random.random(count))
    volume = random.integers(0, 1000, count).astype(np.float64)
    return dict(zip(CANDLE_COLUMNS, (open_, high, low, close, volume), strict=True))


def candles(count: int, first: int = 0, seed: int = 0) -> Candles:
    """Candles of five minutes that follow one another."""
    return Candles(opens(count, first), prices(count, seed))


def flat(price: float, *numbers: int, volume: float = 1.0, malformed: Sequence[Malformed] = ()) -> Candles:
    """Candles whose four prices are one, at the bars of these numbers, in this order."""
    times = FIRST + length_of(Timeframe.m5) * np.array(numbers, dtype=np.int64)
    columns = dict.fromkeys(PRICE_COLUMNS, np.full(len(numbers), price))
    return Candles(times, columns | {"volume": np.full(len(numbers), volume)}, malformed)


def at(seconds: float) -> datetime:
    """So long after the tests' usual instant."""
    return NOW + timedelta(seconds=seconds)


def query(warehouse: Warehouse, statement: str, *values: Any) -> list[tuple]:
    """What the file says, asked without the warehouse."""
    with connect(warehouse.database, read_only=True, patience=30) as connection:
        return connection.execute(statement, values).fetchall()


def every_column(market: Market) -> list[str]:
    """What a row of a market can hold, as exports name it."""
    return ["open_time", *candle_columns(market.two_sided), *joined_columns(computations(market).values())]


def change(warehouse: Warehouse, statement: str, *values: Any) -> None:
    """Do to the file what somebody else may."""
    with connect(warehouse.database) as connection:
        connection.execute(statement, values)


def everything(warehouse: Warehouse) -> dict[str, list[tuple]]:
    """Every row of every table, in a fixed order."""
    with connect(warehouse.database, read_only=True, patience=30) as connection:
        names = connection.execute(
            "select schema_name, table_name from duckdb_tables() where database_name = current_database() order by all"
        ).fetchall()
        return {
            f"{schema}.{table}": connection.execute(f'select * from "{schema}"."{table}" order by all').fetchall()
            for schema, table in names
        }
