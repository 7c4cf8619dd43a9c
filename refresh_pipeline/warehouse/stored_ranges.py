"""Of each series, the stretches in which every expected bar is stored: what gaps and completeness are derived from.

The transaction that writes candles extends the ranges, so that no look at them reads candles. Nothing is lost with the
table: the ranges of a series that has none, or that another calendar made, are derived from raw_candles again.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import Calendar, fingerprint
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.gaps import StoredRanges, merged, on_grid
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered
from refresh_pipeline.warehouse.schema import Table, qualified

# Candles that are read at once where ranges are derived anew: some 60 megabytes.
ROWS_AT_ONCE = 4_000_000
# Of a market that was prepared.
ALL_TABLES = frozenset(table.value for table in Table)


class Group(NamedTuple):
    """Series of a batch (by number) of which the same bars are expected."""

    calendar: Calendar
    timeframe: Timeframe
    numbers: NDArray[np.int32]


class SeriesBounds(NamedTuple):
    """How many candles are stored of each series of a batch, and the opening times of the first and the last one."""

    counts: NDArray[np.int64]
    first: Times
    last: Times


class _Kept(NamedTuple):
    """The ranges in the table, and by series whether they are there and by which calendar they were made."""

    ranges: StoredRanges
    is_current: NDArray[np.bool_]


def groups(market: Market, batch: Sequence[Series]) -> Iterator[Group]:
    """The series of a batch, those together that have calendar and timeframe in common."""
    number_of = {series: number for number, series in enumerate(batch)}
    for (calendar, timeframe), series in market.by_calendar(batch).items():
        yield Group(calendar, timeframe, np.array([number_of[each] for each in series], dtype=np.int32))


def within(group: Group, ranges: StoredRanges, series_count: int) -> StoredRanges:
    """The ranges of a group's series, numbered within the group."""
    position = np.full(series_count, -1, dtype=np.int32)
    position[group.numbers] = np.arange(len(group.numbers), dtype=np.int32)
    numbers = position[ranges.series_no]
    return StoredRanges(numbers, ranges.first, ranges.last).where(numbers >= 0)


def bounds_of(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    batch: Sequence[Series],
    tables: frozenset[str] = ALL_TABLES,
) -> SeriesBounds:
    """What is stored of each series; nothing where the market was never refreshed."""
    counts = np.zeros(len(batch), dtype=np.int64)
    first, last = (np.full(len(batch), np.datetime64("NaT"), dtype=TIME_UNIT) for _ in range(2))
    if Table.series.value in tables:
        with registered(connection, "wanted", numbered(batch)):
            rows = arrays_of(
                connection,
                "select series_no, candle_count, first_open_time, last_open_time from wanted "
                f"join {qualified(market.name, Table.series)} using (instrument, timeframe) where candle_count > 0",
            )
        numbers = rows["series_no"]
        counts[numbers], first[numbers], last[numbers] = list(rows.values())[1:]
    return SeriesBounds(counts, first, last)


def read(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    batch: Sequence[Series],
    bounds: SeriesBounds,
    tables: frozenset[str] = ALL_TABLES,
) -> StoredRanges:
    """The stored ranges of a batch of series. Writes nothing: what the table lacks is derived from the candles."""
    nothing = _Kept(StoredRanges.none(), np.zeros(len(batch), dtype=bool))
    kept = _kept(connection, market, batch) if Table.stored_ranges.value in tables else nothing
    outdated = np.flatnonzero(~kept.is_current & (bounds.counts > 0))
    derived = _derived(connection, market, batch, outdated, bounds.counts)
    return StoredRanges.concatenated([kept.ranges, derived])


def bring_forward(connection: duckdb.DuckDBPyConnection, market: Market) -> None:
    """Derive the ranges of every series whose ranges are missing or another calendar's; a glance where none is."""
    batch, counts = market.series, bounds_of(connection, market, market.series).counts
    outdated = np.flatnonzero(~_kept(connection, market, batch).is_current & (counts > 0))
    if len(outdated):
        _replace(connection, market, batch, outdated, _derived(connection, market, batch, outdated, counts))


def of_another_calendar(connection: duckdb.DuckDBPyConnection, market: Market) -> list[Series]:
    """The series whose ranges another calendar made than theirs is now, before `bring_forward` derives them anew."""
    batch = market.series
    with registered(connection, "wanted", numbered(batch, calendar=_fingerprints(market, batch))):
        rows = connection.execute(
            f"select series_no from wanted w join {qualified(market.name, Table.stored_ranges)} s "
            "on s.instrument = w.instrument and s.timeframe = w.timeframe group by series_no "
            "having not bool_or(s.calendar = w.calendar) order by series_no"
        ).fetchall()
    return [batch[number] for (number,) in rows]


