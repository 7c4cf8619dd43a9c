"""Stores fetched candles. Late corrections win and leave the old value on record; contradictory candles are set aside.

What makes a candle contradictory is `market.candles`' part; which sources are preferred is the caller's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import Calendar, length_of
from refresh_pipeline.market.candles import (
    CANDLE_COLUMNS,
    MALFORMED,
    RESAMPLED_COLUMNS,
    TIME_UNIT,
    Candles,
    Times,
    faults,
    instant,
)
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.time_bounds import CLOCK_SKEW
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import clean
from refresh_pipeline.warehouse.arrays import Arrays, arrays_of, numbered, registered, texts, timestamp
from refresh_pipeline.warehouse.lake import is_lake
from refresh_pipeline.warehouse.schema import Table, qualified
from refresh_pipeline.warehouse.versions import record_changes

# Long enough to notice that a source deviates, short enough to stay small.
CROSS_CHECKS_KEPT = timedelta(days=7)
REJECTED_KEPT = timedelta(days=90)
NO_OPEN_TIME = "open_time is missing"
FROM_THE_FUTURE = "closes later than now"


@dataclass(frozen=True, slots=True)
class Stored:
    """How many candles of one series were added, revised, rejected and withdrawn.

    `first_revised` is the opening time (datetime64[us], UTC) of the oldest fetched candle that replaced a stored one.
    `first_agreed` is that of the oldest that was stored with the same numbers. Both are None where there is none.
    `changed` holds the opening times of what one call added and revised; sums leave it out.
    `accepted` counts valid candles, stored before or not; `rejection` says why the first one was rejected.
    """

    added: int = 0
    revised: int = 0
    rejected: int = 0
    withdrawn: int = 0
    first_revised: np.datetime64 | None = field(default=None, compare=False)
    first_agreed: np.datetime64 | None = field(default=None, compare=False)
    changed: Times = field(default_factory=lambda: np.array([], dtype=TIME_UNIT), compare=False)
    accepted: int = field(default=0, compare=False)
    rejection: str | None = field(default=None, compare=False)

    def __add__(self, other: "Stored") -> "Stored":
        return Stored(
            self.added + other.added,
            self.revised + other.revised,
            self.rejected + other.rejected,
            self.withdrawn + other.withdrawn,
            _earlier(self.first_revised, other.first_revised),
            _earlier(self.first_agreed, other.first_agreed),
            accepted=self.accepted + other.accepted,
            rejection=self.rejection or other.rejection,
        )

    @property
    def reaches_further_back(self) -> bool:
        """Whether a correction may go on before the oldest revised candle: none before it agreed with its source."""
        if self.first_revised is None:
            return False
        return self.first_agreed is None or bool(self.first_agreed > self.first_revised)


def _earlier(one: np.datetime64 | None, other: np.datetime64 | None) -> np.datetime64 | None:
    instants = [moment for moment in (one, other) if moment is not None]
    return min(instants) if instants else None


@dataclass(frozen=True, slots=True)
class Staged:
    """Fetched candles of many series in one set of arrays: `good` to store, unique, and `bad` to reject.

    `good` holds series_no, open_time and the candle columns; `bad` also a reason, and the text of malformed rows.
    """

    series: Sequence[Series]
    good: Arrays
    bad: Arrays

    @classmethod
    def of(
        cls,
        arrivals: Mapping[Series, Candles],
        candle_columns: Sequence[str],
        is_future: NDArray[np.bool_] | None = None,
    ) -> "Staged":
        """Stack all series, split off faulty candles, and keep the last of several candles with one open_time.

        `is_future` marks candles of all series behind one another that close later than now.
        """
        columns = (*candle_columns, *RESAMPLED_COLUMNS)
        counts = np.array([len(candles) for candles in arrivals.values()], dtype=np.int64)
        series_no = np.repeat(np.arange(len(arrivals), dtype=np.int32), counts)
        stacked = Candles.concatenated([_with_columns(candles, columns) for candles in arrivals.values()])
        reason = np.where(np.isnat(stacked.open_time), NO_OPEN_TIME, faults(stacked, series_no))
        if is_future is not None and is_future.any():
            reason = np.where(is_future, FROM_THE_FUTURE, reason)
        rows = {"series_no": series_no, "open_time": stacked.open_time, **stacked.columns}
        is_bad = np.array([fault is not None for fault in reason], dtype=bool)
        good = {name: values[~is_bad] for name, values in rows.items()}
        last = _last_of_each(good["series_no"], good["open_time"])
        return cls(
            list(arrivals),
            {name: values[last] for name, values in good.items()},
            _rejected({name: values[is_bad] for name, values in rows.items()}, reason[is_bad], arrivals),
        )


def closing_later(market: Market, arrivals: Mapping[Series, Candles], now: datetime) -> NDArray[np.bool_]:
    """Which of these candles, of all series behind one another, close later than `now` and a minute."""
    latest = instant(now + CLOCK_SKEW)
    parts = [
        closes_after(market.calendar_of(series.instrument), series.timeframe, candles.open_time, latest)
        for series, candles in arrivals.items()
    ]
    return np.concatenate(parts) if parts else np.array([], dtype=bool)


def longest(timeframe: Timeframe) -> np.timedelta64:
    """What no bar of a timeframe exceeds: months differ in length."""
    return length_of(timeframe) * 11 // 10


def closes_after(
    calendar: Calendar, timeframe: Timeframe, open_time: Times, latest: np.datetime64
) -> NDArray[np.bool_]:
    """Which candles close later than an instant."""
    # The calendar is asked about candles that may be too new, not about all.
    is_late = open_time + longest(timeframe) > latest
    if is_late.any():
        is_late[is_late] = calendar.closes(timeframe, open_time[is_late]) > latest
    return is_late


def _with_columns(candles: Candles, columns: Sequence[str]) -> Candles:
    unknown = np.full(len(candles), np.nan)
    return Candles(candles.open_time, {name: candles.columns.get(name, unknown) for name in columns})


def _last_of_each(series_no: NDArray[np.int32], open_time: NDArray[np.datetime64]) -> NDArray[np.int64]:
    order = np.lexsort((open_time, series_no))
    ordered_no, ordered_time = series_no[order], open_time[order]
    is_followed_by_same = (ordered_no[1:] == ordered_no[:-1]) & (ordered_time[1:] == ordered_time[:-1])
    return order[np.append(~is_followed_by_same, True)] if len(order) else order


def _rejected(stacked: Arrays, reason: NDArray[np.object_], arrivals: Mapping[Series, Candles]) -> Arrays:
    malformed = [(number, row) for number, candles in enumerate(arrivals.values()) for row in candles.malformed]
    nothing = {
        "series_no": np.array([number for number, _ in malformed], dtype=np.int32),
        "open_time": np.full(len(malformed), np.datetime64("NaT"), dtype="datetime64[us]"),
    }
    unknown = np.full(len(malformed), np.nan)
    rows = {name: np.concatenate([values, nothing.get(name, unknown)]) for name, values in stacked.items()}
    return rows | {
        "reason": texts([*reason, *(f"{MALFORMED}: {clean(row.reason)}" for _, row in malformed)]),
        "received": texts([*[None] * len(reason), *(clean(row.text) for _, row in malformed)]),
    }


def store(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    staged: Staged,
    source: str,
    now: datetime,
    *,
    preferred: Sequence[str] = (),
) -> dict[Series, Stored]:
    """Write arrivals inside the open transaction, and queue the series that changed.

    A candle that is stored with the same numbers stays as it is, its fetched_at too. A candle stored from a `preferred`
    source stays whatever the numbers.
    """
    at = timestamp(now)
    values = {"now": at, "source": source, "preferred": list(preferred), "forgotten": at - CROSS_CHECKS_KEPT}
    sql = _Statements(connection, market, values)
    rejected = np.bincount(staged.bad["series_no"], minlength=len(staged.series))
    written = _Written.nothing(len(staged.series))
    with registered(connection, "wanted", numbered(staged.series)):
        if rejected.any():
            with registered(connection, "bad", staged.bad):
                sql.run(_REJECT)
        if len(staged.good["open_time"]):
            written = _store_good(sql, staged)
    counts = zip(written.added.tolist(), written.revised.tolist(), rejected.tolist(), strict=True)
    stored = {
        series: Stored(*numbers, first_revised=_known(revised), first_agreed=_known(agreed), changed=changed)
        for series, numbers, revised, agreed, changed in zip(
            staged.series, counts, written.first_revised, written.first_agreed, written.changed, strict=True
        )
    }
    accepted = np.bincount(staged.good["series_no"], minlength=len(staged.series)).tolist()
    reasons = _first_reasons(staged)
    return {
        series: replace(each, accepted=accepted[number], rejection=reasons.get(number))
        for number, (series, each) in enumerate(stored.items())
    }


def _first_reasons(staged: Staged) -> dict[int, str]:
    """Why the first rejected candle of a series was rejected, by the series' number."""
    series_no, first = np.unique(staged.bad["series_no"], return_index=True)
    return dict(zip(series_no.tolist(), staged.bad["reason"][first].tolist(), strict=True))


