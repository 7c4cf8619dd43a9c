"""Which venue, under which symbol, the stored candles of each series come from; one row a series and listed source.

A series without stored candles has no origin yet: whatever the YAML names is recorded when it is fetched.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import duckdb
import numpy as np

from refresh_pipeline.market.candles import Candles
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources.origins import Origin, difference
from refresh_pipeline.warehouse.arrays import arrays_of, numbered, registered, texts, timestamp
from refresh_pipeline.warehouse.schema import Table, qualified

Origins = Mapping[Series, tuple[Origin, ...]]


def settle(connection: duckdb.DuckDBPyConnection, market: str, named: Origins, now: datetime) -> dict[Series, str]:
    """The series whose stored candles come from elsewhere than the YAML names, with both in words.

    The origins of all other series are recorded, in the open transaction.
    """
    stored = _stored(connection, market, named)
    changed = {series: difference(stored.get(series, ()), origins) for series, origins in named.items()}
    new = {s: origins for s, origins in named.items() if not changed[s] and {*stored.get(s, ())} != {*origins}}
    if new:
        _record(connection, market, new, now)
    return {series: text for series, text in changed.items() if text}


def _stored(connection: duckdb.DuckDBPyConnection, market: str, batch: Origins) -> dict[Series, tuple[Origin, ...]]:
    series = list(batch)
    with registered(connection, "wanted", numbered(series)):
        rows = arrays_of(
            connection,
            "select w.series_no, o.venue, o.symbol, o.made_from from wanted w "
            f"join {qualified(market, Table.series_sources)} o using (instrument, timeframe) "
            f"semi join {qualified(market, Table.series)} s "
            "on s.instrument = w.instrument and s.timeframe = w.timeframe order by w.series_no, o.rank",
        )
    stored: dict[Series, tuple[Origin, ...]] = {}
    for number, venue, symbol, base in zip(*(values.tolist() for values in rows.values()), strict=True):
        origin = Origin(venue, symbol, Timeframe(base) if base else None)
        stored[series[number]] = (*stored.get(series[number], ()), origin)
    return stored


def bases(connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series]) -> dict[Series, Series]:
    """The series that the preferred source is asked for, of each series of the batch that it does not serve."""
    rows = connection.execute(
        f"select instrument, timeframe, made_from from {qualified(market, Table.series_sources)} "
        "where rank = 0 and made_from is not null"
    ).fetchall()
    made = {Series(name, Timeframe(longer)): Series(name, Timeframe(base)) for name, longer, base in rows}
    return {series: made[series] for series in batch if series in made}


def derived_timeframes(connection: duckdb.DuckDBPyConnection, market: str) -> dict[Timeframe, list[Timeframe]]:
    """The timeframes that the preferred sources do not serve, by the timeframe that they are made from."""
    rows = connection.execute(
        f"select distinct made_from, timeframe from {qualified(market, Table.series_sources)} "
        "where rank = 0 and made_from is not null order by all"
    ).fetchall()
    derived: dict[Timeframe, list[Timeframe]] = {}
    for base, timeframe in rows:
        derived.setdefault(Timeframe(base), []).append(Timeframe(timeframe))
    return derived


def _record(connection: duckdb.DuckDBPyConnection, market: str, named: Origins, now: datetime) -> None:
    table = qualified(market, Table.series_sources)
    rows = [(series, rank, origin) for series, origins in named.items() for rank, origin in enumerate(origins)]
    columns = {
        "rank": np.array([rank for _, rank, _ in rows], dtype=np.int32),
        "venue": texts(origin.venue for *_, origin in rows),
        "symbol": texts(origin.symbol for *_, origin in rows),
        "made_from": texts(origin.made_from and origin.made_from.value for *_, origin in rows),
    }
    with registered(connection, "origins", numbered([series for series, *_ in rows], **columns)):
        connection.execute(
            f"delete from {table} t using origins o where t.instrument = o.instrument and t.timeframe = o.timeframe"
        )
        connection.execute(
            f"insert into {table} by name select * exclude (series_no), $now::timestamp as recorded_at from origins",
            {"now": timestamp(now)},
        )


def by_source(
    connection: duckdb.DuckDBPyConnection, market: str, arrivals: Mapping[Series, Candles]
) -> dict[str, dict[Series, Candles]]:
    """Candles that are made again, by the source of the newest stored candle of their series."""
    with registered(connection, "wanted", numbered(list(arrivals))):
        rows = connection.execute(
            f"select w.series_no, max_by(r.source, r.open_time) from wanted w "
            f"join {qualified(market, Table.raw_candles)} r using (instrument, timeframe) group by all"
        ).fetchall()
    groups: dict[str, dict[Series, Candles]] = {}
    for number, source in rows:
        series = list(arrivals)[number]
        groups.setdefault(source, {})[series] = arrivals[series]
    return groups
