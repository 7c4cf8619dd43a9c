"""Splits and dividends as their sources told them, and candles that follow them; raw candles stay as they came.

`adjustments` has one row a split or dividend. The views `adjustment_factors` and `adjusted_candles` follow from it and
from the stored candles, so they cost no space and cannot disagree with either.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.adjustments import Adjustment, Factors
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.export_spec import ADJUSTED_SHAPE
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered, texts, timestamp
from refresh_pipeline.warehouse.ingest import queue_recompute
from refresh_pipeline.warehouse.schema import KEY, PROVENANCE, RESAMPLED, Table, qualified
from refresh_pipeline.warehouse.versions import record_changes

FACTORS, ADJUSTED = "adjustment_factors", "adjusted_candles"
# Columns of raw candles that no split changes.
BESIDE = (*PROVENANCE, *RESAMPLED)

# Of each split or dividend that the stored prices do not follow yet: what it does to candles before it, and that
# together with all later ones. A dividend lowers them by its share of the last close before it.
_FACTORS = """
with events as (
  select s.instrument, s.timeframe, a.ex_time, a.kind, a.value
  from {adjustments} a join {series} s using (instrument) where not a.in_prices
), priced as (
  select e.*, c.close from events e asof left join {candles} c
  on e.instrument = c.instrument and e.timeframe = c.timeframe and e.ex_time > c.open_time
), single as (
  select instrument, timeframe, ex_time,
    product(case when kind = 'split' then 1 / value when value < close then 1 - value / close else 1 end) as price,
    product(case when kind = 'split' then value else 1 end) as volume
  from priced group by all
)
select instrument, timeframe, ex_time,
  product(price) over later as price_factor, product(volume) over later as volume_factor
from single window later as (partition by instrument, timeframe order by ex_time desc)
"""


def store(
    connection: duckdb.DuckDBPyConnection, market: Market, adjustments: Sequence[Adjustment], source: str, now: datetime
) -> int:
    """Store splits and dividends in place of those of the same day; gives how many are new or have another value.

    The candles of their instruments get a new version, as adjusted ones differ from their first on, and the files of
    adjusted candles are due.
    """
    name = market.name
    latest = {(each.instrument, each.ex_time, each.kind): each for each in adjustments}.values()
    rows = {
        "instrument": texts(each.instrument for each in latest),
        "ex_time": np.array([each.ex_time for each in latest], dtype=TIME_UNIT),
        "kind": texts(each.kind.value for each in latest),
        "value": np.array([each.value for each in latest], dtype=np.float64),
        "in_prices": np.array([each.in_prices for each in latest], dtype=bool),
    }
    table = qualified(name, Table.adjustments)
    with registered(connection, "arrived", rows):
        connection.execute(
            f"create temp table changed_adjustments as select * from arrived a anti join {table} "
            "using (instrument, ex_time, kind, value, in_prices)"
        )
    [(count,)] = connection.execute("select count(*) from changed_adjustments").fetchall()
    if count:
        connection.execute(
            f"delete from {table} t using changed_adjustments c "
            "where t.instrument = c.instrument and t.ex_time = c.ex_time and t.kind = c.kind"
        )
        connection.execute(
            f"insert into {table} by name select *, $source as source, $now::timestamp as fetched_at "
            "from changed_adjustments order by instrument, ex_time",
            {"source": source, "now": timestamp(now)},
        )
        connection.execute(
            "create temp table adjusted_series as select instrument, timeframe, first_open_time as since "
            f"from {qualified(name, Table.series)} semi join changed_adjustments using (instrument)"
        )
        record_changes(connection, name, [Table.raw_candles], "adjusted_series")
        if _has_adjusted_files(connection, market):
            queue_recompute(connection, name, [Table.exports], changed="adjusted_series")
        connection.execute("drop table adjusted_series")
    connection.execute("drop table changed_adjustments")
    return count


def _has_adjusted_files(connection: duckdb.DuckDBPyConnection, market: Market) -> bool:
    """Whether the market's YAML asks for files of adjusted candles, or asked for some that are still there.

    Without them a dividend costs no reading of the instrument's whole history.
    """
    if any(export.adjusted for export in market.exports.values()):
        return True
    files = f"select 1 from {qualified(market.name, Table.exports)} where shape like ? limit 1"
    return bool(connection.execute(files, [f"% {ADJUSTED_SHAPE}"]).fetchall())


def factors_of_each(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series]
) -> Mapping[Series, Factors]:
    """What adjusts the candles of each series that has anything to adjust."""
    adjustments = qualified(market, Table.adjustments)
    # Most markets have none; their candles are not read then.
    if not connection.execute(f"select 1 from {adjustments} where not in_prices limit 1").fetchall():
        return {}
    wanted = f"{{}} semi join wanted using (instrument, timeframe) semi join {adjustments} using (instrument)"
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(
            connection,
            "select w.series_no, f.* from ("
            + _FACTORS.format(
                adjustments=adjustments,
                series=f"(select * from {wanted.format(qualified(market, Table.series))})",
                candles=f"(select * from {wanted.format(qualified(market, Table.raw_candles))})",
            )
            + ") f join wanted w using (instrument, timeframe) order by w.series_no, f.ex_time",
        )
    numbers = rows["series_no"]
    return {
        batch[number]: _factors({name: values[numbers == number] for name, values in rows.items()})
        for number in np.unique(numbers).tolist()
    }


def factors_of(connection: duckdb.DuckDBPyConnection, market: str, series: Series) -> Factors:
    """What adjusts the candles of one series."""
    narrowed = "(select * from {} where instrument = $instrument and timeframe = $timeframe)"
    rows = arrays_of(
        connection,
        _FACTORS.format(
            adjustments=qualified(market, Table.adjustments),
            series=narrowed.format(qualified(market, Table.series)),
            candles=narrowed.format(qualified(market, Table.raw_candles)),
        )
        + " order by ex_time",
        {"instrument": series.instrument, "timeframe": series.timeframe.value},
    )
    return _factors(rows)


def _factors(rows: Mapping[str, NDArray]) -> Factors:
    price, volume = (rows[name].astype(np.float64) for name in ("price_factor", "volume_factor"))
    return Factors(rows["ex_time"].astype(TIME_UNIT), price, volume)


def ensure_views(connection: duckdb.DuckDBPyConnection, market: str, candle_columns: Sequence[str]) -> None:
    """Create the views or bring them forward."""
    names = {
        "adjustments": qualified(market, Table.adjustments),
        "series": qualified(market, Table.series),
        "candles": qualified(market, Table.raw_candles),
    }
    columns = ", ".join(
        f"c.{name} * coalesce(f.{'volume' if name == 'volume' else 'price'}_factor, 1) as {name}"
        for name in candle_columns
    )
    wanted = {
        FACTORS: _FACTORS.format(**names),
        ADJUSTED: f"select c.instrument, c.timeframe, c.open_time, {columns}, "
        f"{', '.join(f'c.{name}' for name in BESIDE)} "
        f'from {names["candles"]} c asof left join "{market}".{FACTORS} f on c.instrument = f.instrument '
        "and c.timeframe = f.timeframe and c.open_time < f.ex_time",
    }
    stored = connection.execute(
        "select column_name from duckdb_columns() where schema_name = ? and table_name = ? "
        "and database_name = current_database() order by column_index",
        [market, ADJUSTED],
    ).fetchall()
    if [name for (name,) in stored] == [*KEY, *candle_columns, *BESIDE]:
        return
    for name, statement in wanted.items():
        connection.execute(f'create or replace view "{market}".{name} as {statement}')
