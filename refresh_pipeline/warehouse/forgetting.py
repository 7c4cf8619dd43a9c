"""Takes candles out of the warehouse, and lets everything that is derived from them follow.

The candles move to raw_candle_revisions with the time of their removal. Which candles go is decided elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.candles import TIME_UNIT, Times, instant
from refresh_pipeline.market.gaps import on_grid
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.time_bounds import CLOCK_SKEW
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import stored_ranges
from refresh_pipeline.warehouse.arrays import Arrays, arrays_of, registered, timestamp
from refresh_pipeline.warehouse.ingest import closes_after, longest, queue_recompute
from refresh_pipeline.warehouse.schema import Table, candle_columns, qualified
from refresh_pipeline.warehouse.versions import record_changes

# What says something about a series that has no candle left.
OF_SERIES = (
    Table.enhanced_candles, Table.indicators, Table.checkpoints, Table.recompute_queue, Table.stored_ranges,
    Table.gaps, Table.completeness, Table.confirmed_gaps, Table.missed_candles, Table.archive_files,
    Table.series_sources,
)  # fmt: skip
# What is kept of a series whether it has candles or not, for as long as the YAML names it.
RECORDS = (
    Table.outcomes, Table.rejected_candles, Table.gaps, Table.completeness, Table.confirmed_gaps, Table.missed_candles,
    Table.archive_files, Table.series_sources, Table.cross_checks,
)  # fmt: skip
# The calendar, the timeframe and the opening times of candles, and which of them are meant.
Condition = Callable[[Calendar, Timeframe, Times], NDArray[np.bool_]]
# What goes at once with a series' last candle; of other series it follows when it is computed again.
COMPUTED = (Table.enhanced_candles, Table.indicators)
_SAME = "t.instrument = g.instrument and t.timeframe = g.timeframe"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which stored candles of a market are meant; without a part, all of them.

    `instrument` and `timeframe` are names as stored, also of series that the market's YAML no longer has. `since` and
    `until` are instants, `until` excluded. `off_grid` keeps to candles where the calendar expects no bar.
    `closing_after` keeps to candles that close more than a minute after that instant. `orphans` keeps to series that
    the YAML no longer has.
    """

    instrument: str | None = None
    timeframe: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    off_grid: bool = False
    closing_after: datetime | None = None
    orphans: bool = False


def choose(connection: duckdb.DuckDBPyConnection, market: Market, choice: Choice) -> Arrays:
    """The instrument, timeframe and open_time of the stored candles that are meant."""
    bounds = {
        "instrument = $instrument": choice.instrument,
        "timeframe = $timeframe": choice.timeframe,
        "open_time >= $since": choice.since and timestamp(choice.since),
        "open_time < $until": choice.until and timestamp(choice.until),
    }
    may_close_after = [] if choice.closing_after is None else [_may_close_after(choice.closing_after)]
    where = " and ".join(["true", *may_close_after, *(text for text, value in bounds.items() if value is not None)])
    values = {text.split("$")[1]: value for text, value in bounds.items() if value is not None}
    rows = arrays_of(
        connection,
        f"select instrument, timeframe, open_time from {qualified(market.name, Table.raw_candles)} where {where} "
        "order by all",
        values,
    )
    if choice.orphans:
        keys = zip(rows["instrument"].tolist(), rows["timeframe"].tolist(), strict=True)
        named = {(series.instrument, series.timeframe.value) for series in market.series}
        is_orphan = np.array([key not in named for key in keys], dtype=bool)
        rows = {name: values[is_orphan] for name, values in rows.items()}
    for is_meant in _conditions(choice):
        rows = _matching(market, rows, is_meant)
    return rows


def _conditions(choice: Choice) -> list[Condition]:
    """The conditions of a choice that only a calendar can answer."""
    conditions: list[Condition] = []
    if choice.off_grid:
        conditions.append(lambda calendar, timeframe, opens: ~on_grid(calendar, timeframe, opens))
    if choice.closing_after is not None:
        latest = instant(choice.closing_after + CLOCK_SKEW)
        conditions.append(lambda calendar, timeframe, opens: closes_after(calendar, timeframe, opens, latest))
    return conditions


def _may_close_after(moment: datetime) -> str:
    """What SQL can tell of a candle that closes after an instant: it opened a bar's length before, or later."""
    cases = " ".join(
        f"when '{timeframe.value}' then timestamp '{timestamp(instant(moment) - longest(timeframe))}'"
        for timeframe in Timeframe
    )
    return f"open_time >= case timeframe {cases} end"


def _matching(market: Market, rows: Arrays, is_meant: Condition) -> Arrays:
    """The rows that are meant; those of a series follow one another."""
    names, timeframes, times = rows["instrument"], rows["timeframe"], rows["open_time"].astype(TIME_UNIT)
    meant = np.zeros(len(times), dtype=bool)
    begins = np.flatnonzero((names[1:] != names[:-1]) | (timeframes[1:] != timeframes[:-1])) + 1
    for first, end in pairwise([0, *begins.tolist(), len(times)] if len(times) else []):
        name = names[first]
        calendar = market.calendar_of(name) if name in market.instruments else market.calendar
        meant[first:end] = is_meant(calendar, Timeframe(timeframes[first]), times[first:end])
    return {name: values[meant] for name, values in rows.items()}