def _known(moment: np.datetime64) -> np.datetime64 | None:
    return None if np.isnat(moment) else moment


def delete_old_rejections(connection: duckdb.DuckDBPyConnection, market: str, now: datetime) -> int:
    """Delete rejected candles of more than 90 days ago; gives how many."""
    table, oldest = qualified(market, Table.rejected_candles), timestamp(now) - REJECTED_KEPT
    [(count,)] = connection.execute(f"delete from {table} where rejected_at < ?", [oldest]).fetchall()
    return count


@dataclass(frozen=True, slots=True)
class _Statements:
    """Runs statements on one market's tables, with values that they may name."""

    connection: duckdb.DuckDBPyConnection
    market: str
    values: Mapping[str, object]

    def run(self, statement: str, **lists: str) -> None:
        """Execute a statement whose braces name tables and lists of columns."""
        tables = {table.value: qualified(self.market, table) for table in Table}
        text = statement.format(**tables, candle_list=", ".join(CANDLE_COLUMNS), **lists)
        self.connection.execute(text, {name: value for name, value in self.values.items() if f"${name}" in text})


@dataclass(frozen=True, slots=True)
class _Written:
    """Per series, how many candles were added and revised, and the oldest revised and agreeing one (else NaT)."""

    added: NDArray[np.int64]
    revised: NDArray[np.int64]
    first_revised: Times
    first_agreed: Times
    changed: Sequence[Times]

    @classmethod
    def nothing(cls, series_count: int) -> "_Written":
        counts, never = np.zeros(series_count, dtype=np.int64), np.full(series_count, np.datetime64("NaT", "us"))
        return cls(counts, counts, never, never, [np.array([], dtype=TIME_UNIT)] * series_count)


