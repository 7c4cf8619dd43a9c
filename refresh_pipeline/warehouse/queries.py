"""Read-only questions of people and checks, one query each. Verdicts are `pipeline.quality`'s part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered, timestamp
from refresh_pipeline.warehouse.lake import read_on
from refresh_pipeline.warehouse.outcomes import Outcome, SeriesStats
from refresh_pipeline.warehouse.schema import Table, qualified

EXAMPLES = 20
# Plain comparisons: greatest() and least() take three times as long. NaN is above everything here, infinity too.
COHERENT = "low > 0 and low <= open and low <= close and open <= high and close <= high and high < 'infinity'::double"


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """The state of one series: its stored candles and the results of its last attempts.

    `outcome` and `reason` are of fetching; `failed` holds the reason of every other asset whose last attempt failed.
    `rejected` counts the open times whose candles were rejected and are not stored, `rejection` is the first reason.
    """

    series: Series
    candle_count: int
    first_open_time: np.datetime64 | None
    last_open_time: np.datetime64 | None
    outcome: str | None
    reason: str | None
    attempted_at: np.datetime64 | None
    failed: Mapping[str, str] = field(default_factory=dict)
    rejected: int = 0
    rejection: str | None = None

    @property
    def rejections(self) -> str | None:
        """The rejected candles in words: of the last attempt, else those that are missing since; None for none."""
        if self.reason and self.outcome not in (Outcome.failed, Outcome.no_data):
            return self.reason
        return f"{self.rejected} rejected: {self.rejection}" if self.rejected else None

    @property
    def answered_at(self) -> np.datetime64 | None:
        """When the source was last asked for the series, if it answered."""
        return None if self.outcome == Outcome.failed else self.attempted_at


@dataclass(frozen=True, slots=True)
class SeriesOutcome:
    """The result of one run for one series of one asset."""

    asset: str
    series: Series
    outcome: str
    reason: str | None
    rows_added: int
    rows_revised: int


@dataclass(frozen=True, slots=True)
class FailedSeries:
    """A series whose last attempt failed: why, how often in a row, when (UTC), and whether asking again could help."""

    series: Series
    reason: str
    transient: bool
    failures: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault in the stored data: its series, its open time, a description."""

    series: Series
    open_time: np.datetime64 | None
    what: str


def has_tables(connection: duckdb.DuckDBPyConnection, market: str) -> bool:
    """Whether the market was ever refreshed into this file."""
    return bool(
        connection.execute(
            "select 1 from duckdb_tables() where schema_name = ? and table_name = ? "
            "and database_name = current_database()",
            [market, Table.series.value],
        ).fetchall()
    )


def series_stats(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series]
) -> dict[Series, SeriesStats]:
    """The stored candles of each series of the batch."""
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(
            connection,
            "select w.series_no, s.candle_count, s.first_open_time, s.last_open_time from wanted w "
            f"join {qualified(market, Table.series)} s using (instrument, timeframe)",
        )
    stored = {
        batch[number]: SeriesStats(int(count), first, last)
        for number, count, first, last in zip(*rows.values(), strict=True)
    }
    return {series: stored.get(series, SeriesStats()) for series in batch}


def oldest_from(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series], sources: Sequence[str], since: datetime
) -> dict[Series, np.datetime64]:
    """The open time of the oldest candle from one of these sources since an instant, of each series with any."""
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(
            connection,
            "select w.series_no, min(r.open_time) as oldest from wanted w "
            f"join {qualified(market, Table.raw_candles)} r using (instrument, timeframe) "
            "where list_contains($sources::varchar[], r.source) and r.open_time >= $since group by all",
            {"sources": list(sources), "since": timestamp(since)},
        )
    times = rows["oldest"].astype(TIME_UNIT)
    return {batch[number]: time for number, time in zip(rows["series_no"].tolist(), times, strict=True)}


def newest_rows(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    table: Table,
    series: Series,
    *,
    columns: Sequence[str],
    count: int,
) -> dict[str, NDArray]:
    """Columns of the newest rows of one series as arrays, oldest row first."""
    listed = ", ".join(f'"{name}"' for name in columns)
    return arrays_of(
        connection,
        f"select {listed} from (select * from {qualified(market, table)} where instrument = ? "
        "and timeframe = ? order by open_time desc limit ?) order by open_time",
        [series.instrument, series.timeframe.value, count],
    )


