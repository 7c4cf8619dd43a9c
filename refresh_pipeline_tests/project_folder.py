"""A folder to refresh in, as somebody would set it up: a market of its own over files of candles, settings in .env.

The market is `bazaar`, four instruments on m15 and H1, whose files are written here and may be torn, mended and
corrected by a test. What the pipeline does in the folder is done by the pipeline itself: nothing is replaced.
"""

import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import numpy as np
from typer.testing import CliRunner, Result

from refresh_pipeline.cli.app import app
from refresh_pipeline.duckdb_connection import attach_duckdb
from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, this_process
from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.partition_ranges import range_tags
from refresh_pipeline.market.series import Series
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.orchestration.schedules import TICK_TAG
from refresh_pipeline.settings import Settings, load_settings, prepare_dagster
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

# A Monday; what a refresh finds closed at that time are the candles up to 11:45 and 11:00.
NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
LATER = NOW + timedelta(hours=2)
# What the files hold: more than a refresh at NOW may tell, and more than the market's history.
FIRST, LAST = NOW.replace(second=0) - timedelta(days=2), NOW.replace(second=0) + timedelta(days=1)

BAZAAR = """
name: bazaar
source: {kind: files, directory: candles}
calendar: crypto
instruments: [BTC/USD, ETH/USD, SOL/USD, XRP/USD]
timeframes: [m15, H1]
history: 1d
max_deviation_percent: 1000
"""
# The same market for tests that are not about what is computed: hundreds of columns take their time. One column of each
# way to compute: a window, a sum with states, TA-Lib's own, and a function of other columns.
FEW_INDICATORS = f"{BAZAAR}indicators: {{compute: [sma_10, ema_20, mfi]}}\n"
# Two files of each series: tests of what may happen to a file need no more.
EXPORTS = "exports: {default: {}}\n"
# They are copied into the folder `uploads` of the data folder.
UPLOADS = "destinations: {uploads: {}}\n"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@contextmanager
def opened(database: str, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A file of DuckDB, whatever the warehouse says."""
    file = attach_duckdb(database, read_only=read_only, config={})
    try:
        yield file.connection
    finally:
        file.close()


@dataclass(frozen=True)
class World:
    """A folder to refresh in, entered with `surroundings.inside`."""

    root: Path

    @classmethod
    def founded(cls, root: Path, market: str = FEW_INDICATORS + EXPORTS + UPLOADS, name: str = "bazaar") -> "World":
        """A new one, with full files of candles for every series of `bazaar`."""
        for folder in ("home", "markets", "candles"):
            (root / folder).mkdir(parents=True)
        (root / ".env").write_text(f"REFRESH_MARKETS={name}\nREFRESH_MARKETS_DIR=markets\n")
        (root / "markets" / f"{name}.yaml").write_text(market)
        world = cls(root)
        for instrument in ("BTC/USD", "ETH/USD", "SOL/USD", "XRP/USD"):
            for timeframe in ("m15", "H1"):
                world.write_candles(f"{instrument}|{timeframe}")
        return world

    def copied(self, root: Path) -> "World":
        """Another like it, with everything that was done there."""
        shutil.copytree(self.root, root)
        return World(root)

    # ---- what the venue has

    def candle_file(self, key: str) -> Path:
        """Where the candles of a series come from."""
        return self.root / "candles" / f"{Series.from_key(key).file_stem}.csv"

    def write_candles(
        self,
        key: str,
        first: datetime = FIRST,
        last: datetime = LAST,
        without: Collection[str] = (),
        changes: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        """What the venue has of a series: candles by a rule, some of them missing, some of them changed.

        Args:
            key: of the series, as Dagster knows it.
            first: the first candle's opening.
            last: before which the last candle opens.
            without: openings of candles that are not there (ISO, UTC).
            changes: by opening (ISO, UTC), what a candle says instead.
        """
        series = Series.from_key(key)
        opens = np.arange(instant(first), instant(last), length_of(series.timeframe)).astype("datetime64[s]")
        lines = ["open_time,open,high,low,close,volume"]
        for open_time in opens.astype(str).tolist():
            if open_time not in without:
                row = {**candle(series, open_time), **(changes or {}).get(open_time, {})}
                lines.append(",".join([f"{open_time}Z", *(str(value) for value in row.values())]))
        self.candle_file(key).write_text("\n".join(lines) + "\n")

    # ---- what the pipeline does

    @property
    def settings(self) -> Settings:
        """As they are found from inside."""
        return load_settings()

    @property
    def market(self) -> Market:
        """The only market."""
        return load_markets(self.settings)[0]

    @property
    def warehouse(self) -> Warehouse:
        """Where its candles live."""
        return Warehouse(database=str(self.settings.database))

    @contextmanager
    def dagster(self) -> Iterator[dg.DagsterInstance]:
        """Its Dagster instance, on files in the folder."""
        prepare_dagster(self.settings)
        with dg.DagsterInstance.get() as instance:
            yield instance

    def job(self, name: str) -> dg.JobDefinition:
        """One of its market's jobs: refresh or publish."""
        return build(self.settings, [self.market]).resolve_job_def(f"{self.market.name}_{name}")

    def run(
        self,
        name: str = "refresh",
        keys: Collection[str] = (),
        now: datetime = NOW,
        instance: dg.DagsterInstance | None = None,
        tick: datetime | None = None,
        **asked: object,
    ) -> dg.ExecuteInProcessResult:
        """One run of a job over the range that these partitions span (none: all), asking for just these.

        With `tick`, as its schedule asks for it at that instant. Dagster forgets the run where no instance is given,
        which takes half the time.
        """
        series = [Series.from_key(key) for key in keys] or self.market.series
        tags = range_tags(self.market, [each.instrument for each in series], [each.timeframe for each in series])
        tags = {**tags, PROCESS_TAG: this_process()}
        if tick is not None:
            tags |= {TICK_TAG: tick.isoformat(), "dagster/schedule_name": f"{self.market.name}_{name}"}
        config = {"now": now.isoformat(), "series": list(keys), **asked}
        run_config = {"resources": {"run_options": {"config": config}}, **QUIET}
        job = self.job(name)
        with nullcontext(instance) if instance else forgetful_dagster() as own:
            return job.execute_in_process(instance=own, tags=tags, run_config=run_config, raise_on_error=False)

    # ---- what came of it

    @cached_property
    def _database(self) -> str:
        return str(self.root / "data" / "refresh.duckdb")

    def query(self, statement: str, *values: object) -> list[tuple]:
        """What the warehouse's file says, asked without the warehouse."""
        with opened(self._database, read_only=True) as connection:
            return connection.execute(statement, values).fetchall()

    def change(self, statement: str, *values: object) -> None:
        """Do to the warehouse's file what nobody should."""
        with opened(self._database, read_only=False) as connection:
            connection.execute(statement, values)

    def lose_candles(self, condition: str, *values: object) -> None:
        """Let stored candles never have been there; what is derived from them is derived again."""
        name = self.market.name
        self.change(f"delete from {name}.raw_candles where {condition}", *values)
        self.change(f"delete from {name}.stored_ranges")

    def tables(self) -> dict[str, list[tuple]]:
        """Every row of every table, in a fixed order."""
        names = self.query("select schema_name, table_name from duckdb_tables() order by all")
        return {
            f"{schema}.{table}": self.query(f'select * from "{schema}"."{table}" order by all')
            for schema, table in names
        }

    def fingerprints(self) -> dict[str, list[tuple]]:
        """What tells whether a table is the same as before, without its rows: long and wide ones are gigabytes."""
        names = self.query("select schema_name, table_name from duckdb_tables() order by all")
        return {
            f"{schema}.{table}": self.query(f'select count(*), sum(hash(t)::hugeint) from "{schema}"."{table}" t')
            for schema, table in names
        }

    def lasting_rows(self, table: str) -> set[tuple]:
        """A table's rows, without the columns that a later candle may change by their own declaration.

        Each as instrument, timeframe, open_time, and a hash of all these columns.
        """
        name = f"{self.market.name}.{table}"
        computation = computations(self.market).get(Table(table))
        repainted = [column.name for column in computation.columns if column.repaint] if computation else []
        listed = [row[0] for row in self.query(f"describe {name}") if row[0] not in repainted]
        return set(self.query(f"select instrument, timeframe, open_time, hash({', '.join(listed)}) from {name}"))

    def files(self, folder: str) -> dict[str, tuple[bytes, int]]:
        """Every file below a folder of the data: its content, and when it was written.

        Without the report beside export files, which is a new one each time.
        """
        root = self.root / "data" / folder
        found = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "status_report.json")
        return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}

    def counts(self, table: str = "raw_candles") -> dict[str, int]:
        """How many rows a table has of each series."""
        rows = self.query(
            f"select instrument || '|' || timeframe, count(*) from {self.market.name}.{table} group by 1 order by 1"
        )
        return dict(rows)