def _store_good(sql: _Statements, staged: Staged) -> _Written:
    """Store the good candles; gives what became of them."""
    columns = [name for name in staged.good if name not in ("series_no", "open_time", *RESAMPLED_COLUMNS)]
    listed = ", ".join(columns)
    times = staged.good["open_time"]
    span = {"first": times.min().astype(datetime), "last": times.max().astype(datetime)}
    bounded = _Statements(sql.connection, sql.market, {**sql.values, **span})
    with registered(sql.connection, "good", staged.good):
        bounded.run(
            _ARRIVING,
            columns=", ".join(f"g.{name}" for name in columns),
            differs=" or ".join([*(f"g.{name} is distinct from r.{name}" for name in columns), _RECOUNTED]),
        )
        if sql.values["preferred"]:
            _record_cross_checks(bounded)
    written = _written(sql.connection, staged)
    if written.revised.any():
        sql.run(_KEEP_OLD, columns=listed, old=", ".join(f"r.{name}" for name in columns))
        sql.run(_REMOVE_OLD)
    if written.added.any() or written.revised.any():
        sql.run(_INSERT, columns=listed)
        _update_series(sql)
    sql.run("drop table arriving")
    return written


def _record_cross_checks(sql: _Statements) -> None:
    """Keep this source's candles beside those stored from a preferred source, in place of its earlier ones."""
    sql.run(_CROSS_CHECKS)
    sql.run(_DELETE_CROSS_CHECKS)
    sql.run("insert into {cross_checks} by name select * from checked")
    sql.run("drop table checked")


