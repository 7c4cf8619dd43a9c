"""Which candles are missing and how complete each series is: the stored ranges held against the calendars.

The tables `gaps` and `completeness` say so as of the last refresh. Commands, checks and sensors ask the functions here,
as of their instant and without writing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import TIME_UNIT, Times, instant
from refresh_pipeline.market.freshness import allowed_delay
from refresh_pipeline.market.gaps import (
    MICROSECOND,
    Coverage,
    Gap,
    MissingRanges,
    Place,
    Stretch,
    closed_end,
    missing_ranges,
    stored_counts,
)
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered
from refresh_pipeline.warehouse.schema import Table, qualified
from refresh_pipeline.warehouse.stored_ranges import (
    ALL_TABLES,
    SeriesBounds,
    bounds_of,
    groups,
    present_tables,
    read,
    within,
)

Stretches = Mapping[Series, tuple[np.datetime64, np.datetime64]]


@dataclass(frozen=True, slots=True)
class _Missing:
    """What is missing of a batch of series: a row a gap, and three numbers a series."""

    batch: Sequence[Series]
    rows: dict[str, NDArray]
    expected: NDArray[np.int64]
    stored: NDArray[np.int64]
    since: Times
    # Whether the file says what the source does not have.
    has_answers: bool

    def where(self, chosen: NDArray[np.bool_]) -> dict[str, NDArray]:
        return {name: values[chosen] for name, values in self.rows.items()}


def gaps(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> list[Gap]:
    """Every gap at `now`, series by series in the market's order, oldest first."""
    return gaps_and_coverage(connection, market, now)[0]


def coverage(
    connection: duckdb.DuckDBPyConnection, market: Market, now: datetime, batch: Sequence[Series] | None = None
) -> dict[Series, Coverage]:
    """How many candles are expected and stored of each series at `now`; nothing where none is due yet."""
    tables = present_tables(connection, market.name)
    return _as_coverage(_missing(connection, market, market.series if batch is None else batch, now, tables))


def gaps_and_coverage(
    connection: duckdb.DuckDBPyConnection, market: Market, now: datetime
) -> tuple[list[Gap], dict[Series, Coverage]]:
    """`gaps` and `coverage` of all series from one look."""
    missing = _missing(connection, market, market.series, now, present_tables(connection, market.name))
    return _as_gaps(missing.batch, _with_answers(connection, market, missing)), _as_coverage(missing)


def missing_between(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    since: Mapping[Series, np.datetime64],
    until: np.datetime64,
    now: datetime,
) -> dict[Series, list[Stretch]]:
    """The gaps of each series among the bars that open from `since` to `until` (excluded) and have closed at `now`."""
    batch, begins = list(since), np.array(list(since.values()), dtype=TIME_UNIT)
    ranges = read(connection, market, batch, bounds_of(connection, market, batch))
    gaps: dict[Series, list[Stretch]] = {series: [] for series in batch}
    for group in groups(market, batch):
        end = min(until, closed_end(group.calendar, group.timeframe, instant(now)))
        own, firsts = within(group, ranges, len(batch)), np.minimum(begins[group.numbers], end)
        missing = missing_ranges(group.calendar, group.timeframe, own, firsts, end)
        ends = np.minimum(group.calendar.closes(group.timeframe, missing.last), end)
        for number, *stretch in zip(
            group.numbers[missing.series_no], missing.first, ends, missing.candles.tolist(), strict=True
        ):
            gaps[batch[number]].append(Stretch(*stretch))
    return gaps


def write_gaps(connection: duckdb.DuckDBPyConnection, market: Market, now: datetime) -> None:
    """Write the tables `gaps` and `completeness` as of `now`; rows that stay as they are are not touched."""
    missing = _missing(connection, market, market.series, now, ALL_TABLES)
    names = numbered(market.series)
    rows = _named(market.series, _with_answers(connection, market, missing))
    del rows["series_no"]
    _put(connection, qualified(market.name, Table.gaps), rows)
    due = missing.expected > 0
    counts = {
        **{name: names[name] for name in ("instrument", "timeframe")},
        "expected": missing.expected,
        "stored": missing.stored,
        "completeness": missing.stored / np.maximum(missing.expected, 1),
        "expected_since": missing.since,
        "as_of": np.full(len(due), instant(now)),
    }
    _put(connection, qualified(market.name, Table.completeness), {k: values[due] for k, values in counts.items()})


