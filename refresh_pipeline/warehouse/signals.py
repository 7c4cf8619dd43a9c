"""Signals of Bill Williams' methods as events: the bar on which each happened, and the bar whose close made it known.

Signals follow from the enhanced candles and take no space: `<market>.signals` is a view, and the newest signals are one
query over the newest bars. The columns themselves are defined in `analytics.enhanced_candles`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.arrays import BEGINNING, END, registered, texts
from refresh_pipeline.warehouse.compute_on_read import computed_columns, expired_stretch
from refresh_pipeline.warehouse.queries import has_tables
from refresh_pipeline.warehouse.schema import Table, qualified

VIEW = "signals"
# Bars of each series in which its newest signals are looked for.
NEWEST_BARS = 300
# Weekends and holidays without a bar.
QUIET = timedelta(days=5)


@dataclass(frozen=True, slots=True)
class Rule:
    """One signal in SQL: its kind, its direction, when it is there, and how many bars later it is known."""

    kind: str
    direction: str
    condition: str
    known_later: int = 0


# `zone_before` is the zone_signal of the bar before.
RULES = (
    Rule("fractal", "up", "fractal_up_2 = 1", 2),
    Rule("fractal", "down", "fractal_down_2 = 1", 2),
    Rule("divergent", "buy", "divergent = 1"),
    Rule("divergent", "sell", "divergent = -1"),
    Rule("zone_change", "buy", "zone_signal = 1 and zone_before <> 1"),
    Rule("zone_change", "sell", "zone_signal = -1 and zone_before <> -1"),
    Rule("saucer", "buy", "saucer_buy = 1"),
    Rule("saucer", "sell", "saucer_sell = 1"),
    Rule("zero_cross", "buy", "zero_cross = 1"),
    Rule("zero_cross", "sell", "zero_cross = -1"),
    Rule("squat", "squat", "mfi_squat = 1"),
)
STATE = ("close", "mouth_direction", "mouth_phase", "zone")
FLAGS = (
    "fractal_up_2",
    "fractal_down_2",
    "divergent",
    "zone_signal",
    "saucer_buy",
    "saucer_sell",
    "zero_cross",
    "mfi_squat",
)
VIEW_COLUMNS = ("instrument", "timeframe", "open_time", "kind", "direction", "known_at", "close")


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal of a series; `known_at` is the open time of the bar whose close made it known, None before that."""

    kind: str
    direction: str
    open_time: datetime
    known_at: datetime | None


@dataclass(frozen=True, slots=True)
class SeriesSignals:
    """The state of a series at its newest bar, and its newest signal of each kind within NEWEST_BARS bars."""

    series: Series
    open_time: datetime
    close: float
    mouth_direction: str | None
    mouth_phase: str | None
    zone: str | None
    newest: dict[str, Signal] = field(default_factory=dict)


def ensure_signals_view(connection: duckdb.DuckDBPyConnection, market: str) -> None:
    """Create the view `<market>.signals`, a row for each signal, or bring it forward."""
    rows = connection.execute(
        "select column_name from duckdb_columns() where schema_name = ? and table_name = ? "
        "and database_name = current_database() order by column_index",
        [market, VIEW],
    ).fetchall()
    if tuple(row[0] for row in rows) != VIEW_COLUMNS:
        table = qualified(market, Table.enhanced_candles)
        connection.execute(f'create or replace view "{market}".{VIEW} as {_events(table)}')


def newest_signals(
    connection: duckdb.DuckDBPyConnection, market: Market, timeframe: Timeframe, instruments: Sequence[str]
) -> list[SeriesSignals]:
    """The newest signals of these instruments on one timeframe, in their order; series without candles are left out."""
    if not has_tables(connection, market.name) or not instruments:
        return []
    given: dict[str, object] = {"timeframe": timeframe.value, "instruments": list(instruments)}
    since = _since(connection, market.name, timeframe, given)
    if since is None:
        return []
    given["since"] = since
    with _newest_bars(connection, market, timeframe, instruments, given) as bars:
        states = connection.execute(
            f"select instrument, max(open_time), {', '.join(f'arg_max({name}, open_time)' for name in STATE)} "
            f"from {bars} group by instrument",
            given,
        ).fetchall()
        events = connection.execute(
            "select instrument, kind, arg_max(direction, open_time), max(open_time), arg_max(known_at, open_time) "
            f"from ({_events(bars)}) group by instrument, kind",
            given,
        ).fetchall()
    return _by_series(timeframe, instruments, states, events)