# Instances in memory that nobody uses at the moment: to set one up takes as long as a small run.
_idle_instances: list[dg.DagsterInstance] = []


@contextmanager
def forgetful_dagster() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory that remembers nothing, as `DagsterInstance.ephemeral()` gives it.

    It stores no events: a run's result has them, and to store them as well takes a quarter of its time.
    """
    try:
        instance = _idle_instances.pop()
    except IndexError:
        instance = dg.DagsterInstance.ephemeral()
        instance.event_log_storage.store_event = lambda event: None
    try:
        yield instance
    except BaseException:
        instance.dispose()
        raise
    instance.wipe()
    _idle_instances.append(instance)


def dispose_of_idle_instances() -> None:
    """At the end of a process."""
    while _idle_instances:
        _idle_instances.pop().dispose()


def candle(series: Series, open_time: str) -> dict[str, object]:
    """A candle by a rule: of its instrument, timeframe and opening, so that it is the same wherever it is asked for."""
    hours = float((instant(open_time) - instant(FIRST)) / np.timedelta64(1, "h"))
    start = 50 + zlib.crc32(series.key.encode()) % 900
    opened, closed = (round(start * (1 + 0.05 * np.sin((hours + step) / 5)), 4) for step in (0.0, 0.25))
    return {
        "open": opened,
        "high": round(max(opened, closed) * 1.001, 4),
        "low": round(min(opened, closed) * 0.999, 4),
        "close": closed,
        "volume": 10 + int(hours * 4) % 7,
    }


def command(*arguments: str) -> Result:
    """The `refresh` command in this process; a program of its own is started where exit codes and signals matter."""
    return CliRunner().invoke(app, list(arguments))


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dict[str, Any]]:
    """What a run's materializations of an asset say, by partition."""
    events = [event.materialization for event in result.all_events if event.is_step_materialization]
    return {
        str(each.partition): {name: value.value for name, value in each.metadata.items()}
        for each in events
        if each.asset_key.path[-1] == asset
    }


def failures_of(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """What the failed steps of a run said."""
    failures = [event for event in result.all_events if event.is_step_failure]
    return {str(event.step_key): str(event.step_failure_data.user_failure_data) for event in failures}


def verdicts_of(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Which checks of a run passed."""
    return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
