"""Candles that a source no longer has: noticed in its answers, and withdrawn after the second answer without them.

Only a candle between two others of the same answer counts as missing from it: a venue's history may begin later, and
its newest candle may come later. The second answer must come an hour after the first or later.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import duckdb
import numpy as np

from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.arrays import Arrays, arrays_of, numbered, registered, timestamp
from refresh_pipeline.warehouse.ingest import Staged
from refresh_pipeline.warehouse.schema import Table, qualified

# A source without a candle may just have had a bad moment.
WAIT = timedelta(hours=1)
# Before every candle.
EARLIEST = np.datetime64("0001-01-01", "us")
# By series, the opening time from which on an answer holds every candle that the source has.
Answered = Mapping[Series, np.datetime64]


def missed_twice(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    staged: Staged,
    answered: Answered,
    *,
    source: str,
    now: datetime,
) -> Arrays | None:
    """The stored candles of a source that its answers have lacked twice, to be withdrawn; None where there are none.

    A candle that is missing for the first time is written down, and one that came again is struck off.

    Args:
        connection: to the warehouse, in a transaction.
        market: whose tables are meant.
        staged: the answer.
        answered: from when on the answer is full, for the series that it is full of.
        source: who answered; what other sources sent is left alone.
        now: when.
    """
    sent_no = np.concatenate([staged.good["series_no"], staged.bad["series_no"]])
    sent = np.concatenate([staged.good["open_time"], staged.bad["open_time"]]).astype(TIME_UNIT)
    newest = np.array(
        [
            sent[sent_no == number].max(initial=EARLIEST)  # pyright: ignore[reportArgumentType] (numpy takes it)
            for number in range(len(staged.series))
        ],
        dtype=TIME_UNIT,
    )
    since = np.array([answered.get(series, "NaT") for series in staged.series], dtype=TIME_UNIT)
    full = ~np.isnat(since) & (since < newest)
    if not full.any():
        return None
    wanted = numbered(staged.series, since=since, until=newest)
    span = {"first": since[full].min().astype(datetime), "last": newest[full].max().astype(datetime)}
    values = {**span, "source": source, "now": timestamp(now), "before": timestamp(now - WAIT)}
    tables = {table.value: qualified(market, table) for table in (Table.raw_candles, Table.missed_candles)}
    _run(connection, _PUT_BACK.format(**tables), values)
    with registered(connection, "wanted", {name: column[full] for name, column in wanted.items()}):
        with registered(connection, "sent", {"series_no": sent_no, "open_time": sent}):
            _run(connection, _LACKING.format(**tables), values)
        _run(connection, _STRIKE_OFF.format(**tables), values)
    gone = arrays_of(connection, _TWICE.format(**tables), {"before": values["before"]})
    _run(connection, _WRITE_DOWN.format(**tables), values)
    connection.execute("drop table lacking")
    return gone if len(gone["open_time"]) else None


def _run(connection: duckdb.DuckDBPyConnection, statement: str, values: Mapping[str, object]) -> None:
    connection.execute(statement, {name: value for name, value in values.items() if f"${name}" in statement})


def to_ask_again(
    connection: duckdb.DuckDBPyConnection, market: str, batch: Sequence[Series], now: datetime
) -> dict[Series, tuple[np.datetime64, np.datetime64]]:
    """From when to when to ask for candles that were missing an hour ago: a stored candle on either side included.

    They are not given again for another hour.
    """
    names = (Table.raw_candles, Table.missed_candles)
    tables = {table.value: qualified(market, table) for table in names}
    before = {"before": timestamp(now - WAIT)}
    _run(connection, _PUT_BACK.format(**tables), {"now": timestamp(now)})
    with registered(connection, "wanted", numbered(batch)):
        rows = arrays_of(connection, _DUE.format(**tables), before)
        if len(rows["series_no"]):
            _run(connection, _ASKED.format(**tables), {**before, "now": timestamp(now)})
    edges = zip(
        rows["series_no"].tolist(), rows["since"].astype(TIME_UNIT), rows["until"].astype(TIME_UNIT), strict=True
    )
    return {batch[number]: (since, until + np.timedelta64(1, "us")) for number, since, until in edges}


# A clock that was ahead has written instants of the future: the hour counts from now.
_PUT_BACK = """
update {missed_candles} set first_missed_at = least(first_missed_at, $now), asked_at = least(asked_at, $now)
where asked_at > $now
"""

_LACKING = """
create temp table lacking as
select w.instrument, w.timeframe, r.open_time from wanted w
join (select * from {raw_candles} where open_time between $first and $last) r
  on r.instrument = w.instrument and r.timeframe = w.timeframe and r.open_time > w.since and r.open_time < w.until
where r.source = $source and not exists (
  select 1 from sent s where s.series_no = w.series_no and s.open_time = r.open_time)
"""

_STRIKE_OFF = """
delete from {missed_candles} m using wanted w
where m.instrument = w.instrument and m.timeframe = w.timeframe and m.open_time between w.since and w.until
  and not exists (select 1 from lacking l where l.instrument = m.instrument and l.timeframe = m.timeframe
    and l.open_time = m.open_time)
"""

_TWICE = """
select l.instrument, l.timeframe, l.open_time from lacking l
join {missed_candles} m using (instrument, timeframe, open_time) where m.first_missed_at <= $before
"""

_WRITE_DOWN = """
insert into {missed_candles} (instrument, timeframe, open_time, first_missed_at, asked_at)
select instrument, timeframe, open_time, $now, $now from lacking
anti join {missed_candles} using (instrument, timeframe, open_time)
"""

_DUE = """
select w.series_no, coalesce(max(r.open_time) filter (r.open_time < d.first), d.first) as since,
  coalesce(min(r.open_time) filter (r.open_time > d.last), d.last) as until
from (select instrument, timeframe, min(open_time) as first, max(open_time) as last from {missed_candles}
  where asked_at <= $before group by all) d
join wanted w using (instrument, timeframe)
join {raw_candles} r using (instrument, timeframe)
where not exists (select 1 from {missed_candles} m where m.instrument = r.instrument and m.timeframe = r.timeframe
  and m.open_time = r.open_time)
group by w.series_no, d.first, d.last
"""

_ASKED = """
update {missed_candles} m set asked_at = $now from wanted w
where m.instrument = w.instrument and m.timeframe = w.timeframe and m.asked_at <= $before
"""