@contextmanager
def _newest_bars(
    connection: duckdb.DuckDBPyConnection,
    market: Market,
    timeframe: Timeframe,
    instruments: Sequence[str],
    given: Mapping[str, object],
) -> Iterator[str]:
    """SQL for the bars from `since` on; of a series with few stored ones, those that have expired are computed."""
    listed = ", ".join((*STATE, *FLAGS))
    stored = (
        f"select instrument, timeframe, open_time, {listed} from {qualified(market.name, Table.enhanced_candles)} "
        "where timeframe = $timeframe and instrument in (select unnest($instruments)) and open_time >= $since"
    )
    counts: dict[str, int] = dict(
        connection.execute(f"select instrument, count(*) from ({stored}) group by all", given).fetchall()
    )
    few = [name for name in instruments if counts.get(name, 0) < NEWEST_BARS]
    candles = _candle_counts(connection, market.name, timeframe, few)
    for name in _never_computed(connection, market.name, timeframe, [each for each in few if each not in counts]):
        candles.pop(name, None)
    # Where as many are stored as there are candles, none has expired: asking for each series costs 9 ms.
    few = [Series(name, timeframe) for name in few if candles.get(name, 0) > counts.get(name, 0)]
    parts = [part for series in few for part in _expired_bars(connection, market, series)]
    if not parts:
        yield f"({stored})"
        return
    expired = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    with registered(connection, "expired_bars", expired):
        yield f"({stored} union all by name from expired_bars)"


def _candle_counts(
    connection: duckdb.DuckDBPyConnection, market: str, timeframe: Timeframe, instruments: Sequence[str]
) -> dict[str, int]:
    rows = connection.execute(
        f"select instrument, candle_count from {qualified(market, Table.series)} "
        "where timeframe = $timeframe and instrument in (select unnest($instruments))",
        {"timeframe": timeframe.value, "instruments": list(instruments)},
    ).fetchall()
    return dict(rows)


def _never_computed(
    connection: duckdb.DuckDBPyConnection, market: str, timeframe: Timeframe, without_rows: Sequence[str]
) -> list[str]:
    """Those of the instruments without a row that wait for a refresh to compute them: it does so for all at once."""
    rows = connection.execute(
        f"select instrument from {qualified(market, Table.recompute_queue)} where asset = $asset "
        "and timeframe = $timeframe and instrument in (select unnest($instruments))",
        {"asset": Table.enhanced_candles.value, "timeframe": timeframe.value, "instruments": list(without_rows)},
    ).fetchall()
    return [name for (name,) in rows]


def _expired_bars(
    connection: duckdb.DuckDBPyConnection, market: Market, series: Series
) -> Iterator[dict[str, NDArray]]:
    table = Table.enhanced_candles
    if series.timeframe not in market.indicators.keep:
        return
    bounds = expired_stretch(connection, market.name, table, series, (BEGINNING, END), newest=NEWEST_BARS)
    if bounds is not None:
        found = computed_columns(lambda: nullcontext(connection), market, {table: (*STATE, *FLAGS)}, series, bounds)
        count = len(found[table, "open_time"])
        keys = {"instrument": texts([series.instrument] * count), "timeframe": texts([series.timeframe.value] * count)}
        yield keys | {name: values for (_, name), values in found.items()}


def _by_series(
    timeframe: Timeframe, instruments: Sequence[str], states: list[tuple], events: list[tuple]
) -> list[SeriesSignals]:
    by_instrument = {row[0]: SeriesSignals(Series(row[0], timeframe), *row[1:]) for row in states}
    for instrument, *signal in events:
        by_instrument[instrument].newest[signal[0]] = Signal(*signal)
    return [by_instrument[instrument] for instrument in instruments if instrument in by_instrument]


def _since(
    connection: duckdb.DuckDBPyConnection, market: str, timeframe: Timeframe, given: dict[str, object]
) -> datetime | None:
    """The instant from which the newest bars of the series that is furthest behind are read, bounded by the newest."""
    [(newest,)] = connection.execute(
        f"select max(last_open_time) from {qualified(market, Table.series)} "
        "where timeframe = $timeframe and instrument in (select unnest($instruments)) and candle_count > 0",
        given,
    ).fetchall()
    return None if newest is None else newest - NEWEST_BARS * timedelta(minutes=timeframe.minutes) - QUIET


def _events(table: str) -> str:
    """SQL for a row for each signal. One scan with a list of rules is planned in half the time of a union of them."""
    later = {rule.known_later for rule in RULES if rule.known_later}
    known = "".join(f", lead(open_time, {bars}) over series as known_{bars}" for bars in sorted(later))
    bars = (
        f"select instrument, timeframe, open_time, close, {', '.join(FLAGS)}, "
        f"coalesce(lag(zone_signal) over series, 0) as zone_before{known} from {table} "
        "window series as (partition by instrument, timeframe order by open_time)"
    )
    signals = f"unnest([{', '.join(map(_signal, RULES))}]) as signal"
    return (
        "select instrument, timeframe, open_time, signal.kind as kind, signal.direction as direction, "
        "signal.known_at as known_at, close "
        f"from (select instrument, timeframe, open_time, close, {signals} from ({bars})) where signal is not null"
    )


def _signal(rule: Rule) -> str:
    known = f"known_{rule.known_later}" if rule.known_later else "open_time"
    signal = f"{{kind: '{rule.kind}', direction: '{rule.direction}', known_at: {known}}}"
    return f"case when {rule.condition} then {signal} end"
