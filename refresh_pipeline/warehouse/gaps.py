"""Which candles are missing: what the calendars expect, written down, against what is stored. One question for all.

The calendars live in Python, the candles in DuckDB; so that both can be asked in one place, every refresh writes down
which bars are expected, a while ahead of the clock. The views `gaps` and `completeness` are the same text as the
questions here, with the clock's instant.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np

from refresh_pipeline.market.calendars.base import Calendar, length_of
from refresh_pipeline.market.candles import TIME_UNIT, Times, instant
from refresh_pipeline.market.freshness import allowed_delay
from refresh_pipeline.market.gaps import Coverage, Gap, Place
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered, texts
from refresh_pipeline.warehouse.schema import Table, qualified

# How far ahead of the clock bars are written down: so long the views stay right while nothing refreshes.
AHEAD = np.timedelta64(35 * 24 * 3600 * 1_000_000, "us")
MICROSECOND = np.timedelta64(1, "us")
# UTC whatever the session's zone.
CLOCK = "make_timestamp(epoch_us(now()))"

Stretches = Mapping[Series, tuple[np.datetime64, np.datetime64]]


# ---- what is expected


@dataclass(frozen=True, slots=True)
class _Span:
    """From when to when the bars of a timeframe are wanted."""

    timeframe: Timeframe
    first: np.datetime64
    end: np.datetime64

    def unwritten(self, calendar: Calendar, written: Times | None) -> Times:
        """The opening times that are wanted beyond those that are written, given the first and the last of these."""
        if written is None:
            return calendar.open_times(self.timeframe, self.first, self.end)
        parts = [calendar.open_times(self.timeframe, self.first, written[0])]
        # Not each time a little, or the file would grow by a row group a refresh.
        if written[1] < self.end - AHEAD // 2:
            parts.append(calendar.open_times(self.timeframe, written[1] + MICROSECOND, self.end))
        return np.concatenate(parts)


def write_expected_bars(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> None:
    """Bring forward which bars are expected, and from when on of each series; a glance where nothing is to do.

    An instant before what is stored already changes nothing: somebody looks back.
    """
    newest = connection.execute(f"select max(last_open_time) from {qualified(market.name, Table.series)}").fetchall()
    if newest[0][0] is not None and instant(newest[0][0]) > instant(now):
        return
    since = _since(connection, market, now)
    table = qualified(market.name, Table.expected_candles)
    for (calendar, timeframe), series in market.by_calendar(market.series).items():
        end = instant(now) + AHEAD
        end = end if calendar.last_known is None else min(end, calendar.last_known)
        span = _Span(timeframe, min(since[each] for each in series), end)
        _write_down(connection, table, market.session_key(series[0].instrument), calendar, span)
    _note_since(connection, market, since)


def _since(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> dict[Series, np.datetime64]:
    """From when on candles are expected: as far back as a first refresh would go, or as the oldest one stored."""
    begins = {
        timeframe: market.calendar.floor(timeframe, np.array([instant(now - market.history[timeframe])]))[0]
        for timeframe in market.timeframes
    }
    rows = connection.execute(
        f"select instrument, timeframe, first_open_time from {qualified(market.name, Table.series)} "
        "where candle_count > 0"
    ).fetchall()
    stored = {(instrument, timeframe): np.datetime64(first, "us") for instrument, timeframe, first in rows}
    return {
        series: min(begins[series.timeframe], stored.get((series.instrument, series.timeframe.value), instant(now)))
        for series in market.series
    }


def _write_down(
    connection: duckdb.DuckDBPyConnection, table: str, sessions: str, calendar: Calendar, span: _Span
) -> None:
    group = [sessions, span.timeframe.value]
    ((count, oldest, newest),) = connection.execute(
        f"select count(*), min(open_time), max(open_time) from {table} where sessions = ? and timeframe = ?", group
    ).fetchall()
    bounds = np.array([oldest, newest], dtype=TIME_UNIT)
    if count and int(calendar.count(span.timeframe, bounds[:1], bounds[1])[0]) != count:
        # The calendar knows better since.
        connection.execute(f"delete from {table} where sessions = ? and timeframe = ?", group)
        count = 0
    opens = span.unwritten(calendar, bounds if count else None)
    if len(opens) == 0:
        return
    closes, number = calendar.closes(span.timeframe, opens), calendar.bar_index(span.timeframe, opens)
    with registered(connection, "opening", {"open_time": opens, "closes_at": closes, "number": number}):
        connection.execute(
            f"insert into {table} select ?, ?, open_time, closes_at, number from opening order by open_time", group
        )


def _note_since(connection: duckdb.DuckDBPyConnection, market: Market, since: Mapping[Series, np.datetime64]) -> None:
    table = qualified(market.name, Table.expectations)
    wanted = {
        (series.instrument, series.timeframe.value, market.session_key(series.instrument), first.astype(datetime))
        for series, first in since.items()
    }
    if wanted == set(connection.execute(f"select * from {table}").fetchall()):
        return
    noted = numbered(
        list(since),
        sessions=texts(market.session_key(series.instrument) for series in since),
        since=np.array(list(since.values()), dtype=TIME_UNIT),
    )
    connection.execute(f"delete from {table}")
    with registered(connection, "noted", noted):
        connection.execute(f"insert into {table} by name select * exclude (series_no) from noted order by series_no")


# ---- what is missing

# From `bounds` (whose bars, from when on, before when), in the words of one market: how many bars lie within, how many
# of those are stored, and which stretches are not. Counting all series takes one pass; of what falls short the stored
# bars are listed and not the missing ones, of which there may be twenty years.
_MISSING = """
numbers as (
  select b.*, x.number as first_number, coalesce(y.number, x.number - 1) as last_number
  from bounds b
  asof join {expected_candles} x on x.sessions = b.sessions and x.timeframe = b.timeframe and b.since <= x.open_time
  asof left join {expected_candles} y on y.sessions = b.sessions and y.timeframe = b.timeframe and b.until > y.open_time
),
held as ({held}),
counted as (
  select n.*, greatest(last_number - first_number + 1, 0) as expected, coalesce(h.stored, 0) as stored
  from numbers n left join held h using (instrument, timeframe, sessions)
),
edges as (
  select c.instrument, c.timeframe, c.sessions, x.number
  from (select * from counted where stored < expected) c
  join {raw_candles} r on r.instrument = c.instrument and r.timeframe = c.timeframe and {within}
  join {expected_candles} x on x.sessions = c.sessions and x.timeframe = c.timeframe and x.open_time = r.open_time
    and x.number between c.first_number and c.last_number
  union all
  select instrument, timeframe, sessions, unnest([first_number - 1, last_number + 1])
  from counted where stored < expected
),
holes as (
  select instrument, timeframe, sessions, lag(number) over series + 1 as first_number, number - 1 as last_number
  from edges window series as (partition by instrument, timeframe order by number)
),
runs as (
  select h.instrument, h.timeframe, a.open_time as first_open_time, z.open_time as last_open_time,
    h.last_number - h.first_number + 1 as candles, h.first_number, h.last_number
  from holes h
  join {expected_candles} a on a.sessions = h.sessions and a.timeframe = h.timeframe and a.number = h.first_number
  join {expected_candles} z on z.sessions = h.sessions and z.timeframe = h.timeframe and z.number = h.last_number
  where h.first_number <= h.last_number
)
"""

# The expected candles of each series that are stored. What is stored never lies before what is expected of a series, so
# that of all series the bars' own times are enough: half the time that bounds of their own take.
_HELD_OF_ALL = """
  select r.instrument, r.timeframe, x.sessions, count(*) as stored
  from {raw_candles} r join {expected_candles} x on x.timeframe = r.timeframe and x.open_time = r.open_time
  where x.closes_at <= {now} - interval {grace} second
  group by all