def _put(connection: duckdb.DuckDBPyConnection, table: str, rows: Mapping[str, NDArray]) -> None:
    """Let a table hold just these rows."""
    columns = ", ".join(rows)
    with registered(connection, "fresh", rows):
        differing = connection.execute(
            f"(select {columns} from fresh except select {columns} from {table}) "
            f"union all (select {columns} from {table} except select {columns} from fresh) limit 1"
        ).fetchall()
        if differing:
            connection.execute(f"delete from {table}")
            connection.execute(f"insert into {table} by name select * from fresh")


def _missing(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    batch: Sequence[Series],
    now: datetime,
    tables: frozenset[str],
) -> _Missing:
    bounds = bounds_of(connection, market, batch, tables)
    ranges = read(connection, market, batch, bounds, tables)
    due, closed = instant(now - allowed_delay(market.timeframes)), instant(now)
    expected, stored = (np.zeros(len(batch), dtype=np.int64) for _ in range(2))
    since = np.full(len(batch), np.datetime64("NaT"), dtype=TIME_UNIT)
    parts: list[MissingRanges] = []
    for group in groups(market, batch):
        begin = market.calendar.floor(group.timeframe, np.array([instant(now - market.history[group.timeframe])]))
        # As far back as a first refresh would go, or as the oldest stored candle; of a static market as that candle.
        firsts, lasts = bounds.first[group.numbers], bounds.last[group.numbers]
        since[group.numbers] = np.where(np.isnat(firsts) | (not market.static), np.fmin(begin, firsts), firsts)
        end, newest = (
            group.calendar.last_closed(group.timeframe, group.calendar.known_end(until)) + MICROSECOND
            for until in (due, closed)
        )
        own = within(group, ranges, len(batch))
        part = missing_ranges(group.calendar, group.timeframe, own, since[group.numbers], end)
        part = part.without_end(lasts) if market.static else part
        # A candle is expected once it is due, or once it is stored: what came early counts on both sides.
        early = stored_counts(group.calendar, group.timeframe, own, np.full(len(lasts), end), newest)
        expected[group.numbers], stored[group.numbers] = part.expected + early, part.stored + early
        parts.append(part.renumbered(group.numbers))
    return _Missing(batch, _rows(parts, bounds), expected, stored, since, Table.confirmed_gaps.value in tables)


def _rows(parts: Sequence[MissingRanges], bounds: SeriesBounds) -> dict[str, NDArray]:
    columns = {"series_no": "series_no", "first_open_time": "first", "last_open_time": "last", "candles": "candles"}
    every = {name: np.concatenate([getattr(part, of) for part in parts]) for name, of in columns.items()}
    order = np.lexsort((every["first_open_time"], every["series_no"]))
    rows = {name: values[order] for name, values in every.items()}
    numbers = rows["series_no"]
    places = [bounds.counts[numbers] == 0, rows["last_open_time"] < bounds.first[numbers],
              rows["first_open_time"] > bounds.last[numbers]]  # fmt: skip
    names = [place.value for place in (Place.whole, Place.beginning, Place.end)]
    return {**rows, "place": np.select(places, names, default=Place.middle.value).astype(object)}


def _with_answers(connection: duckdb.DuckDBPyConnection, market: Market, missing: _Missing) -> dict[str, NDArray]:
    """The gaps, and when the source was asked for a range that holds the whole of each and had nothing."""
    rows, count = missing.rows, len(missing.rows["series_no"])
    asked = {name: np.full(count, np.datetime64("NaT"), dtype=TIME_UNIT) for name in ("first_asked_at", "asked_at")}
    if count and missing.has_answers:
        with registered(connection, "lacking", {**_named(missing.batch, rows), "row": np.arange(count)}):
            answers = arrays_of(connection, _ANSWERS.format(confirmed_gaps=_confirmed(market)))
        for name, values in asked.items():
            values[answers["row"]] = answers[name]
    return {**rows, **asked}


