"""What live mode reads and writes: series to begin with, and waves of their newest candles, one transaction each.

A wave is written for those series alone whose stored candles are what memory has: whatever else wrote in the meantime
(a reconciling refresh, a backfill, another live run) wins, and the series is read anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.analytics.bars import Bars, Computation, Values
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Floats, Times, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse import ingest, queries, stored_ranges
from refresh_pipeline.warehouse.arrays import Arrays, arrays_of, numbered, registered, texts, timestamp
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.computed_batch import PendingRecompute
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.incremental import FEEDS, TailRefresh
from refresh_pipeline.warehouse.outcomes import record_appended
from refresh_pipeline.warehouse.schema import KEY, PROVENANCE, Table, columns_of, qualified
from refresh_pipeline.warehouse.versions import record_each
from refresh_pipeline.warehouse.warehouse import Warehouse

_TABLES = (Table.enhanced_candles, Table.indicators)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Series as they are stored: the bars of each computed table, from a checkpoint to the newest candle."""

    series: Sequence[Series]
    enhanced: Bars
    indicators: Bars


@dataclass(frozen=True, slots=True)
class Wave:
    """The newest candle of some series, computed: one row a series in every array, with values as they are stored.

    `count_before` and `last_before` are the stored candles that memory went by: their number, and the newest one's open
    time.
    """

    series: Sequence[Series]
    open_time: Times
    candles: Mapping[str, Floats]
    enhanced: Mapping[str, Values]
    indicators: Mapping[str, Values]
    # Each flag's column, the numbers of the series here, and the open times of the bars that it is set at.
    flags: Sequence[tuple[str, NDArray[np.int64], Times]]
    count_before: NDArray[np.int64]
    last_before: Times
    # The states of each table after the rows at which a checkpoint is due, by the row's number here.
    checkpoints: Mapping[Table, tuple[NDArray[np.int64], Mapping[str, Floats]]]
    # The name of each candle's source.
    sources: Sequence[str]