def of_another_class(connection: duckdb.DuckDBPyConnection, market: Market) -> list[Series]:
    """The series whose ranges another class's sessions of the market's calendar made; before `bring_forward`."""
    of_classes = [fingerprint(each) for each in (market.calendar, *market.calendar.classes.values())]
    batch = of_another_calendar(connection, market)
    if not batch:
        return []
    with registered(connection, "wanted", numbered(batch)):
        rows = connection.execute(
            f"select distinct series_no from wanted w join {qualified(market.name, Table.stored_ranges)} s "
            "on s.instrument = w.instrument and s.timeframe = w.timeframe "
            "where list_contains($of_classes, s.calendar) order by series_no",
            {"of_classes": of_classes},
        ).fetchall()
    return [batch[number] for (number,) in rows]


def extend(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    batch: Sequence[Series],
    arrived: tuple[NDArray[np.int32], Times],
    added: NDArray[np.int64],
) -> None:
    """Take in candles that were stored just now, inside the transaction that stored them.

    Args:
        connection: to the warehouse.
        market: whose candles they are.
        batch: the series.
        arrived: number of the series in the batch and opening time of each candle.
        added: how many candles of each series are new.
    """
    counts, kept = bounds_of(connection, market, batch).counts, _kept(connection, market, batch)
    # A series with older candles and no ranges is left to `bring_forward`.
    grown = (added > 0) & (kept.is_current | (counts == added))
    series_no, open_time = arrived
    fresh = StoredRanges(series_no, open_time, open_time).where(grown[series_no])
    every = StoredRanges.concatenated([kept.ranges.where(grown[kept.ranges.series_no]), _on_grid(market, batch, fresh)])
    _replace(connection, market, batch, np.flatnonzero(grown), _merged(market, batch, every))


def append(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    batch: Sequence[Series],
    open_time: Times,
    last_before: Times,
) -> None:
    """Take in one candle of each series that was stored just now, newer than all others and one more than before.

    `extend` does the same for any candles; a bar that follows its range's last one takes two statements here.

    Args:
        connection: to the warehouse.
        market: whose candles they are.
        batch: the series.
        open_time: of each series' new candle.
        last_before: the open time of the candle that was its newest.
    """
    follows = np.zeros(len(batch), dtype=bool)
    for calendar, timeframe, numbers in groups(market, batch):
        times, before = open_time[numbers], last_before[numbers]
        is_next = calendar.bar_index(timeframe, times) == calendar.bar_index(timeframe, before) + 1
        follows[numbers] = is_next & on_grid(calendar, timeframe, times) & on_grid(calendar, timeframe, before)
    columns = {"calendar": _fingerprints(market, batch), "open_time": open_time, "before": last_before}
    with registered(connection, "wanted", numbered(batch, follows=follows, **columns)):
        table = qualified(market.name, Table.stored_ranges)
        grows = f"w.follows and {_SAME_SERIES} and s.calendar = w.calendar and s.last_open_time = w.before"
        # A lake's updates return nothing: the rows are asked for first.
        rows = arrays_of(connection, f"select s.instrument, s.timeframe from {table} s join wanted w on {grows}")
        connection.execute(f"update {table} s set last_open_time = w.open_time from wanted w where {grows}")
    appended = set(zip(rows["instrument"].tolist(), rows["timeframe"].tolist(), strict=True))
    rest = np.array([(each.instrument, each.timeframe.value) not in appended for each in batch])
    if rest.any():
        series = [each for each, is_left in zip(batch, rest.tolist(), strict=True) if is_left]
        numbers = np.arange(len(series), dtype=np.int32)
        extend(connection, market, series, (numbers, open_time[rest]), np.ones(len(series), dtype=np.int64))


def present_tables(connection: duckdb.DuckDBPyConnection, market: str) -> frozenset[str]:
    """The market's tables in the file: an older file lacks tables, and before the first refresh there are none."""
    rows = connection.execute(
        "select table_name from duckdb_tables() where schema_name = ? and database_name = current_database()", [market]
    ).fetchall()
    return frozenset(row[0] for row in rows)