def series_report(connection: duckdb.DuckDBPyConnection, market: str, wanted: Sequence[Series]) -> list[SeriesReport]:
    """Each wanted series, stored or not, in the order given."""
    rows = connection.execute(
        "select coalesce(s.instrument, o.instrument), coalesce(s.timeframe, o.timeframe), s.candle_count, "
        "s.first_open_time, s.last_open_time, o.outcome, o.reason, o.attempted_at "
        f"from {qualified(market, Table.series)} s "
        f"full join (select * from {qualified(market, Table.outcomes)} where asset = ?) o "
        "on s.instrument = o.instrument and s.timeframe = o.timeframe",
        [Table.raw_candles.value],
    ).fetchall()
    stored = {(row[0], row[1]): row[2:] for row in rows}
    failed, rejected = _other_failures(connection, market), _rejected(connection, market)
    reports = [_report(one, stored.get((one.instrument, one.timeframe.value), (0, *[None] * 5))) for one in wanted]
    return [
        replace(report, failed=failed.get(series, {}), rejected=count, rejection=reason)
        for report in reports
        for series in [report.series]
        for count, reason in [rejected.get(series, (0, None))]
    ]


def _rejected(connection: duckdb.DuckDBPyConnection, market: str) -> dict[Series, tuple[int, str]]:
    """Open times whose candles were rejected and none is stored, with the first reason."""
    rejected, stored = qualified(market, Table.rejected_candles), qualified(market, Table.raw_candles)
    if not connection.execute(f"select 1 from {rejected} where open_time is not null limit 1").fetchall():
        return {}
    # First the few stored candles in question: an anti join alone would hash all of them.
    rows = connection.execute(
        f"with stored as (select distinct c.instrument, c.timeframe, c.open_time from {stored} c "
        f"join {rejected} x using (instrument, timeframe, open_time)) "
        "select x.instrument, x.timeframe, count(distinct x.open_time), min_by(x.reason, x.open_time) "
        f"from {rejected} x anti join stored using (instrument, timeframe, open_time) "
        "where x.open_time is not null group by all"
    ).fetchall()
    return {Series(instrument, Timeframe(timeframe)): (count, reason) for instrument, timeframe, count, reason in rows}


def _other_failures(connection: duckdb.DuckDBPyConnection, market: str) -> dict[Series, dict[str, str]]:
    rows = connection.execute(
        f"select instrument, timeframe, asset, reason from {qualified(market, Table.outcomes)} "
        "where outcome = 'failed' and asset <> ? order by asset",
        [Table.raw_candles.value],
    ).fetchall()
    failed: dict[Series, dict[str, str]] = {}
    for instrument, timeframe, asset, reason in rows:
        failed.setdefault(Series(instrument, Timeframe(timeframe)), {})[asset] = reason or "failed"
    return failed


def _report(series: Series, row: Sequence) -> SeriesReport:
    count, first, last, outcome, reason, at = row
    times = [None if time is None else np.datetime64(time, "us") for time in (first, last, at)]
    return SeriesReport(series, count or 0, times[0], times[1], outcome, reason, times[2])


def outcomes_of(connection: duckdb.DuckDBPyConnection, market: str, run_ids: Sequence[str]) -> list[SeriesOutcome]:
    """The results of these runs, except where a later run has replaced them."""
    rows = connection.execute(
        "select asset, instrument, timeframe, outcome, reason, rows_added, rows_revised "
        f"from {qualified(market, Table.outcomes)} where list_contains(?, run_id)",
        [list(run_ids)],
    ).fetchall()
    return [SeriesOutcome(row[0], Series(row[1], Timeframe(row[2])), *row[3:]) for row in rows]


def outcome_counts(
    connection: duckdb.DuckDBPyConnection, market: str, run_ids: Sequence[str]
) -> dict[str, dict[str, int]]:
    """The number of series by outcome of each run, except where a later run has replaced all of its results.

    Of a run with several assets those of the first count: candles, or files where the run only wrote files.
    """
    rows = connection.execute(
        f"select run_id, asset, outcome, count(*) from {qualified(market, Table.outcomes)} "
        "where list_contains(?, run_id) group by run_id, asset, outcome order by asset <> 'raw_candles', asset",
        [list(run_ids)],
    ).fetchall()
    first: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    for run_id, asset, outcome, count in rows:
        if first.setdefault(run_id, asset) == asset:
            counts.setdefault(run_id, {})[outcome] = count
    return counts