"""
_HELD_WITHIN = """
  select b.instrument, b.timeframe, b.sessions, count(*) as stored
  from {raw_candles} r join bounds b using (instrument, timeframe)
  join {expected_candles} x on x.sessions = b.sessions and x.timeframe = b.timeframe and x.open_time = r.open_time
  where r.open_time >= b.since and r.open_time < b.until and {within}
  group by all
"""

# Every series, up to the newest bar that has closed.
_BOUNDS = """
bounds as (
  select e.instrument, e.timeframe, e.sessions, e.since, u.until
  from {expectations} e join (
    select sessions, timeframe, max(open_time) + interval 1 microsecond as until from {expected_candles}
    where closes_at <= {now} - interval {grace} second group by all
  ) u using (sessions, timeframe)
)
"""

_GAPS = """
select g.instrument, g.timeframe, g.first_open_time, g.last_open_time, g.candles,
  case when coalesce(s.candle_count, 0) = 0 then 'whole'
    when g.last_open_time < s.first_open_time then 'beginning'
    when g.first_open_time > s.last_open_time then 'end' else 'middle' end as place,
  c.first_asked_at, c.asked_at
from runs g
left join {series} s on s.instrument = g.instrument and s.timeframe = g.timeframe
left join {confirmed_gaps} c on c.instrument = g.instrument and c.timeframe = g.timeframe
  and c.first_open_time = g.first_open_time and c.last_open_time = g.last_open_time