def _fingerprints(market: Market, batch: Sequence[Series]) -> NDArray[np.int64]:
    return np.array([fingerprint(market.calendar_of(series.instrument)) for series in batch], dtype=np.int64)


def _kept(connection: duckdb.DuckDBPyConnection, market: Market, batch: Sequence[Series]) -> _Kept:
    is_current = np.zeros(len(batch), dtype=bool)
    with registered(connection, "wanted", numbered(batch, calendar=_fingerprints(market, batch))):
        rows = arrays_of(
            connection,
            "select series_no, first_open_time, last_open_time from wanted "
            f"join {qualified(market.name, Table.stored_ranges)} using (instrument, timeframe, calendar) "
            "order by series_no, first_open_time",
        )
    is_current[rows["series_no"]] = True
    times = (rows[name].astype(TIME_UNIT) for name in ("first_open_time", "last_open_time"))
    ranges = StoredRanges(rows["series_no"], *times)
    # A series whose candles are all off the grid has a row without times, which says that it was looked at.
    return _Kept(ranges.where(~np.isnat(ranges.first)), is_current)


def _on_grid(market: Market, batch: Sequence[Series], ranges: StoredRanges) -> StoredRanges:
    expected = np.zeros(len(ranges), dtype=bool)
    for group in groups(market, batch):
        own = np.isin(ranges.series_no, group.numbers)
        expected[own] = on_grid(group.calendar, group.timeframe, ranges.first[own])
    return ranges.where(expected)


def _merged(market: Market, batch: Sequence[Series], ranges: StoredRanges) -> StoredRanges:
    parts = []
    for group in groups(market, batch):
        stored = merged(group.calendar, group.timeframe, within(group, ranges, len(batch)))
        parts.append(stored.renumbered(group.numbers))
    return StoredRanges.concatenated(parts)


def _derived(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    batch: Sequence[Series],
    outdated: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> StoredRanges:
    """The ranges of these series from their candles, so many series at a time as fit in memory."""
    parts = []
    portions = np.cumsum(counts[outdated]) // ROWS_AT_ONCE
    for portion in np.unique(portions):
        numbers = outdated[portions == portion]
        series = [batch[number] for number in numbers]
        with registered(connection, "wanted", numbered(series)):
            rows = arrays_of(
                connection,
                "select series_no, open_time from wanted "
                f"join {qualified(market.name, Table.raw_candles)} using (instrument, timeframe)",
            )
        times = rows["open_time"].astype(TIME_UNIT)
        stored = _on_grid(market, series, StoredRanges(rows["series_no"], times, times))
        parts.append(_merged(market, series, stored).renumbered(numbers))
    return StoredRanges.concatenated(parts)


def _replace(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    batch: Sequence[Series],
    written: NDArray[np.int64],
    ranges: StoredRanges,
) -> None:
    """Write the ranges of the series with these numbers; a range that stays as it is is not touched."""
    without = np.setdiff1d(written, ranges.series_no).astype(np.int32)
    never = np.full(len(without), np.datetime64("NaT"), dtype=TIME_UNIT)
    every = StoredRanges.concatenated([ranges, StoredRanges(without, never, never)])
    table, calendars = qualified(market.name, Table.stored_ranges), _fingerprints(market, batch)
    wanted = numbered(batch, calendar=calendars, is_written=np.isin(np.arange(len(batch)), written))
    fresh = {"series_no": every.series_no, "first_open_time": every.first, "last_open_time": every.last}
    with registered(connection, "wanted", wanted), registered(connection, "fresh", fresh):
        connection.execute(
            "create temp table ranges as select instrument, timeframe, calendar, first_open_time, last_open_time "
            "from fresh join wanted using (series_no)"
        )
        connection.execute(f"delete from {table} s using wanted w where {_SAME_SERIES} and w.is_written and {_GONE}")
    connection.execute(f"insert into {table} by name select * from ranges r where {_NEW.format(table)}")
    connection.execute("drop table ranges")


_SAME_SERIES = "s.instrument = w.instrument and s.timeframe = w.timeframe"
_SAME_RANGE = """r.instrument = s.instrument and r.timeframe = s.timeframe and r.calendar = s.calendar
  and r.first_open_time is not distinct from s.first_open_time
  and r.last_open_time is not distinct from s.last_open_time"""
_GONE = f"not exists (select 1 from ranges r where {_SAME_RANGE})"
_NEW = f"not exists (select 1 from {{}} s where {_SAME_RANGE})"