def failed_series_of_run(connection: duckdb.DuckDBPyConnection, market: str, asset: Table, run_id: str) -> set[Series]:
    """The series that failed for an asset in one run."""
    rows = connection.execute(
        f"select instrument, timeframe from {qualified(market, Table.outcomes)} "
        "where asset = ? and run_id = ? and outcome = 'failed'",
        [asset.value, run_id],
    ).fetchall()
    return {Series(instrument, Timeframe(timeframe)) for instrument, timeframe in rows}


def cross_check_turns(connection: duckdb.DuckDBPyConnection, market: str, now: datetime) -> dict[Series, datetime]:
    """When a second source was last asked about each series; turns of the future are from a clock that was ahead."""
    rows = connection.execute(
        f"select instrument, timeframe, attempted_at from {qualified(market, Table.outcomes)} "
        "where asset = ? and attempted_at <= ?",
        [Table.cross_checks.value, now.astimezone(UTC).replace(tzinfo=None)],
    ).fetchall()
    return {Series(name, Timeframe(timeframe)): at.replace(tzinfo=UTC) for name, timeframe, at in rows}


def failed_series(connection: duckdb.DuckDBPyConnection, market: str, asset: str) -> list[FailedSeries]:
    """The series whose last attempt at this asset failed."""
    rows = connection.execute(
        "select instrument, timeframe, reason, transient, failures, attempted_at "
        f"from {qualified(market, Table.outcomes)} where asset = ? and outcome = 'failed' order by attempted_at",
        [asset],
    ).fetchall()
    return [FailedSeries(Series(r[0], Timeframe(r[1])), r[2], r[3], r[4], r[5].replace(tzinfo=UTC)) for r in rows]


def incoherent_prices(connection: duckdb.DuckDBPyConnection, market: str) -> list[Fault]:
    """Stored candles whose numbers contradict themselves; none, unless another program wrote into the table."""
    rows = connection.execute(
        f"select instrument, timeframe, open_time, open, high, low, close from {qualified(market, Table.raw_candles)} "
        f"where coalesce(not ({COHERENT}), true) order by open_time limit {EXAMPLES}"
    ).fetchall()
    return [_fault(row, "open {:g} high {:g} low {:g} close {:g}".format(*_numbers(row[3:]))) for row in rows]


def repeated_open_times(connection: duckdb.DuckDBPyConnection, market: str) -> list[Fault]:
    """Candles that are stored more than once."""
    candles, suspects = qualified(market, Table.raw_candles), _suspected_of_repeats(connection, market)
    if not suspects:
        return []
    with registered(connection, "suspects", numbered(suspects)):
        rows = connection.execute(
            f"select instrument, timeframe, open_time, count(*) from {candles} "
            "semi join suspects using (instrument, timeframe) "
            f"group by instrument, timeframe, open_time having count(*) > 1 order by open_time limit {EXAMPLES}"
        ).fetchall()
    return [_fault(row, f"stored {row[3]} times") for row in rows]


def _suspected_of_repeats(connection: duckdb.DuckDBPyConnection, market: str) -> list[Series]:
    """Every series with more candles than distinct open times, possibly with false positives.

    Each open time sets a bit, which takes a byte a candle. Grouping 20 million candles by their keys would take seven
    times as long and a gigabyte.
    """
    longest = connection.execute(
        f"select timeframe, 8 * coalesce(max(s.candle_count), {EXAMPLES}) "
        f"from (select distinct timeframe from {qualified(market, Table.raw_candles)}) "
        f"left join {qualified(market, Table.series)} s using (timeframe) group by timeframe"
    ).fetchall()
    suspects: list[Series] = []
    for name, bits in longest:
        timeframe = Timeframe(name)
        rows = connection.execute(
            f"select instrument from {qualified(market, Table.raw_candles)} where timeframe = ? group by instrument "
            f"having count(*) <> bit_count(bitstring_agg("
            f"(abs(epoch_us(open_time) // {timeframe.minutes * 60_000_000}) % {bits})::integer, 0, {bits}))",
            [name],
        ).fetchall()
        suspects += [Series(row[0], timeframe) for row in rows]
    return suspects