order by g.instrument, g.timeframe, g.first_open_time
"""

_COMPLETENESS = """
select instrument, timeframe, expected, stored, stored / expected as completeness
from counted where expected > 0 order by instrument, timeframe
"""


def gaps(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> list[Gap]:
    """Every stretch that is missing at `now`, series by series, oldest first."""
    rows = connection.execute(_question(market, _GAPS, "$now"), {"now": instant(now).astype(datetime)}).fetchall()
    return [
        Gap(
            Series(row[0], Timeframe(row[1])),
            np.datetime64(row[2], "us"),
            np.datetime64(row[3], "us"),
            row[4],
            Place(row[5]),
            *(None if time is None else time.replace(tzinfo=UTC) for time in row[6:]),
        )
        for row in rows
    ]


def coverage(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> dict[Series, Coverage]:
    """How many candles are expected and stored of each series at `now`; nothing of one of which none is due yet."""
    rows = connection.execute(
        _question(market, _COMPLETENESS, "$now"), {"now": instant(now).astype(datetime)}
    ).fetchall()
    series = [Series(row[0], Timeframe(row[1])) for row in rows]
    return {each: Coverage(each, row[2], row[3]) for each, row in zip(series, rows, strict=True)}


def ensure_gap_views(connection: duckdb.DuckDBPyConnection, market: Market) -> None:
    """Create the views, or bring them forward; a glance where nothing is to do."""
    for name, answer in {"gaps": _GAPS, "completeness": _COMPLETENESS}.items():
        text = _question(market, answer, CLOCK)
        mark = f"as of {zlib.crc32(text.encode()):08x}"
        found = connection.execute(
            "select comment from duckdb_views() where schema_name = ? and view_name = ? "
            "and database_name = current_database()",
            [market.name, name],
        ).fetchall()
        if found != [(mark,)]:
            connection.execute(f'create or replace view "{market.name}".{name} as {text}')
            connection.execute(f"comment on view \"{market.name}\".{name} is '{mark}'")


def _question(market: Market, answer: str, now: str) -> str:
    tables = {table.value: qualified(market.name, table) for table in Table}
    seconds = int(allowed_delay(market.timeframes) / timedelta(seconds=1))
    text = f"with {_BOUNDS}, {_MISSING} {answer}".replace("{held}", _HELD_OF_ALL)
    return text.format(**tables, now=now, grace=seconds, within="true")


# ---- what the source does not have


def record_empty_ranges(connection: duckdb.DuckDBPyConnection, market: Market, asked: Stretches, now: datetime) -> None:
    """Write down which gaps lie within what the source was asked for, all the way: it has nothing for them.

    Where such a gap was known, it keeps the instant at which it was first asked for; what was filled is known no more.
    """
    stretches = numbered(
        list(asked),
        since=np.array([since for since, _ in asked.values()], dtype=TIME_UNIT),
        until=np.array([until for _, until in asked.values()], dtype=TIME_UNIT),
    )
    values = {
        "now": instant(now).astype(datetime),
        "first": stretches["since"].min().astype(datetime),
        "last": stretches["until"].max().astype(datetime),
    }
    with registered(connection, "asked", stretches):
        for statement in (_FOUND, _FORGET, _CONFIRM, "drop table found"):
            _run(connection, market, statement, values)


def _run(connection: duckdb.DuckDBPyConnection, market: Market, statement: str, values: Mapping[str, datetime]) -> None:
    tables = {table.value: qualified(market.name, table) for table in Table}
    seconds = int(allowed_delay(market.timeframes) / timedelta(seconds=1))
    text = statement.replace("{missing}", _MISSING).replace("{held}", _HELD_WITHIN)
    within = "r.open_time >= $first - interval 45 day and r.open_time < $last + interval 45 day"
    text = text.format(**tables, grace=seconds, within=within)
    connection.execute(text, {name: value for name, value in values.items() if f"${name}" in text})


# A stretch is looked at with one bar more on either side: a gap that reaches beyond was not asked for as a whole. What
# closed a moment ago may still come.
_FOUND = """
create temp table found as with
bounds as (
  select a.instrument, a.timeframe, e.sessions,
    greatest(coalesce(x.open_time, a.since), e.since) as since,
    least(coalesce(y.open_time + interval 1 microsecond, a.until), u.until) as until
  from asked a join {expectations} e using (instrument, timeframe)
  join (
    select sessions, timeframe, max(open_time) + interval 1 microsecond as until from {expected_candles}
    where closes_at <= $now - interval {grace} second group by all
  ) u using (sessions, timeframe)
  asof left join {expected_candles} x on x.sessions = e.sessions and x.timeframe = e.timeframe and a.since > x.open_time
  asof left join {expected_candles} y on y.sessions = e.sessions and y.timeframe = e.timeframe
    and a.until <= y.open_time
),
{missing}
select g.instrument, g.timeframe, g.first_open_time, g.last_open_time, g.candles
from runs g join asked a using (instrument, timeframe) join {expectations} e using (instrument, timeframe)
where g.first_open_time >= a.since and g.last_open_time < a.until
"""

_FORGET = """
delete from {confirmed_gaps} c using asked a
where c.instrument = a.instrument and c.timeframe = a.timeframe
  and c.first_open_time >= a.since and c.last_open_time < a.until
  and not exists (
    select 1 from found f where f.instrument = c.instrument and f.timeframe = c.timeframe
      and f.first_open_time = c.first_open_time and f.last_open_time = c.last_open_time)
