"""Storing what a source sent: late corrections win and leave the old value on record, bad candles are set aside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import CANDLE_COLUMNS, MALFORMED, Candles, Malformed, faults, instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.schema import Table, qualified
from refresh_pipeline.warehouse.staging import Arrays, arrays_of, numbered, registered, text_or_null


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one series' arrivals."""

    added: int = 0
    revised: int = 0
    rejected: int = 0

    def __add__(self, other: "Stored") -> "Stored":
        return Stored(self.added + other.added, self.revised + other.revised, self.rejected + other.rejected)


@dataclass(frozen=True, slots=True)
class Staged:
    """Arrivals of many series behind one another, each candle once, with the reason why it must not be stored."""

    series: Sequence[Series]
    rows: Arrays
    malformed: Sequence[tuple[Series, Malformed]]

    @classmethod
    def of(cls, arrivals: Mapping[Series, Candles], columns: Sequence[str]) -> "Staged":
        """Stack, keep the last of several with the same open_time, and look for faults, all series at once."""
        series = list(arrivals)
        counts = np.array([len(candles) for candles in arrivals.values()], dtype=np.int64)
        series_no = np.repeat(np.arange(len(series), dtype=np.int32), counts)
        stacked = Candles.concatenated([_with_columns(candles, columns) for candles in arrivals.values()])
        keep = _last_of_each(series_no, stacked.open_time)
        series_no, stacked = series_no[keep], stacked.where(keep)
        rows = {
            "series_no": series_no,
            "open_time": stacked.open_time,
            **stacked.columns,
            "reason": faults(stacked, series_no),
        }
        malformed = [(each, row) for each, candles in arrivals.items() for row in candles.malformed]
        return cls(series, rows, malformed)


def _with_columns(candles: Candles, columns: Sequence[str]) -> Candles:
    unknown = np.full(len(candles), np.nan)
    return Candles(candles.open_time, {name: candles.columns.get(name, unknown) for name in columns})


def _last_of_each(series_no: NDArray[np.int32], open_time: NDArray[np.datetime64]) -> NDArray[np.int64]:
    order = np.lexsort((open_time, series_no))
    ordered_no, ordered_time = series_no[order], open_time[order]
    same_as_next = (ordered_no[1:] == ordered_no[:-1]) & (ordered_time[1:] == ordered_time[:-1])
    return order[np.append(~same_as_next, True)] if len(order) else order


def store(
    connection: duckdb.DuckDBPyConnection, market: str, staged: Staged, source: str, now: datetime
) -> dict[Series, Stored]:
    """Write arrivals inside the transaction that is open, and note what became stale.

    A candle that is there already with the same numbers is left alone, its fetched_at too.
    """
    columns = [name for name in staged.rows if name not in ("series_no", "open_time", "reason")]
    with registered(connection, "staged", staged.rows), registered(connection, "wanted", numbered(staged.series)):
        connection.execute(_ARRIVING.format(raw=qualified(market, Table.raw_candles), **_lists(columns)))
        at = {"now": instant(now).astype(datetime), "source": source}
        for statement in (_REVISIONS, _REPLACED, _INSERT, _REJECT, _SERIES_STALE):
            _run(connection, statement, market, columns, at)
        changed = _counted(connection, staged.series)
        _update_series(connection, market)
        connection.execute("drop table arriving")
    for series, row in staged.malformed:
        changed[series] += Stored(rejected=_reject_malformed(connection, market, series, row, at))
    return changed


def _lists(columns: Sequence[str]) -> dict[str, str]:
    return {
        "columns": ", ".join(f'"{name}"' for name in columns),
        "values": ", ".join(f'{text_or_null(name)} as "{name}"' for name in columns),
        "old": ", ".join(f'r."{name}"' for name in columns),
        "differs": " or ".join(f'a."{name}" is distinct from r."{name}"' for name in columns),
    }


def _run(
    connection: duckdb.DuckDBPyConnection, statement: str, market: str, columns: Sequence[str], at: Mapping[str, object]
) -> None:
    tables = {table.value: qualified(market, table) for table in Table}
    text = statement.format(**tables, candle_list=", ".join(CANDLE_COLUMNS), **_lists(columns))
    connection.execute(text, {name: value for name, value in at.items() if f"${name}" in text})


# One look at what is stored decides, for every arriving candle, whether it is new, another value, or nothing new. The
# bound on time lets DuckDB skip all row groups but the newest.
_ARRIVING = """
create temp table arriving as
with a as (select w.instrument, w.timeframe, s.series_no, s.open_time, s.reason, {values}
           from staged s join wanted w using (series_no)),
     r as (select * from {raw} where open_time between (select min(open_time) from staged)
                                                   and (select max(open_time) from staged))
select a.*, r.open_time is null as is_new, r.open_time is not null and ({differs}) as is_revised
from a left join r on a.instrument = r.instrument and a.timeframe = r.timeframe and a.open_time = r.open_time
"""

