"""Raw candles of several timeframes in the order in which ticks append them, and with old ones brought into order.

Run as `python -m refresh_pipeline_tests.benchmarks.old_rows --series 487 --days 10`. Figures are in
docs/decisions/0071.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np

from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import numbered, registered
from refresh_pipeline.warehouse.compaction import CELLS_TOGETHER, Compaction, CompactionResult
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
# What a tick reads of each series.
BARS = 768
ROUNDS = 5
FILL = """
insert into wide.raw_candles by name
select i.instrument, t.timeframe, open_time, 'demo' as source, open_time + to_minutes(t.minutes) as fetched_at,
  round(100 + i.series_no + random(), 2) as open, round(101 + i.series_no + random(), 2) as high,
  round(99 + i.series_no + random(), 2) as low, round(100 + i.series_no + random(), 2) as close,
  round(500 * random()) as volume
from instruments i, timeframes t, lateral (
  select unnest(generate_series($begin, $last, to_minutes(t.minutes))) as open_time)
order by fetched_at, i.series_no
"""
READ = """
select w.series_no, c.open_time, c.open, c.high, c.low, c.close, c.volume
from wide.raw_candles c join wanted w using (instrument, timeframe) where c.open_time >= $since
order by w.series_no, c.open_time
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """Megabytes of used blocks, and milliseconds of processors: what a tick of each timeframe reads, and one series."""

    megabytes: float
    ticks: Mapping[str, float]
    one_series: float


def market_of(series: int) -> Market:
    """So many instruments on five timeframes."""
    instruments = ", ".join(f"S{number:04d}" for number in range(series))
    return parse_market(
        f"{{name: wide, source: {{kind: demo}}, calendar: crypto, instruments: [{instruments}], "
        "timeframes: [m1, m5, m15, H1, D1], history: 1d}",
        file="wide.yaml",
    )


def filled(folder: Path, market: Market, days: int) -> Warehouse:
    """Raw candles as ticks append them: by the time at which they closed."""
    warehouse = Warehouse(database=str(folder / "rows.duckdb"))
    warehouse.prepare(market)
    instruments = numbered([Series(name, Timeframe.m1) for name in market.instruments])
    names = numbered([Series("", timeframe) for timeframe in market.timeframes])
    timeframes = names | {"minutes": np.array([each.minutes for each in market.timeframes], dtype=np.int32)}
    span = {
        "begin": BEGIN.replace(tzinfo=None),
        "last": (BEGIN + timedelta(days=days, minutes=-1)).replace(tzinfo=None),
    }
    with (
        warehouse.get_connection() as connection,
        registered(connection, "instruments", instruments),
        registered(connection, "timeframes", timeframes),
    ):
        connection.execute(FILL, span)
    return warehouse


def processor_seconds(work: Callable[[], object]) -> float:
    """What a call takes of all processors together, whatever else the machine does."""
    began = time.process_time()
    work()
    return time.process_time() - began


def read(warehouse: Warehouse, market: Market, days: int) -> Reading:
    """What is read of it, the median of several rounds."""
    end = BEGIN.replace(tzinfo=None) + timedelta(days=days)
    with warehouse.reader() as connection:

        def milliseconds(batch: list[Series], since: datetime) -> float:
            with registered(connection, "wanted", numbered(batch)):
                taken = [
                    processor_seconds(lambda: connection.execute(READ, {"since": since}).fetchnumpy())
                    for _ in range(ROUNDS)
                ]
            return 1000 * median(taken)

        [(blocks, size)] = connection.execute(
            "select used_blocks, block_size from pragma_database_size() where database_name = current_database()"
        ).fetchall()
        ticks = {
            each.value: milliseconds(
                [Series(name, each) for name in market.instruments], end - BARS * timedelta(minutes=each.minutes)
            )
            for each in market.timeframes
        }
        return Reading(blocks * size / 1e6, ticks, milliseconds(list(market.series[:1]), BEGIN.replace(tzinfo=None)))


def attempted(
    folder: Path, series: int, days: int, cells: int = CELLS_TOGETHER
) -> tuple[Reading, Reading, CompactionResult]:
    """Before and after, and what was done."""
    market = market_of(series)
    warehouse = filled(folder, market, days)
    before = read(warehouse, market, days)
    layout = Compaction(warehouse.get_connection, market.name, Table.raw_candles, cells_together=cells)
    done = layout.rewrite(BEGIN + timedelta(days=days), 600)
    return before, read(warehouse, market, days), done


def main() -> None:
    """Fill, read, rewrite, read, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=487)
    parser.add_argument("--days", type=int, default=10)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before, after, done = attempted(Path(folder), chosen.series, chosen.days)
    for name, found in (("as appended", before), ("in order", after)):
        ticks = ", ".join(f"{timeframe} {ms:.0f}" for timeframe, ms in found.ticks.items())
        print(f"{name:<12} {found.megabytes:6.0f} MB; ms a tick: {ticks}; one series on m1: {found.one_series:.1f}")
    print(f"{done.rows:,} rows in {done.pieces} pieces; the file was held for {done.longest:.1f} s at most")


if __name__ == "__main__":
    main()