def prices_since(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series], since: np.datetime64
) -> dict[str, NDArray]:
    """The candles of the batch from an instant on, in order of series and time.

    Candles whose numbers contradict themselves are left out; `incoherent_prices` reports them. The arrays are series_no
    (in the batch), open_time, open, high, low, close and volume.
    """
    with registered(connection, "wanted", numbered(batch)):
        return arrays_of(
            connection,
            "select w.series_no, open_time, open, high, low, close, volume "
            f"from {qualified(market, Table.raw_candles)} join wanted w using (instrument, timeframe) "
            f"where open_time >= ? and {COHERENT} order by series_no, open_time",
            [since.astype(datetime)],
        )


def candles_since(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series], since: np.datetime64
) -> dict[str, NDArray]:
    """The candles of the batch from an instant on, with series_no (in the batch), open_time and base_bars."""
    with registered(connection, "wanted", numbered(batch)):
        return arrays_of(
            connection,
            "select w.series_no, open_time, open, high, low, close, volume, base_bars::double as base_bars "
            f"from {qualified(market, Table.raw_candles)} join wanted w using (instrument, timeframe) "
            "where open_time >= ? order by series_no, open_time",
            [since.astype(datetime)],
        )


def distinct_open_times(
    connection: duckdb.DuckDBPyConnection, market: str, instruments: Sequence[str] | None = None
) -> dict[Timeframe, Times]:
    """Every stored open time, per timeframe; of all instruments, or of these."""
    of_these, values = _of(instruments)
    rows = arrays_of(
        connection,
        f"select distinct timeframe, open_time from {qualified(market, Table.raw_candles)} where {of_these} "
        "order by all",
        values,
    )
    names = rows["timeframe"].astype(str)
    return {Timeframe(name): rows["open_time"][names == name] for name in np.unique(names).tolist()}


def candles_at(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    timeframe: Timeframe,
    open_times: Times,
    instruments: Sequence[str] | None = None,
) -> list[Fault]:
    """The candles that are stored at these open times; of all instruments, or of these."""
    of_these, values = _of(instruments)
    rows = connection.execute(
        f"select instrument, timeframe, open_time from {qualified(market, Table.raw_candles)} "
        f"where timeframe = ? and list_contains(?::timestamp[], open_time) and {of_these} "
        f"order by open_time limit {EXAMPLES}",
        [timeframe.value, [time.item() for time in open_times[:EXAMPLES]], *values],
    ).fetchall()
    return [_fault(row, "not on the calendar's grid") for row in rows]


# A candle that replaced the candle of another source is compared like a cross-check.
_COMPARED = """
with other as (
  select instrument, timeframe, open_time, open, high, low, close, source
  from {cross_checks} where fetched_at >= $since
  union all
  select instrument, timeframe, open_time, open, high, low, close, source
  from {raw_candle_revisions} where replaced_at >= $since
), compared as (
  select r.instrument, r.timeframe, r.open_time, r.source, r.close, o.source as other_source, o.close as other_close,
    greatest(abs(o.open / r.open - 1), abs(o.high / r.high - 1), abs(o.low / r.low - 1), abs(o.close / r.close - 1))
      as apart
  from other o join {raw_candles} r using (instrument, timeframe, open_time) where o.source <> r.source
)
"""


def deviations(
    connection: duckdb.DuckDBPyConnection, market: str, allowed: float, since: datetime
) -> tuple[list[Fault], int]:
    """Candles whose prices differ between two sources by more than a share, and how many were compared.

    Args:
        connection: to the warehouse.
        market: whose tables are meant.
        allowed: 0.05 for five percent.
        since: comparisons made earlier are left out.
    """
    names = (Table.cross_checks, Table.raw_candle_revisions, Table.raw_candles)
    compared = _COMPARED.format(**{table.value: qualified(market, table) for table in names})
    counted = connection.execute(f"{compared} select count(*) from compared", {"since": since}).fetchall()
    rows = connection.execute(
        f"{compared} select instrument, timeframe, open_time, source, close, other_source, other_close, apart "
        f"from compared where apart > $allowed order by apart desc limit {EXAMPLES}",
        {"since": since, "allowed": allowed},
    ).fetchall()
    return [_fault(row, _deviation_text(*row[3:])) for row in rows], counted[0][0]


def _deviation_text(source: str, close: float, other: str, other_close: float, apart: float) -> str:
    return f"{apart:.1%} apart: close {close:g} by {source}, {other_close:g} by {other}"


def _of(instruments: Sequence[str] | None) -> tuple[str, list[list[str]]]:
    return ("true", []) if instruments is None else ("list_contains(?, instrument)", [list(instruments)])


