"""What is missing of every series, against a bare count of the same candles: how long a look holds the file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from refresh_pipeline.market.candles import CANDLE_COLUMNS, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.warehouse import gaps
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.schema import Table, qualified
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size, seconds

NOW = datetime(2026, 1, 8, tzinfo=UTC)
TIMEFRAMES = ("m1", "m5", "m15", "H1", "D1")
# One candle in so many is missing.
ONE_IN = 5_000
TARGET = "bare: a count of the candles of each series; target: 100 ms at 240 series x 90 days"


def measure(size: Size, folder: Path) -> Findings:
    """Looking with the file open, and deriving everything from the candles once."""
    market, database = market_of(size.gap_instruments, size.gap_days), folder / "gaps.duckdb"
    store = Warehouse(database)
    store.prepare(market)
    fill(store, market, size.gap_days)
    # Another object: the first one has found the market's tables in order.
    derived = seconds(Warehouse(database).prepare, market)
    looks = [(_looked(database, market), _counted(database, market)) for _ in range(size.rounds)]
    written = [seconds(store.write_gaps, market, NOW) for _ in range(size.rounds)]
    comparisons = [
        Comparison("gaps and completeness, file open", [a for a, _ in looks], [b for _, b in looks], TARGET),
        Comparison("write the tables gaps and completeness", written, note="open, write, close"),
        Comparison("derive stored ranges from all candles", [derived], note="once, where they are lost"),
    ]
    return {f"what is missing of {len(market.series)} series x {size.gap_days} days": comparisons}


def market_of(instruments: int, days: int) -> Market:
    """A market of so many instruments on several timeframes."""
    names = ", ".join(f"I{number:03}/USD" for number in range(instruments))
    return parse_market(
        f"{{name: holes, source: {{kind: demo}}, calendar: crypto, instruments: [{names}], "
        f"timeframes: [{', '.join(TIMEFRAMES)}], history: {days}d}}",
        file="holes.yaml",
    )


def fill(store: Warehouse, market: Market, days: int) -> None:
    """Candles in the order in which refreshes store them, some of them missing; without stored ranges."""
    prices = ", ".join(f"1.5 as {name}" for name in CANDLE_COLUMNS)
    with store.get_connection() as connection, transaction(connection):
        for timeframe in market.timeframes:
            bars = market.calendar.open_times(timeframe, instant(NOW - timedelta(days=days)), instant(NOW))
            connection.register("bars", {"open_time": bars})
            connection.execute(
                f"insert into {qualified(market.name, Table.raw_candles)} by name "
                f"select instrument, '{timeframe.value}' as timeframe, open_time, {prices}, 'test' as source, "
                f"open_time as fetched_at from bars, (select unnest(?) as instrument) "
                f"where hash(instrument, open_time) % {ONE_IN} <> 0 order by open_time, instrument",
                [list(market.instruments)],
            )
            connection.unregister("bars")
        connection.execute(
            f"insert into {qualified(market.name, Table.series)} by name select instrument, timeframe, "
            "count(*) as candle_count, min(open_time) as first_open_time, max(open_time) as last_open_time "
            f"from {qualified(market.name, Table.raw_candles)} group by all"
        )


def _looked(database: Path, market: Market) -> float:
    with connect(str(database), read_only=True) as connection:
        return seconds(gaps.gaps_and_coverage, connection, market, NOW)


def _counted(database: Path, market: Market) -> float:
    question = f"select instrument, timeframe, count(*) from {qualified(market.name, Table.raw_candles)} group by all"
    with duckdb.connect(str(database), read_only=True) as connection:
        return seconds(lambda: connection.execute(question).fetchnumpy())