# Null where it is not known of both candles: rows that an earlier version resampled have no count.
_RECOUNTED = "g.base_bars <> r.base_bars or g.complete::boolean <> r.complete"

# One query leaves the fetched candles that are new or have another value. Bounds given as values let DuckDB skip all
# but the newest row groups.
_ARRIVING = """
create temp table arriving as
select w.series_no, w.instrument, w.timeframe, g.open_time, {columns}, g.base_bars::integer as base_bars,
  g.complete::boolean as complete, r.open_time is null as is_new
from good g join wanted w using (series_no)
left join (select * from {raw_candles} where open_time between $first and $last) r
  on r.instrument = w.instrument and r.timeframe = w.timeframe and r.open_time = g.open_time
where r.open_time is null or (not list_contains($preferred::varchar[], r.source) and ({differs}))
"""

_CROSS_CHECKS = """
create temp table checked as
select w.instrument, w.timeframe, g.open_time, g.open, g.high, g.low, g.close, g.volume, $source as source,
  $now as fetched_at
from good g join wanted w using (series_no)
join (select * from {raw_candles} where open_time between $first and $last) r
  on r.instrument = w.instrument and r.timeframe = w.timeframe and r.open_time = g.open_time
where list_contains($preferred::varchar[], r.source)
"""

_DELETE_CROSS_CHECKS = """
delete from {cross_checks} o where o.fetched_at < $forgotten or exists (
  select 1 from checked n where n.instrument = o.instrument and n.timeframe = o.timeframe
    and n.open_time = o.open_time and n.source = o.source)
"""

_KEEP_OLD = """
insert into {raw_candle_revisions} (instrument, timeframe, open_time, {columns}, source, fetched_at, replaced_at)
select r.instrument, r.timeframe, r.open_time, {old}, r.source, r.fetched_at, $now
from {raw_candles} r join arriving a using (instrument, timeframe, open_time)
where not a.is_new
"""

_REMOVE_OLD = """
delete from {raw_candles} r using arriving a
where r.instrument = a.instrument and r.timeframe = a.timeframe and r.open_time = a.open_time and not a.is_new
"""

_INSERT = """
insert into {raw_candles} (instrument, timeframe, open_time, {columns}, source, fetched_at, base_bars, complete)
select instrument, timeframe, open_time, {columns}, $source, $now, base_bars, complete from arriving
order by open_time, instrument, timeframe
"""

# The same bad candle sent at every refresh is one row.
_REJECT = """
insert into {rejected_candles}
  (instrument, timeframe, open_time, {candle_list}, reason, received, source, rejected_at)
select distinct w.instrument, w.timeframe, b.open_time, b.open, b.high, b.low, b.close, b.volume,
  b.reason, b.received, $source, $now
from bad b join wanted w using (series_no)
where not exists (
  select 1 from {rejected_candles} x
  where x.instrument = w.instrument and x.timeframe = w.timeframe and x.open_time is not distinct from b.open_time
    and x.open is not distinct from b.open and x.high is not distinct from b.high
    and x.low is not distinct from b.low and x.close is not distinct from b.close
    and x.volume is not distinct from b.volume
    and x.reason = b.reason and x.received is not distinct from b.received)
"""

_TOUCHED = """
create temp table touched as
select instrument, timeframe, min(open_time) as since, max(open_time) as until, count(*) filter (is_new) as added
from arriving group by all
"""

_GROWN = """
create temp table grown as
select t.instrument, t.timeframe, coalesce(s.candle_count, 0) + t.added as candle_count,
  least(s.first_open_time, t.since) as first_open_time, greatest(s.last_open_time, t.until) as last_open_time
from touched t left join {series} s using (instrument, timeframe)
"""