def series_with_candles(connection: duckdb.DuckDBPyConnection, market: str) -> set[Series]:
    """The series with at least one stored candle."""
    rows = connection.execute(
        f"select instrument, timeframe from {qualified(market, Table.series)} where candle_count > 0"
    ).fetchall()
    return {Series(instrument, Timeframe(timeframe)) for instrument, timeframe in rows}


def exports_that_differ(
    connection: duckdb.DuckDBPyConnection, market: str, root: Path, files: Mapping[str, Series]
) -> list[Fault]:
    """The Parquet files that hold other candles than the table, although no candle changed since the export."""
    queued = _queued(connection, market)
    present = {path: series for path, series in files.items() if series not in queued and (root / path).exists()}
    if not present:
        return []
    exported = _file_prints(connection, [str(root / path) for path in present])
    wanted = {Series(row[0], Timeframe(row[1])): row[2] for row in _table_prints(connection, market)}
    return [
        Fault(series, None, f"{path}: other candles than in the table")
        for path, series in present.items()
        if exported.get(str(root / path)) != wanted.get(series)
    ]


def _queued(connection: duckdb.DuckDBPyConnection, market: str) -> set[Series]:
    """The series with new candles that a computed table or the exports lack."""
    rows = connection.execute(
        f"select instrument, timeframe from {qualified(market, Table.recompute_queue)}"
    ).fetchall()
    return {Series(instrument, Timeframe(timeframe)) for instrument, timeframe in rows}


# Independent of order, sensitive to a single bit. A file's times have a zone, which a plain cast would convert.
_PRINT = "bit_xor(hash(epoch_us(open_time), open, high, low, close, volume)) || ' ' || count(*)"


def _file_prints(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> dict[str, str]:
    """The fingerprint of each file's candles, by its path; files that cannot be read are left out."""
    try:
        rows = connection.execute(
            f"select filename, {_PRINT} from read_parquet($paths, filename = true, union_by_name = true) "
            "group by filename",
            {"paths": paths},
        ).fetchall()
    except duckdb.Error:
        read_on(connection)
        # A single damaged file fails the query for all of them.
        return {} if len(paths) == 1 else {k: v for path in paths for k, v in _file_prints(connection, [path]).items()}
    return dict(rows)


def _table_prints(connection: duckdb.DuckDBPyConnection, market: str) -> list[tuple[str, str, str]]:
    return connection.execute(
        f"select instrument, timeframe, {_PRINT} from {qualified(market, Table.raw_candles)} "
        "group by instrument, timeframe"
    ).fetchall()


def _fault(row: Sequence, what: str) -> Fault:
    open_time = None if row[2] is None else np.datetime64(row[2], "us")
    return Fault(Series(row[0], Timeframe(row[1])), open_time, what)


def _numbers(values: Sequence) -> list[float]:
    return [float("nan") if value is None else value for value in values]


@dataclass(frozen=True, slots=True)
class Activity:
    """How many candles were added, revised and rejected, and how many files were uploaded, with their bytes.

    A file that was uploaded several times counts once, with its current size.
    """

    added: int = 0
    revised: int = 0
    uploads: int = 0
    bytes: int = 0
    rejected: int = 0


# A corrected candle is stored again with the time of its correction: only candles without an earlier value are new.
_ACTIVITY = """
select
  (select count(*) from {raw_candles} r where r.fetched_at > $since and r.fetched_at <= $until and not exists (
     select 1 from {raw_candle_revisions} v where v.instrument = r.instrument and v.timeframe = r.timeframe
       and v.open_time = r.open_time and v.fetched_at <= $since)),
  (select count(*) from {raw_candle_revisions} where replaced_at > $since and replaced_at <= $until),
  (select count(*) from {uploads} where uploaded_at > $since and uploaded_at <= $until),
  (select coalesce(sum(bytes), 0) from {uploads} where uploaded_at > $since and uploaded_at <= $until),
  (select count(*) from {rejected_candles} where rejected_at > $since and rejected_at <= $until)
"""


def activity(connection: duckdb.DuckDBPyConnection, market: str, since: datetime, until: datetime) -> Activity:
    """The activity after `since` and up to `until` (both in UTC, without a zone)."""
    tables = (Table.raw_candles, Table.raw_candle_revisions, Table.uploads, Table.rejected_candles)
    query = _ACTIVITY.format(**{table.value: qualified(market, table) for table in tables})
    [row] = connection.execute(query, {"since": since, "until": until}).fetchall()
    return Activity(*(int(value) for value in row))
