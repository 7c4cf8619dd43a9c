"""What happened in a market's tables in a period, for reports."""

from dataclasses import dataclass
from datetime import datetime

import duckdb

from refresh_pipeline.warehouse.schema import Table, qualified


@dataclass(frozen=True, slots=True)
class Activity:
    """Candles that were new, values that a correction replaced, files that arrived somewhere and their bytes.

    A file that was sent several times counts once, as it is now.
    """

    added: int = 0
    revised: int = 0
    uploads: int = 0
    bytes: int = 0


# A corrected candle is stored anew with the time of its correction: new is only what had no value before.
_ACTIVITY = """
select
  (select count(*) from {raw_candles} r where r.fetched_at > $since and r.fetched_at <= $until and not exists (
     select 1 from {raw_candle_revisions} v where v.instrument = r.instrument and v.timeframe = r.timeframe
       and v.open_time = r.open_time and v.fetched_at <= $since)),
  (select count(*) from {raw_candle_revisions} where replaced_at > $since and replaced_at <= $until),
  (select count(*) from {uploads} where uploaded_at > $since and uploaded_at <= $until),
  (select coalesce(sum(bytes), 0) from {uploads} where uploaded_at > $since and uploaded_at <= $until)
"""


def activity(connection: duckdb.DuckDBPyConnection, market: str, since: datetime, until: datetime) -> Activity:
    """What happened after `since`, up to `until` (both in UTC, without a zone)."""
    tables = (Table.raw_candles, Table.raw_candle_revisions, Table.uploads)
    query = _ACTIVITY.format(**{table.value: qualified(market, table) for table in tables})
    [row] = connection.execute(query, {"since": since, "until": until}).fetchall()
    return Activity(*(int(value) for value in row))