class LiveStore:
    """One market's warehouse, as live mode uses it."""

    def __init__(self, warehouse: Warehouse, market: Market) -> None:
        """The tables must have been prepared."""
        self._warehouse, self._market = warehouse, market
        self._computations = computations(market)

    def load(self, series: Sequence[Series], begins: int) -> Loaded:
        """Read series that are computed up to their newest candle; others are left out.

        A series with fewer than `begins` candles is read from its first one.
        """
        with (
            self._warehouse.session(self._market.name),
            self._warehouse.get_connection(self._market.name) as connection,
            transaction(connection),
        ):
            pending = self._pending(connection, series)
            parts = [self._bars(pending, table, begins) for table in _TABLES]
        return Loaded(pending.series, *parts)

    def queued(self, series: Sequence[Series]) -> list[Series]:
        """The series of which a computed table is not up to date, or has columns to compute anew."""
        with self._warehouse.get_connection(self._market.name) as connection:
            queued = _queued(connection, self._market, series)
        return [each for each in series if each in queued]

    def write(self, waves: Sequence[Wave], *, run_id: str, now: datetime) -> set[Series]:
        """Write waves in one transaction; gives the series that were not written, as others wrote them meanwhile."""
        with self._warehouse.get_connection(self._market.name) as connection, transaction(connection):
            agreed = _agreed(connection, self._market, waves)
            parts = [part for part in (_of(wave, agreed) for wave in waves) if len(part.series)]
            for part in parts:
                self._write(connection, part, run_id, now)
        return {each for wave in waves for each in wave.series} - agreed

    def _pending(self, connection: duckdb.DuckDBPyConnection, series: Sequence[Series]) -> PendingRecompute:
        queued = _queued(connection, self._market, series)
        stats = queries.series_stats(connection, self._market.name, [each for each in series if each not in queued])
        held = {each: known for each, known in stats.items() if known.candle_count}
        firsts = np.array([known.first_open_time for known in held.values()], dtype=TIME_UNIT)
        lasts = np.array([known.last_open_time for known in held.values()], dtype=TIME_UNIT)
        counts = np.array([known.candle_count for known in held.values()], dtype=np.int64)
        since = (lasts + np.timedelta64(1, "us")).astype(TIME_UNIT)
        return PendingRecompute(list(held), since, texts([None] * len(held)), counts, firsts, lasts)

    def _bars(self, pending: PendingRecompute, table: Table, begins: int) -> Bars:
        refresh = TailRefresh(
            partial(self._warehouse.get_connection, self._market.name),
            self._market.name,
            self._computations[table],
            self._market.calendar,
            self._market.two_sided,
            classes=self._market.classes_of,
        )
        short = pending.candle_count < begins
        since = np.where(short, pending.first_open_time, pending.since)
        return refresh.read_from_checkpoints(replace(pending, since=since))

    def _write(self, connection: duckdb.DuckDBPyConnection, wave: Wave, run_id: str, now: datetime) -> None:
        """Append a wave, whose candles are new: every statement costs milliseconds, so there are few."""
        market = self._market.name
        # The rows whose flags were set lie before the new one.
        flagged_since = wave.open_time.copy()
        for _, members, times in wave.flags:
            np.minimum.at(flagged_since, members, times)
        key = numbered(wave.series, open_time=wave.open_time)
        with registered(connection, "wanted", {**key, "flagged_since": flagged_since}):
            connection.execute("create temp table live_series as select * from wanted")
        self._append_candles(connection, wave, key, now)
        for table, columns in zip(_TABLES, (wave.enhanced, wave.indicators), strict=True):
            carried = wave.candles if self._computations[table].carries_candles else {}
            kinds = columns_of(self._computations[table], self._market.two_sided)
            _append(connection, qualified(market, table), kinds, {**key, **carried, **columns})
        self._set_flags(connection, wave)
        self._keep_checkpoints(connection, wave)
        record_each(connection, market, _CHANGED)
        ingest.queue_recompute(connection, market, FEEDS[Table.indicators], changed="live_series", since="open_time")
        # Those of the computed tables are the reconciling refresh's to write: each costs as much as the rows do.
        record_appended(connection, market, Table.raw_candles.value, "live_series", run_id=run_id, now=timestamp(now))
        connection.execute("drop table live_series")

    def _append_candles(self, connection: duckdb.DuckDBPyConnection, wave: Wave, key: Arrays, now: datetime) -> None:
        kinds = KEY | dict.fromkeys(CANDLE_COLUMNS, "double") | PROVENANCE
        origin = {
            "source": texts(wave.sources),
            "fetched_at": np.full(len(wave.series), instant(now)),
        }
        rows = {**key, **wave.candles, **origin}
        _append(connection, qualified(self._market.name, Table.raw_candles), kinds, rows)
        connection.execute(
            f"update {qualified(self._market.name, Table.series)} s set candle_count = s.candle_count + 1, "
            "last_open_time = w.open_time from live_series w "
            "where s.instrument = w.instrument and s.timeframe = w.timeframe"
        )
        stored_ranges.append(connection, self._market, wave.series, wave.open_time, wave.last_before)

    def _set_flags(self, connection: duckdb.DuckDBPyConnection, wave: Wave) -> None:
        if not wave.flags:
            return
        rows = _by_bar(wave.flags)
        names = list(dict.fromkeys(name for name, _, _ in wave.flags))
        sets = ", ".join(f'"{name}" = if(f."{name}", 1, t."{name}")' for name in names)
        with registered(connection, "staged", rows):
            connection.execute(
                f"update {qualified(self._market.name, Table.enhanced_candles)} t set {sets} from ("
                "select w.instrument, w.timeframe, s.* from staged s join live_series w using (series_no)) f "
                "where t.instrument = f.instrument and t.timeframe = f.timeframe and t.open_time = f.open_time "
                "and t.open_time >= $earliest",
                {"earliest": rows["open_time"].min().astype(datetime)},
            )

    def _keep_checkpoints(self, connection: duckdb.DuckDBPyConnection, wave: Wave) -> None:
        table = qualified(self._market.name, Table.checkpoints)
        for asset, (members, states) in wave.checkpoints.items():
            if not len(members):
                continue
            rows = {
                "series_no": members.astype(np.int32),
                "open_time": wave.open_time[members],
                "candles": wave.count_before[members] + 1,
            }
            rows |= {f"state_{number}": values for number, values in enumerate(states.values())}
            rows = _with_required(self._computations[asset], rows)
            listed = ", ".join(f"n.state_{number}" for number in range(len(states)))
            with registered(connection, "new_checkpoints", rows):
                connection.execute(
                    f"insert into {table} (instrument, timeframe, asset, open_time, candles, state) "
                    f"select w.instrument, w.timeframe, ?, n.open_time, n.candles, [{listed}]::double[] "
                    "from new_checkpoints n join live_series w using (series_no)",
                    [asset.value],
                )


# The changes of a wave as the change feed has them, each asset from its first changed row on.
_CHANGED = f"""(
select w.instrument, w.timeframe, a.asset,
  case a.asset when '{Table.enhanced_candles.value}' then w.flagged_since else w.open_time end as since
from live_series w cross join (select unnest({[table.value for table in (Table.raw_candles, *_TABLES)]}) as asset) a)"""


