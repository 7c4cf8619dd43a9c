"""What must be true after a soak, each as the sentences that say what is wrong: none where all is well."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import dagster as dg
import duckdb
import numpy as np

from refresh_pipeline.instance.orphaned_runs import GOING, going_runs
from refresh_pipeline.market.candles import CANDLE_COLUMNS, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.sources.binance import INTERVALS
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.incremental import pending_recompute
from refresh_pipeline_tests.fakes.binance import FakeBinance
from refresh_pipeline_tests.warehouse.test_incremental import assert_whole, rows_of

# Megabytes; measured on a market of four instruments: the daemon 160 to 180, its code server and a run 200 to 260.
MOST_MEMORY = 500
# How much more a process may have in the last quarter of its life than in the second, when it has warmed up.
MOST_GROWTH = 1.2
# Samples below which a process has not lived long enough to say so.
FEWEST_SAMPLES = 24
# Seconds: a run that does not start is given up by Dagster's monitor after 180, and it looks every 60.
STUCK_AFTER = 240.0
# Kilobytes that one run leaves in Dagster's databases.
MOST_LOG_A_RUN = 1024
# Kills of each role in a minute: two in ten minutes.
FEWEST_KILLS_A_MINUTE = 0.2


def candle_faults(connection: duckdb.DuckDBPyConnection, market: Market, since: datetime, now: datetime) -> list[str]:
    """Candles that are not there exactly once, or are not what the venue says.

    Args:
        connection: to the warehouse.
        market: whose source is the fake Binance.
        since: the history of each series must reach at least so far back.
        now: every candle that has closed by then is expected.
    """
    return [
        f"{series}: {fault}" for series in market.series for fault in _faults_of(connection, market, series, since, now)
    ]


def _faults_of(
    connection: duckdb.DuckDBPyConnection, market: Market, series: Series, since: datetime, now: datetime
) -> Iterator[str]:
    held = rows_of(connection, market, "raw_candles", series)
    times = held["open_time"]
    if not len(times):
        yield "no candle at all"
        return
    calendar = market.calendar_of(series.instrument)
    # Where an earlier refresh began, a floor of its own time, is the series' beginning.
    first = min(calendar.floor(series.timeframe, np.array([instant(since)]))[0], times.min())
    # Closed meanwhile, and asked for, is as good.
    last = max(calendar.last_closed(series.timeframe, instant(now)), times.max())
    expected = calendar.open_times(series.timeframe, first, last + np.timedelta64(1, "us"))
    if len(missing := np.setdiff1d(expected, times)):
        yield f"{len(missing)} candles are missing, the first of them {missing[0]}"
    if len(foreign := np.setdiff1d(times, expected)):
        yield f"{len(foreign)} candles that the calendar does not expect, the first of them {foreign[0]}"
    if twice := len(times) - len(np.unique(times)):
        yield f"{twice} candles are there more than once"
    if len(wrong := times[~_as_served(series, held)]):
        yield f"{len(wrong)} candles are not the venue's, the first of them {wrong[0]}"


def _as_served(series: Series, held: Mapping[str, np.ndarray]) -> np.ndarray:
    opens = held["open_time"].astype("datetime64[ms]").astype(np.int64)
    served = FakeBinance()._rows(series.instrument.replace("/", ""), INTERVALS[series.timeframe], opens)
    truth = np.array([[float(cell) for cell in row[1:6]] for row in served])
    return (truth == np.column_stack([held[name].astype(np.float64) for name in CANDLE_COLUMNS])).all(axis=1)


def depth_faults(connection: duckdb.DuckDBPyConnection, market: Market, since: datetime) -> list[str]:
    """Series of m1 whose history does not reach back to the instant that a backfill has filled from."""
    first = dict(
        connection.execute(
            f"select instrument, min(open_time) from {market.name}.raw_candles where timeframe = 'm1' group by 1"
        ).fetchall()
    )
    latest = instant(since) + np.timedelta64(1, "m")
    return [
        f"{name} m1: a backfill from {since:%H:%M} on has succeeded, and its first candle is of {oldest}"
        for name, oldest in first.items()
        if np.datetime64(oldest) > latest
    ]


def table_faults(connection: duckdb.DuckDBPyConnection, market: Market) -> list[str]:
    """Computed tables that differ from one computed anew out of all the candles there are."""
    faults = []
    for table, computation in computations(market).items():
        try:
            assert_whole(connection, market, computation)
        except AssertionError as error:
            faults.append(f"{table} is not what computing it anew gives: {str(error).splitlines()[0][:200]}")
    return faults


def is_behind(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> bool:
    """Whether a series lacks the newest candle closed at `now`, or has candles that nothing was computed from yet."""
    newest = dict(
        connection.execute(
            f"select instrument || '|' || timeframe, max(open_time) from {market.name}.raw_candles group by 1"
        ).fetchall()
    )
    wanted = {each.key: market.calendar.last_closed(each.timeframe, instant(now)) for each in market.series}
    if any(key not in newest or np.datetime64(newest[key]) < last for key, last in wanted.items()):
        return True
    return any(
        len(pending_recompute(connection, market.name, table, market.series).series) for table in computations(market)
    )


def run_faults(instance: dg.DagsterInstance, now: float) -> list[str]:
    """Runs that still count as going at `now` (seconds since 1970), though all who give up on runs had their time."""
    for name in {run.job_name for run in instance.get_runs(dg.RunsFilter(statuses=GOING))}:
        going_runs(instance, name, now)
    records = instance.get_run_records(dg.RunsFilter(statuses=GOING))
    stuck = [each.dagster_run for each in records if now - each.create_timestamp.timestamp() > STUCK_AFTER]
    return [f"run {run.run_id} of {run.job_name} is {run.status.value} for ever" for run in stuck]


def kill_faults(kills: Mapping[str, int], targets: Sequence[str], minutes: float) -> list[str]:
    """Targets that were killed too rarely in so many minutes to prove anything.

    >>> kill_faults({"run": 3}, ["run", "daemon"], minutes=10)
    ['daemon: 0 kills in 10 minutes, at least 2 are expected']
    """
    fewest = max(int(minutes * FEWEST_KILLS_A_MINUTE), 1)
    return [
        f"{target}: {kills.get(target, 0)} kills in {minutes:g} minutes, at least {fewest} are expected"
        for target in targets
        if kills.get(target, 0) < fewest
    ]


def most_memory(samples: Mapping[str, Sequence[float]], roles: Sequence[str]) -> dict[str, float]:
    """The most megabytes of any process, by role; 0 for a role that was never measured."""
    return {
        role: max((max(series) for name, series in samples.items() if name.rpartition(" ")[0] == role), default=0.0)
        for role in roles
    }


def measurement_faults(samples: Mapping[str, Sequence[float]], roles: Sequence[str], successes: int) -> list[str]:
    """Roles whose memory was never measured, and a soak in which no run succeeded: such a soak proves nothing.

    >>> measurement_faults({"run 7": [200.0]}, ["run", "fork server"], successes=0)
    ['fork server: its memory was never measured', 'no run succeeded']
    """
    unmeasured = [role for role, megabytes in most_memory(samples, roles).items() if not megabytes]
    nothing = [] if successes else ["no run succeeded"]
    return [*(f"{role}: its memory was never measured" for role in unmeasured), *nothing]


def memory_faults(samples: Mapping[str, Sequence[float]]) -> list[str]:
    """Processes that have too much memory, or ever more of it; by name, megabytes at equal distances.

    >>> memory_faults({"daemon 7": [100.0] * 12 + [180.0] * 12})
    ['daemon 7: its memory went from 100 to 180 MB and seems to go on']
    """
    faults = []
    for name, megabytes in samples.items():
        if max(megabytes) > MOST_MEMORY:
            faults.append(f"{name}: {max(megabytes):.0f} MB of memory, at most {MOST_MEMORY} are expected")
        quarter = len(megabytes) // 4
        if len(megabytes) >= FEWEST_SAMPLES:
            early, late = (statistics.median(part) for part in (megabytes[quarter : 2 * quarter], megabytes[-quarter:]))
            if late > early * MOST_GROWTH:
                faults.append(f"{name}: its memory went from {early:.0f} to {late:.0f} MB and seems to go on")
    return faults


def log_faults(kilobytes: int, runs: int) -> list[str]:
    """Whether Dagster's databases grow by more than they may for each run.

    >>> log_faults(4000, runs=10), log_faults(40000, runs=10)
    ([], ["Dagster's databases: 4000 kB for each of 10 runs, at most 1024 are expected"])
    """
    each = kilobytes // max(runs, 1)
    return (
        [f"Dagster's databases: {each} kB for each of {runs} runs, at most {MOST_LOG_A_RUN} are expected"]
        if each > MOST_LOG_A_RUN
        else []
    )
