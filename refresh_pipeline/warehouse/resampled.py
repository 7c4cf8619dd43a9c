"""Makes the candles of longer timeframes again when stored candles that they are made from change. Fetches nothing.

New bars of a longer timeframe come with its refresh. A late candle, a correction or a withdrawal may touch stored
ones. They are made again here, from the stored base candles and in the transaction that changed those.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import Calendar, length_of
from refresh_pipeline.market.candles import TIME_UNIT, Candles, Times
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.resampling import resample_counted
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import Arrays, arrays_of, numbered, registered, texts
from refresh_pipeline.warehouse.ingest import Stored
from refresh_pipeline.warehouse.schema import Table, candle_columns, qualified
from refresh_pipeline.warehouse.stored_ranges import SeriesBounds, bounds_of

# The timeframes of a market that are made from another one of its timeframes, by that one.
Derived = Mapping[Timeframe, Sequence[Timeframe]]


@dataclass(frozen=True, slots=True)
class TouchedBars:
    """Stored bars of one series to make again: their opening times, and the series that they are made from."""

    series: Series
    base: Series
    open_times: Times


def follow(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    stored: Mapping[Series, Stored],
    withdrawn: Mapping[Series, Times],
    derived: Derived,
) -> tuple[dict[Series, Candles], Arrays]:
    """The stored longer candles to store anew after a change of their base, and those of which no base is left."""
    nothing = np.array([], dtype=TIME_UNIT)
    changed = {
        series: np.concatenate(
            [stored[series].changed if series in stored else nothing, withdrawn.get(series, nothing)]
        )
        for series in stored.keys() | withdrawn.keys()
    }
    touched = touched_bars(connection, market, changed, derived)
    made = made_again(connection, market, touched, withdrawn.keys()) if touched else {}
    return made, without_base(touched, made, withdrawn.keys())


def regrid(
    connection: duckdb.DuckDBPyConnection, market: Market, series: Series, base: Series
) -> tuple[dict[Series, Candles], Arrays]:
    """The longer candles of one series on its calendar of now, and the stored ones that are not on its grid.

    Candles that end before the first stored base candle are left as they are.
    """
    stored, below = (_open_times(connection, market, each) for each in (series, base))
    if not len(stored) or not len(below):
        return {}, _keys([])
    calendar = market.calendar_of(series.instrument)
    opens = np.unique(calendar.floor(series.timeframe, below))
    # The first bar is a part of one, as at a first refresh, where no longer history precedes it.
    older = below[0] - length_of(series.timeframe)
    first = below[0] if stored[0] <= older else opens[0]
    touched = TouchedBars(series, base, opens[(opens >= first) & (opens <= stored[-1])])
    made = made_again(connection, market, [touched], set()) if len(touched.open_times) else {}
    later = stored[stored > older]
    return made, _keys([(series, time) for time in later[calendar.floor(series.timeframe, later) != later]])


def unfinished(
    connection: duckdb.DuckDBPyConnection, market: Market, doubted: Mapping[Series, np.datetime64], derived: Derived
) -> Arrays:
    """Those of the doubted bars, one a series, that were made of a part of their base, which ends within them.

    A bar that its stored base goes beyond has closed, whatever the clock says.
    """
    base_of = {longer: base for base, some in derived.items() for longer in some}
    based = [each for each in doubted if each.timeframe in base_of]
    ends = bounds_of(connection, market, [Series(each.instrument, base_of[each.timeframe]) for each in based]).last
    closed = {
        each
        for each, end in zip(based, ends, strict=True)
        if end >= market.calendar_of(each.instrument).closes(each.timeframe, np.array([doubted[each]]))[0]
    }
    with registered(connection, "doubted", _keys([(each, doubted[each]) for each in doubted if each not in closed])):
        return arrays_of(
            connection,
            f"select instrument, timeframe, open_time from {qualified(market.name, Table.raw_candles)} "
            "semi join doubted using (instrument, timeframe, open_time) where not complete",
        )


def _open_times(connection: duckdb.DuckDBPyConnection, market: Market, series: Series) -> Times:
    rows = arrays_of(
        connection,
        f"select open_time from {qualified(market.name, Table.raw_candles)} "
        "where instrument = ? and timeframe = ? order by open_time",
        [series.instrument, series.timeframe.value],
    )
    return rows["open_time"].astype(TIME_UNIT)


def touched_bars(
    connection: duckdb.DuckDBPyConnection, market: Market, changed: Mapping[Series, Times], derived: Derived
) -> list[TouchedBars]:
    """The stored bars that changed base candles lie in.

    Bars are left out that begin before the first stored base candle: the base is not all there.

    Args:
        connection: to the warehouse.
        market: whose candles they are.
        changed: the opening times of the base candles that were added, revised or withdrawn.
        derived: which timeframes are made from which.
    """
    pairs = [
        (Series(base.instrument, timeframe), base)
        for base, times in changed.items()
        if len(times)
        for timeframe in derived.get(base.timeframe, ())
    ]
    if not pairs:
        return []
    batch = [series for pair in pairs for series in pair]
    bounds = bounds_of(connection, market, batch)
    bars = [
        TouchedBars(series, base, _within(market, series, changed[base], bounds, number * 2))
        for number, (series, base) in enumerate(pairs)
    ]
    return [each for each in bars if len(each.open_times)]


def _within(market: Market, series: Series, changed: Times, bounds: SeriesBounds, number: int) -> Times:
    if bounds.counts[number] == 0 or bounds.counts[number + 1] == 0:
        return changed[:0]
    opens = np.unique(market.calendar_of(series.instrument).floor(series.timeframe, changed))
    first = max(bounds.first[number], bounds.first[number + 1])
    return opens[(opens >= first) & (opens <= bounds.last[number])]


def made_again(
    connection: duckdb.DuckDBPyConnection, market: Market, touched: Sequence[TouchedBars], withdrawn: Set[Series]
) -> dict[Series, Candles]:
    """The touched bars from the base candles that are stored now.

    A bar that was made of more base candles than are stored is left out: its refresh saw more than was stored. It is
    not left out where candles of its base are among the `withdrawn` ones.
    """
    rows = _base_rows(connection, market, touched)
    counts = _stored_counts(connection, market, touched)
    columns = candle_columns(market.two_sided)
    bars: dict[Series, Candles] = {}
    for number, each in enumerate(touched):
        chosen = rows["series_no"] == number
        base = Candles(rows["open_time"][chosen], {name: rows[name][chosen].astype(np.float64) for name in columns})
        calendar = market.calendar_of(each.series.instrument)
        made = resample_counted(base, each.series.timeframe, each.base.timeframe, calendar)
        stored = {} if each.base in withdrawn else counts.get(each.series, {})
        enough = [made["base_bars"][row] >= stored.get(time, 0) for row, time in enumerate(made.open_time.tolist())]
        bars[each.series] = made.where(np.array(enough, dtype=bool))
    return {series: candles for series, candles in bars.items() if len(candles)}


def without_base(touched: Sequence[TouchedBars], made: Mapping[Series, Candles], withdrawn: Set[Series]) -> Arrays:
    """The touched bars of which no base candle is left, as instrument, timeframe and open_time."""
    lost = [
        (each.series, time)
        for each in touched
        if each.base in withdrawn
        for time in np.setdiff1d(each.open_times, made[each.series].open_time if each.series in made else [])
    ]
    return _keys(lost)


def _keys(candles: Sequence[tuple[Series, np.datetime64]]) -> Arrays:
    return {
        "instrument": texts(series.instrument for series, _ in candles),
        "timeframe": texts(series.timeframe.value for series, _ in candles),
        "open_time": np.array([time for _, time in candles], dtype=TIME_UNIT),
    }


def _base_rows(connection: duckdb.DuckDBPyConnection, market: Market, touched: Sequence[TouchedBars]) -> Arrays:
    columns = ", ".join(f"r.{name}" for name in candle_columns(market.two_sided))
    ends = [_calendar(market, each).closes(each.series.timeframe, each.open_times) for each in touched]
    with _registered_bars(connection, touched, [each.base for each in touched], ends):
        return arrays_of(
            connection,
            f"select series_no, r.open_time, {columns} from bars join wanted using (series_no) "
            f"join (select * from {qualified(market.name, Table.raw_candles)} "
            "where open_time >= $first and open_time < $last) r on r.instrument = wanted.instrument "
            "and r.timeframe = wanted.timeframe and r.open_time >= bars.since and r.open_time < bars.until "
            "order by series_no, r.open_time",
            _bounds(touched, ends),
        )


def _stored_counts(
    connection: duckdb.DuckDBPyConnection, market: Market, touched: Sequence[TouchedBars]
) -> dict[Series, dict[datetime, int]]:
    ends = [each.open_times for each in touched]
    with _registered_bars(connection, touched, [each.series for each in touched], ends):
        rows = connection.execute(
            "select series_no, r.open_time, r.base_bars from bars join wanted using (series_no) "
            f"join (select * from {qualified(market.name, Table.raw_candles)} "
            "where open_time between $first and $last and base_bars is not null) r "
            "on r.instrument = wanted.instrument and r.timeframe = wanted.timeframe and r.open_time = bars.since",
            _bounds(touched, ends),
        ).fetchall()
    counts: dict[Series, dict[datetime, int]] = {}
    for number, open_time, base_bars in rows:
        counts.setdefault(touched[number].series, {})[open_time] = base_bars
    return counts


@contextmanager
def _registered_bars(
    connection: duckdb.DuckDBPyConnection,
    touched: Sequence[TouchedBars],
    batch: Sequence[Series],
    ends: Sequence[Times],
) -> Iterator[None]:
    """The series as `wanted`, and the instants between which rows of each are looked for as `bars`."""
    numbers = np.repeat(np.arange(len(touched), dtype=np.int32), [len(each) for each in ends])
    since = np.concatenate([each.open_times for each in touched])
    bars = _joined(numbers, since, np.concatenate(ends))
    with registered(connection, "wanted", numbered(batch)), registered(connection, "bars", bars):
        yield


def _joined(series_no: NDArray[np.int32], since: Times, until: Times) -> dict[str, NDArray]:
    """Bars that follow one another as one range, so that a long history is one."""
    begins = np.append(True, (series_no[1:] != series_no[:-1]) | (since[1:] != until[:-1]))
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(since)) - 1
    return {"series_no": series_no[starts], "since": since[starts], "until": until[ends]}


def _bounds(touched: Sequence[TouchedBars], ends: Sequence[Times]) -> dict[str, datetime]:
    first = min(each.open_times[0] for each in touched)
    return {"first": first.astype(datetime), "last": max(end[-1] for end in ends).astype(datetime)}


def _calendar(market: Market, bars: TouchedBars) -> Calendar:
    return market.calendar_of(bars.series.instrument)