def _append(connection: duckdb.DuckDBPyConnection, table: str, kinds: Mapping[str, str], rows: Arrays) -> None:
    """Insert one row a series: its key and its columns."""
    listed = ", ".join(f'"{name}"' for name in kinds)
    # In the table's order: each of hundreds of names in a statement takes time.
    with registered(connection, "staged", {name: rows[name] for name in kinds}):
        connection.execute(f"insert into {table} ({listed}) select * from staged")


def _by_bar(flags: Sequence[tuple[str, NDArray[np.int64], Times]]) -> dict[str, NDArray]:
    """One row for each bar that a flag is set at: the number of its series, its open time, and which flags."""
    members = np.concatenate([members for _, members, _ in flags])
    times = np.concatenate([times for _, _, times in flags])
    bars, place = np.unique(np.stack([members, times.astype(np.int64)]), axis=1, return_inverse=True)
    rows = {"series_no": bars[0].astype(np.int32), "open_time": bars[1].astype(TIME_UNIT)}
    begin = 0
    for name, some, _ in flags:
        rows.setdefault(name, np.zeros(bars.shape[1], dtype=bool))[place.ravel()[begin : begin + len(some)]] = True
        begin += len(some)
    return rows


def _with_required(computation: Computation, rows: dict[str, NDArray]) -> dict[str, NDArray]:
    """The checkpoints of which every required state has a value."""
    required = computation.states if computation.required_states is None else computation.required_states
    place = {name: number for number, name in enumerate(computation.states)}
    known = [np.isfinite(rows[f"state_{place[name]}"]) for name in required]
    return {name: values[np.all(known, axis=0)] for name, values in rows.items()} if known else rows


def _queued(connection: duckdb.DuckDBPyConnection, market: Market, series: Sequence[Series]) -> set[Series]:
    assets = [table.value for table in _TABLES]
    with registered(connection, "wanted", numbered(series)):
        rows = arrays_of(
            connection,
            f"select w.series_no from wanted w where {_is_queued(market)}",
            {"assets": assets},
        )
    return {series[number] for number in rows["series_no"].tolist()}


def _agreed(connection: duckdb.DuckDBPyConnection, market: Market, waves: Sequence[Wave]) -> set[Series]:
    """The series whose stored candles are those that the first wave of them went by."""
    first: dict[Series, tuple[int, np.datetime64]] = {}
    for wave in waves:
        for each, count, last in zip(wave.series, wave.count_before.tolist(), wave.last_before, strict=True):
            first.setdefault(each, (count, last))
    batch = list(first)
    counts = np.array([count for count, _ in first.values()], dtype=np.int64)
    lasts = np.array([last for _, last in first.values()], dtype=TIME_UNIT)
    with registered(connection, "wanted", numbered(batch, candle_count=counts, last_open_time=lasts)):
        rows = arrays_of(
            connection,
            f"select w.series_no from wanted w semi join {qualified(market.name, Table.series)} s "
            "using (instrument, timeframe, candle_count, last_open_time) "
            f"where not ({_is_queued(market)})",
            {"assets": [table.value for table in _TABLES]},
        )
    return {batch[number] for number in rows["series_no"].tolist()}


def _is_queued(market: Market) -> str:
    """SQL for whether a series in `wanted w` has something to compute; `$assets` are the computed tables."""
    return (
        f"exists (select 1 from {qualified(market.name, Table.recompute_queue)} q where "
        "list_contains($assets, q.asset) and q.instrument = w.instrument and q.timeframe = w.timeframe) or "
        f"exists (select 1 from {qualified(market.name, Table.column_queue)} q where q.instrument = w.instrument "
        "and q.timeframe = w.timeframe)"
    )


def _of(wave: Wave, series: set[Series]) -> Wave:
    """The part of a wave that is of these series."""
    chosen = np.array([each in series for each in wave.series], dtype=bool)
    if chosen.all():
        return wave
    place = np.cumsum(chosen) - 1
    flags = [(name, place[members[chosen[members]]], times[chosen[members]]) for name, members, times in wave.flags]
    return Wave(
        [each for each, taken in zip(wave.series, chosen, strict=True) if taken],
        wave.open_time[chosen],
        {name: values[chosen] for name, values in wave.candles.items()},
        {name: values[chosen] for name, values in wave.enhanced.items()},
        {name: values[chosen] for name, values in wave.indicators.items()},
        [flag for flag in flags if len(flag[1])],
        wave.count_before[chosen],
        wave.last_before[chosen],
        {
            table: (
                place[members[chosen[members]]],
                {name: values[chosen[members]] for name, values in states.items()},
            )
            for table, (members, states) in wave.checkpoints.items()
        },
        [source for source, taken in zip(wave.sources, chosen, strict=True) if taken],
    )