_REVISIONS = """
insert into {raw_candle_revisions} (instrument, timeframe, open_time, {columns}, source, fetched_at, replaced_at)
select r.instrument, r.timeframe, r.open_time, {old}, r.source, r.fetched_at, $now
from {raw_candles} r join arriving a using (instrument, timeframe, open_time)
where a.reason is null and a.is_revised
"""

_REPLACED = """
delete from {raw_candles} r using arriving a
where r.instrument = a.instrument and r.timeframe = a.timeframe and r.open_time = a.open_time
  and a.reason is null and a.is_revised
"""

_INSERT = """
insert into {raw_candles} (instrument, timeframe, open_time, {columns}, source, fetched_at)
select instrument, timeframe, open_time, {columns}, $source, $now from arriving
where reason is null and (is_new or is_revised)
order by open_time, instrument, timeframe
"""

# The same bad candle sent again at every refresh is one row, not many.
_REJECT = """
insert into {rejected_candles} (instrument, timeframe, open_time, {candle_list}, reason, source, rejected_at)
select instrument, timeframe, open_time, {candle_list}, reason, $source, $now from arriving a
where reason is not null and not exists (
  select 1 from {rejected_candles} x
  where x.instrument = a.instrument and x.timeframe = a.timeframe and x.open_time = a.open_time
    and x.reason = a.reason and x.open is not distinct from a.open and x.high is not distinct from a.high
    and x.low is not distinct from a.low and x.close is not distinct from a.close)
"""

_SERIES_STALE = """
create temp table touched as
select series_no, instrument, timeframe, min(open_time) as since, max(open_time) as until,
       count(*) filter (is_new) as added
from arriving where reason is null and (is_new or is_revised) group by all
"""


def _counted(connection: duckdb.DuckDBPyConnection, series: Sequence[Series]) -> dict[Series, Stored]:
    rows = arrays_of(
        connection,
        "select series_no, count(*) filter (reason is null and is_new) as added, "
        "count(*) filter (reason is null and is_revised) as revised, "
        "count(*) filter (reason is not null) as rejected from arriving group by series_no",
    )
    found = zip(*(rows[name].tolist() for name in ("series_no", "added", "revised", "rejected")), strict=True)
    counts = {number: Stored(added, revised, rejected) for number, added, revised, rejected in found}
    return {each: counts.get(number, Stored()) for number, each in enumerate(series)}


def _update_series(connection: duckdb.DuckDBPyConnection, market: str) -> None:
    series = qualified(market, Table.series)
    connection.execute(
        "create temp table grown as "
        "select t.instrument, t.timeframe, coalesce(s.candle_count, 0) + t.added as candle_count, "
        "least(s.first_open_time, t.since) as first_open_time, greatest(s.last_open_time, t.until) as last_open_time "
        f"from touched t left join {series} s using (instrument, timeframe)"
    )
    connection.execute(
        f"delete from {series} s using grown g where s.instrument = g.instrument and s.timeframe = g.timeframe"
    )
    connection.execute(f"insert into {series} by name select * from grown")
    mark_stale(connection, market, Table.enhanced_candles)
    connection.execute("drop table grown")
    connection.execute("drop table touched")


def mark_stale(connection: duckdb.DuckDBPyConnection, market: str, asset: Table) -> None:
    """Note, for each series in the temporary table `touched`, from which candle on an asset must be made again."""
    stale = qualified(market, Table.stale)
    connection.execute(
        "create temp table marked as "
        "select t.instrument, t.timeframe, $asset as asset, least(s.since, t.since) as since, "
        "coalesce(s.changes, 0) + 1 as changes "
        f"from touched t left join {stale} s on s.asset = $asset "
        "and s.instrument = t.instrument and s.timeframe = t.timeframe",
        {"asset": asset.value},
    )
    connection.execute(
        f"delete from {stale} s using marked m "
        "where s.asset = m.asset and s.instrument = m.instrument and s.timeframe = m.timeframe"
    )
    connection.execute(f"insert into {stale} by name select * from marked")
    connection.execute("drop table marked")


def _reject_malformed(
    connection: duckdb.DuckDBPyConnection, market: str, series: Series, row: Malformed, at: Mapping[str, object]
) -> int:
    rejected = qualified(market, Table.rejected_candles)
    key = {"instrument": series.instrument, "timeframe": series.timeframe.value, "received": row.text}
    known = connection.execute(
        f"select 1 from {rejected} where instrument = $instrument and timeframe = $timeframe "
        "and received = $received limit 1",
        key,
    ).fetchall()
    if not known:
        connection.execute(
            f"insert into {rejected} (instrument, timeframe, reason, received, source, rejected_at) "
            "values ($instrument, $timeframe, $reason, $received, $source, $now)",
            key | {"reason": f"{MALFORMED}: {row.reason}"} | dict(at),
        )
    return 1