def closing_after(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> dict[Series, Times]:
    """The opening times of the stored candles that close more than a minute after `now`, by series."""
    return by_series(choose(connection, market, Choice(closing_after=now)))


def drop_market(connection: duckdb.DuckDBPyConnection, market: str) -> list[str]:
    """Drop every table of a market inside the open transaction; gives the paths of its export files."""
    paths = connection.execute(f"select path from {qualified(market, Table.exports)} order by all").fetchall()
    connection.execute(f'drop schema "{market}" cascade')
    return [path for (path,) in paths]


def drop_records(connection: duckdb.DuckDBPyConnection, market: Market, choice: Choice) -> None:
    """Delete what is known of the chosen series that have no candles and that the market's YAML does not name."""
    named = {
        "instrument": np.array([series.instrument for series in market.series], dtype=object),
        "timeframe": np.array([series.timeframe.value for series in market.series], dtype=object),
    }
    stored = qualified(market.name, Table.series)
    with registered(connection, "named_series", named):
        for table in RECORDS:
            connection.execute(
                f"delete from {qualified(market.name, table)} t "
                "where t.instrument = coalesce(?, t.instrument) and t.timeframe = coalesce(?, t.timeframe) "
                f"and not exists (select 1 from named_series g where {_SAME}) "
                f"and not exists (select 1 from {stored} g where {_SAME})",
                [choice.instrument, choice.timeframe],
            )


def remove(connection: duckdb.DuckDBPyConnection, market: Market, gone: Arrays, now: datetime) -> dict[Series, Times]:
    """Remove candles inside the open transaction; gives the opening times of those that were stored, by series.

    Args:
        connection: to the warehouse.
        market: whose candles they are.
        gone: the candles' instrument, timeframe and open_time.
        now: when they are removed.
    """
    raw = qualified(market.name, Table.raw_candles)
    with registered(connection, "doomed", gone):
        connection.execute(
            f"create temp table gone as select instrument, timeframe, open_time from {raw} "
            "semi join doomed using (instrument, timeframe, open_time)"
        )
    removed = arrays_of(connection, "select instrument, timeframe, open_time from gone order by all")
    if len(removed["open_time"]):
        _keep_and_delete(connection, market, now)
        _update_series(connection, market)
    connection.execute("drop table gone")
    return by_series(removed)


def _keep_and_delete(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> None:
    raw, columns = qualified(market.name, Table.raw_candles), ", ".join(candle_columns(market.two_sided))
    listed = f"instrument, timeframe, open_time, {columns}, source, fetched_at"
    connection.execute(
        f"insert into {qualified(market.name, Table.raw_candle_revisions)} ({listed}, replaced_at) "
        f"select {listed}, $now from {raw} semi join gone using (instrument, timeframe, open_time)",
        {"now": timestamp(now)},
    )
    connection.execute(f"delete from {raw} t using gone g where {_SAME} and t.open_time = g.open_time")


def _update_series(connection: duckdb.DuckDBPyConnection, market: Market) -> None:
    """Bring what is known of the series of the removed candles in step with the candles that are left."""
    series, ranges = (qualified(market.name, table) for table in (Table.series, Table.stored_ranges))
    connection.execute(
        "create temp table touched as select instrument, timeframe, min(open_time) as since from gone group by all"
    )
    for table in (series, ranges):
        connection.execute(f"delete from {table} t using touched g where {_SAME}")
    connection.execute(
        f"insert into {series} (instrument, timeframe, candle_count, first_open_time, last_open_time) "
        f"select instrument, timeframe, count(*), min(open_time), max(open_time) "
        f"from {qualified(market.name, Table.raw_candles)} semi join touched using (instrument, timeframe) group by all"
    )
    stored_ranges.bring_forward(connection, market)
    record_changes(connection, market.name, [Table.raw_candles])
    queue_recompute(connection, market.name, [Table.enhanced_candles])
    connection.execute(f"delete from touched using {series} t where {_SAME.replace('g.', 'touched.')}")
    record_changes(connection, market.name, COMPUTED)
    for table in OF_SERIES:
        connection.execute(f"delete from {qualified(market.name, table)} t using touched g where {_SAME}")
    connection.execute("drop table touched")


def by_series(rows: Arrays) -> dict[Series, Times]:
    """The opening times of candles, by series."""
    keys = zip(rows["instrument"].tolist(), rows["timeframe"].tolist(), strict=True)
    numbers: dict[tuple[str, str], list[int]] = {}
    for number, key in enumerate(keys):
        numbers.setdefault(key, []).append(number)
    times = rows["open_time"].astype(TIME_UNIT)
    return {Series(name, Timeframe(timeframe)): times[np.array(at)] for (name, timeframe), at in numbers.items()}