def _written(connection: duckdb.DuckDBPyConnection, staged: Staged) -> _Written:
    rows = arrays_of(connection, "select series_no, open_time, is_new from arriving")
    series_no, open_time, is_new = rows["series_no"], rows["open_time"].astype(TIME_UNIT), rows["is_new"].astype(bool)
    sent_no, sent = staged.good["series_no"], staged.good["open_time"]
    nothing = _Written.nothing(len(staged.series))
    # What is neither new nor different is stored with the same numbers; of a backfill there is nothing.
    nothing_agrees = len(series_no) == len(sent_no)
    agrees = np.zeros(len(sent), dtype=bool) if nothing_agrees else ~_is_among((sent_no, sent), (series_no, open_time))
    arrived, added = (np.bincount(each, minlength=len(staged.series)) for each in (series_no, series_no[is_new]))
    return _Written(
        added,
        arrived - added,
        _oldest(series_no[~is_new], open_time[~is_new], len(staged.series)),
        _oldest(sent_no[agrees], sent[agrees], len(staged.series)),
        [open_time[series_no == number] for number in range(len(staged.series))] if len(series_no) else nothing.changed,
    )


def _is_among(keys: tuple[NDArray, NDArray], others: tuple[NDArray, NDArray]) -> NDArray[np.bool_]:
    """Which pairs of a series and an instant are among others; numpy compares whole numbers, and pairs far slower."""
    count = len(keys[0])
    _, moments = np.unique(np.concatenate((keys[1], others[1])), return_inverse=True)
    width = moments.max(initial=0) + 1
    packed = np.concatenate((keys[0], others[0])).astype(np.int64) * width + moments
    return np.isin(packed[:count], packed[count:])


def _oldest(series_no: NDArray[np.int32], open_time: Times, series_count: int) -> Times:
    oldest = np.full(series_count, np.iinfo(np.int64).max)
    np.minimum.at(oldest, series_no, open_time.astype(np.int64))
    return np.where(oldest == np.iinfo(np.int64).max, np.datetime64("NaT", "us"), oldest.astype(TIME_UNIT))


def _update_series(sql: _Statements) -> None:
    sql.run(_TOUCHED)
    sql.run(_GROWN)
    sql.run("delete from {series} s using grown g where s.instrument = g.instrument and s.timeframe = g.timeframe")
    sql.run("insert into {series} by name select * from grown")
    record_changes(sql.connection, sql.market, [Table.raw_candles])
    queue_recompute(sql.connection, sql.market, [Table.enhanced_candles])
    sql.run("drop table grown")
    sql.run("drop table touched")


def queue_recompute(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    assets: Sequence[Table],
    *,
    changed: str = "touched",
    since: str = "since",
) -> None:
    """Queue the series in the table `changed` for these assets, from their first changed candle on.

    `since` is that table's column with the first open_time that changed.
    """
    queue = qualified(market, Table.recompute_queue)
    if is_lake(connection):
        _queue_in_a_lake(connection, queue, assets, f"select *, {since} as first_changed from {changed}")
        return
    # The version differs at each change: whoever computed from older rows leaves the queue as it is.
    connection.execute(
        f"merge into {queue} s using (select t.instrument, t.timeframe, a.asset, "
        f"t.{since} as since from {changed} t cross join (select unnest($assets::varchar[]) as asset) a) m "
        "on s.asset = m.asset and s.instrument = m.instrument and s.timeframe = m.timeframe "
        "when matched then update set since = least(s.since, m.since), version = uuid()::varchar "
        "when not matched then insert (instrument, timeframe, asset, since, version) "
        "values (m.instrument, m.timeframe, m.asset, m.since, uuid()::varchar)",
        {"assets": [asset.value for asset in assets]},
    )


def _queue_in_a_lake(connection: duckdb.DuckDBPyConnection, queue: str, assets: Sequence[Table], changed: str) -> None:
    """The same without `merge`, whose new rows DuckLake writes into a file each time instead of the catalogue."""
    connection.execute(
        "create temp table queued as select t.instrument, t.timeframe, a.asset, "
        f"least(t.first_changed, s.since) as since, uuid()::varchar as version from ({changed}) t "
        "cross join (select unnest($assets::varchar[]) as asset) a left join "
        f"{queue} s on s.asset = a.asset and s.instrument = t.instrument and s.timeframe = t.timeframe",
        {"assets": [asset.value for asset in assets]},
    )
    same = "s.asset = q.asset and s.instrument = q.instrument and s.timeframe = q.timeframe"
    connection.execute(f"delete from {queue} s using queued q where {same}")
    connection.execute(f"insert into {queue} by name from queued")
    connection.execute("drop table queued")