"""

_CONFIRM = """
merge into {confirmed_gaps} c using found f on c.instrument = f.instrument and c.timeframe = f.timeframe
  and c.first_open_time = f.first_open_time and c.last_open_time = f.last_open_time
when matched then update set asks = c.asks + 1, asked_at = $now
when not matched then insert (instrument, timeframe, first_open_time, last_open_time, candles, asks, first_asked_at,
  asked_at) values (f.instrument, f.timeframe, f.first_open_time, f.last_open_time, f.candles, 1, $now, $now)
"""


# The last row of a series stands for what comes after it, the first one for what comes before.
_EMPTY = """
with held as (
  select w.series_no, w.length, r.open_time,
    lag(r.open_time) over (partition by w.series_no order by r.open_time) as previous
  from wanted w join {raw_candles} r using (instrument, timeframe)
  where r.open_time >= w.since and r.open_time < $until and r.open_time >= $first
)
select series_no, previous as after, open_time as before from held
where previous is null or epoch_us(open_time) - epoch_us(previous) > length
union all
select series_no, max(open_time), null from held group by series_no
order by series_no, after nulls first
"""


def empty_between(
    connection: duckdb.DuckDBPyConnection, market: str, since: dict[Series, np.datetime64], until: np.datetime64
) -> dict[Series, tuple[Times, Times]]:
    """For each series, the candles after which and before which nothing is stored for longer than a bar lasts.

    Args:
        connection: to the warehouse.
        market: whose tables are meant.
        since: per series, from when on.
        until: up to when, excluded.

    Returns:
        Opening times of the candles on either side of each empty stretch, in order; NaT where the stretch begins at
        `since` or ends at `until`. A series without any candle has a single stretch with NaT on both sides.
    """
    batch = list(since)
    rows = _rows(connection, market, batch, np.array(list(since.values()), dtype=TIME_UNIT), until)
    found: dict[Series, tuple[Times, Times]] = {}
    nothing = np.array(["NaT"], dtype=TIME_UNIT)
    for number, series in enumerate(batch):
        own = rows["series_no"] == number
        found[series] = (rows["after"][own], rows["before"][own]) if own.any() else (nothing, nothing)
    return found


def _rows(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series], since: Times, until: np.datetime64
) -> dict[str, np.ndarray]:
    lengths = np.array([length_of(each.timeframe).astype(np.int64) for each in batch], dtype=np.int64)
    # The bound that is a value lets DuckDB skip row groups; the one of each series would not.
    values: dict[str, datetime] = {"first": since.min().astype(datetime), "until": until.astype(datetime)}
    with registered(connection, "wanted", numbered(batch, since=since, length=lengths)):
        rows = arrays_of(connection, _EMPTY.format(raw_candles=qualified(market, Table.raw_candles)), values)
    return rows | {name: rows[name].astype(TIME_UNIT) for name in ("after", "before")}