def _named(batch: Sequence[Series], rows: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Gaps with the names of their series: a join of two has one order, whatever an engine takes for their sizes."""
    names, numbers = numbered(batch), rows["series_no"]
    return {**rows, **{name: names[name][numbers] for name in ("instrument", "timeframe")}}


_ANSWERS = """
select l.row, min(c.first_asked_at) as first_asked_at, max(c.asked_at) as asked_at
from lacking l
join {confirmed_gaps} c on c.instrument = l.instrument and c.timeframe = l.timeframe
  and c.first_open_time <= l.first_open_time and c.last_open_time >= l.last_open_time
group by l.row
"""


def _as_gaps(batch: Sequence[Series], rows: Mapping[str, NDArray]) -> list[Gap]:
    fields = ("first_open_time", "last_open_time", "candles", "place", "first_asked_at", "asked_at")
    first, last, candles, place, first_asked_at, asked_at = (rows[name] for name in fields)
    values = zip(
        rows["series_no"].tolist(), first, last, candles.tolist(), place.tolist(), first_asked_at, asked_at, strict=True
    )
    return [
        Gap(batch[number], since, until, count, Place(where), _utc(began), _utc(ended))
        for number, since, until, count, where, began, ended in values
    ]


def _utc(time: np.datetime64) -> datetime | None:
    return None if np.isnat(time) else time.astype(datetime).replace(tzinfo=UTC)


def _as_coverage(missing: _Missing) -> dict[Series, Coverage]:
    counts = zip(missing.batch, missing.expected.tolist(), missing.stored.tolist(), strict=True)
    return {series: Coverage(series, expected, stored) for series, expected, stored in counts if expected}


# ---- what the source does not have


def record_empty_ranges(connection: duckdb.DuckDBPyConnection, market: Market, asked: Stretches, now: datetime) -> None:
    """Record the gaps that lie wholly within what the source was asked for: it has nothing for them.

    A range that was empty before keeps the instant at which it was first asked for; what was filled is forgotten.
    """
    batch = [series for series in asked if series in set(market.series)]
    missing = _missing(connection, market, batch, now, ALL_TABLES)
    since, until = (np.array([asked[series][side] for series in batch], dtype=TIME_UNIT) for side in (0, 1))
    numbers = missing.rows["series_no"]
    inside = missing.rows["first_open_time"] >= since[numbers]
    inside &= missing.rows["last_open_time"] < until[numbers]
    values = {"now": instant(now).astype(datetime)}
    with (
        registered(connection, "wanted", numbered(batch, since=since, until=until)),
        registered(connection, "lacking", _named(batch, missing.where(inside))),
    ):
        for statement in (_EMPTY, _FORGET, _CONFIRM, "drop table empty_ranges"):
            text = statement.format(confirmed_gaps=_confirmed(market))
            connection.execute(text, values if "$now" in text else None)


def _confirmed(market: Market) -> str:
    return qualified(market.name, Table.confirmed_gaps)


# A gap at the beginning gets shorter as the history moves on: what the source did not have holds for its parts.
_EMPTY = """
create temp table empty_ranges as
select l.instrument, l.timeframe, l.first_open_time, l.last_open_time, any_value(l.candles) as candles,
  coalesce(max(c.asks), 0) + 1 as asks,
  least(coalesce(min(c.first_asked_at), $now), $now) as first_asked_at, $now as asked_at
from lacking l
left join {confirmed_gaps} c on c.instrument = l.instrument and c.timeframe = l.timeframe
  and c.first_open_time <= l.first_open_time and c.last_open_time >= l.last_open_time
group by l.instrument, l.timeframe, l.first_open_time, l.last_open_time
"""

_FORGET = """
delete from {confirmed_gaps} c using wanted w
where c.instrument = w.instrument and c.timeframe = w.timeframe
  and (c.first_open_time >= w.since and c.last_open_time < w.until or exists (
    select 1 from empty_ranges e where e.instrument = c.instrument and e.timeframe = c.timeframe
      and c.first_open_time <= e.first_open_time and c.last_open_time >= e.last_open_time))
"""

_CONFIRM = "insert into {confirmed_gaps} by name select * from empty_ranges"
