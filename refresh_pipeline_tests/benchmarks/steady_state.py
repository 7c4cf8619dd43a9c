"""What a tick leaves behind, in Dagster's files and in each large table, and what it comes to with what is kept.

Run as `python -m refresh_pipeline_tests.benchmarks.steady_state --ticks 30`. Real wide runs of one timeframe, with all
columns, in one process, after a first refresh that does not count. Figures are in docs/decisions/0070.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import dagster as dg
import duckdb

from refresh_pipeline.instance.run_retention import retention_of_timeframe
from refresh_pipeline.instance.sqlite_storage import close_files
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.pipeline.job_names import refresh_job_name
from refresh_pipeline.settings import load_settings, prepare_dagster
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline_tests.benchmarks.cycle import run_job
from refresh_pipeline_tests.benchmarks.growth import market_yaml
from refresh_pipeline_tests.benchmarks.venue import BEGIN, MINUTE

TOTAL = "the warehouse"
DAY = timedelta(days=1)
# Between two prunings.
AN_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes that a tick adds: to Dagster's files, to the warehouse, and to its largest tables."""

    market: Market
    dagster: float
    warehouse: float
    tables: Mapping[str, float]

    def lines(self) -> Iterator[str]:
        """A day, and what it comes to with what is kept."""
        timeframe = self.market.timeframes[0]
        runs = (retention_of_timeframe(timeframe) + AN_HOUR) / timedelta(minutes=timeframe.minutes)
        at_most = f"{runs:.0f} runs at most: {runs * self.dagster / 1e9:.2f} GB"
        yield f"{'Dagster':<17} {self._a_day(self.dagster)}; {at_most}"
        yield f"{TOTAL:<17} {self._a_day(self.warehouse)}, all tables together"
        for table, bytes_ in self.tables.items():
            keep = self.market.indicators.keep.get(timeframe) if table == Table.indicators else None
            end = f"{keep.days} days are kept: {self._of(bytes_, keep):.1f} GB" if keep else "as long as candles"
            yield f"{table:<17} {self._a_day(bytes_)}; {end}"

    def _a_day(self, bytes_: float) -> str:
        return f"{bytes_ / 1e3:8.1f} kB a tick, {self._of(bytes_, DAY):7.3f} GB a day"

    def _of(self, bytes_: float, span: timedelta) -> float:
        return bytes_ * (span / timedelta(minutes=self.market.timeframes[0].minutes)) / 1e9


def measured(folder: Path, series: int, ticks: int) -> Growth:
    """So many ticks after a first refresh."""
    market = parse_market(market_yaml(series, history="2h"), file="wide.yaml")
    settings = load_settings(data_dir=folder)
    home = prepare_dagster(settings)
    job = build(settings, [market]).resolve_job_def(refresh_job_name(market))
    with dg.DagsterInstance.get() as instance:
        run_job(instance, job, market, BEGIN)
        files, tables = files_of(home), tables_of(settings.database, market)
        for number in range(1, ticks + 1):
            run_job(instance, job, market, BEGIN + MINUTE * number)
        later = tables_of(settings.database, market)
    grown = {table: (later[table] - before) / ticks for table, before in tables.items()}
    return Growth(market, (files_of(home) - files) / ticks, grown.pop(TOTAL), grown)


def files_of(folder: Path) -> int:
    """Bytes below a folder, once what lies in logs beside Dagster's files is in them."""
    close_files()
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tables_of(database: Path, market: Market) -> dict[str, int]:
    """Bytes of the blocks that hold each of the large tables, and of all that are used."""
    with duckdb.connect(str(database), read_only=True) as connection:
        [(size, used)] = connection.execute(
            "select block_size, used_blocks from pragma_database_size() where database_name = current_database()"
        ).fetchall()
        sizes = {
            table.value: connection.execute(
                f"select count(distinct block_id) from pragma_storage_info('{market.name}.{table.value}')"
            ).fetchall()[0][0]
            for table in (Table.raw_candles, Table.enhanced_candles, Table.indicators, Table.checkpoints)
        }
    return {table: blocks * size for table, blocks in sizes.items()} | {TOTAL: used * size}


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=30)
    parser.add_argument("--series", type=int, default=487)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        growth = measured(Path(folder), chosen.series, chosen.ticks)
    print(f"{chosen.series} series on {Timeframe.m1}, {chosen.ticks} ticks")
    print("\n".join(growth.lines()))


if __name__ == "__main__":
    main()
