"""The change feed: one row per asset and series that names its last change, written with the rows that changed.

Every change draws its version from one sequence of the whole file, inside the transaction that writes the rows. So
whoever remembers the newest version it has seen asks for what came later, and reads nothing else. One process writes at
a time: versions become visible in the order in which they were drawn.

Versions begin at the Unix time in milliseconds, which no series of changes overtakes. A file that was restored or begun
anew therefore starts above every version that its predecessor gave, and has another epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import duckdb

from refresh_pipeline.warehouse import lake
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.schema import Table, qualified

SEQUENCE = "main.change_version"
# The assets that every stored series has; exports and uploads are added from their manifests.
OF_EVERY_SERIES = (Table.raw_candles, Table.enhanced_candles, Table.indicators)


@dataclass(frozen=True, slots=True)
class Change:
    """The last change of one asset of one series.

    `since` is the first open_time (UTC, without a zone) whose row changed after the version that was asked about; None
    where the rows have no time, as those of uploads. `changed_at` is the time of the last change, in UTC.
    """

    version: int
    market: str
    asset: str
    instrument: str
    timeframe: str
    since: datetime | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Changes:
    """The series that changed after a version, oldest change first.

    `version` is the version to ask about next. `reset` says that the version asked about is of another file: then
    `changes` begins with the oldest, and nothing that was read before counts.
    """

    epoch: str
    version: int
    changes: Sequence[Change]
    reset: bool = False


def record_changes(
    connection: duckdb.DuckDBPyConnection, market: str, assets: Sequence[str], changed: str = "touched"
) -> None:
    """Give the series in a table new versions for these assets, inside the transaction that changes their rows.

    Args:
        connection: to the warehouse, in a transaction.
        market: whose series they are.
        assets: names as in `outcomes`.
        changed: a table with one row per series: instrument, timeframe, since (the first open_time that changed).
    """
    listed = (
        f"(select t.instrument, t.timeframe, a.asset, t.since from {changed} t "
        "cross join (select unnest($assets::varchar[]) as asset) a)"
    )
    record_each(connection, market, listed, {"assets": [str(asset) for asset in assets]})


def record_each(
    connection: duckdb.DuckDBPyConnection, market: str, changed: str, values: Mapping[str, object] | None = None
) -> None:
    """Give assets of series new versions, each from an open time of its own.

    Args:
        connection: to the warehouse, in a transaction.
        market: whose series they are.
        changed: SQL for rows of instrument, timeframe, asset, since (the first open_time that changed), each asset of
            a series once.
        values: what that SQL names.
    """
    versions = qualified(market, Table.versions)
    named: dict[str, object] = {**(values or {}), "now": timestamp(datetime.now(UTC))}
    if not lake.is_lake(connection):
        # Thinning lists takes half of the time, and one change in thirty has one to thin.
        is_long = connection.execute(f"select 1 from {versions} where len(earlier) >= {MANY} limit 1").fetchall()
        thinned, earlier = (_THINNED, _THINNED_EARLIER) if is_long else (_DRAWN, _EARLIER)
        drawn = thinned.format(changed=changed, versions=versions, number=f"nextval('{SEQUENCE}')")
        connection.execute(_MOVED.format(drawn=f"({drawn})", versions=versions, earlier=earlier), named)
        return
    # A lake has no sequences: its catalogue's database has one. Its merge fails ("Out of buffer") where the query of
    # what is merged reads the same table.
    [(count,)] = connection.execute(f"select count(*) from {changed}", values).fetchall()
    named["first"] = lake.draw_versions(connection, count)
    drawn = _THINNED.format(changed=changed, versions=versions, number="$first - 1 + row_number() over ()")
    connection.execute(f"create temp table moved as {drawn}", named)
    connection.execute(_MOVED.format(drawn="moved", versions=versions, earlier=_THINNED_EARLIER))
    connection.execute("drop table moved")


# `earlier` holds what a reader needs that has missed several changes: versions, and the first open_time that changed
# from each on. A change that reaches further back makes earlier ones superfluous. Where they are many, fewer of the
# older ones are kept: one in each block of versions as wide as the distance, so that a reader is told of twice the
# changes it missed at most. Thinning takes longer than appending, so it waits until MANY have come together.
MANY = 32
_DRAWN = """
select t.instrument, t.timeframe, t.asset, {number} as version, t.since::timestamp as since,
  $now::timestamp as changed_at
from {changed} t
"""
_THINNED = f"""
with drawn as materialized ({_DRAWN}), past as (
  select v.instrument, v.timeframe, v.asset,
    unnest(list_append(v.earlier, {{{{'version': v.version, 'since': v.since}}}})) as change
  from {{versions}} v semi join drawn using (instrument, timeframe, asset) where len(v.earlier) >= {MANY}
), further_back as (
  select p.*, floor(log2(d.version - p.change.version))::integer as width
  from past p join drawn d using (instrument, timeframe, asset) where p.change.since < d.since
), thinned as (
  select instrument, timeframe, asset, max(change.version) as version, min(change.since) as since
  from further_back group by instrument, timeframe, asset, width, change.version >> width
), kept as (
  select instrument, timeframe, asset, list({{{{'version': version, 'since': since}}}} order by version) as earlier
  from thinned group by all
)
select d.*, k.earlier from drawn d left join kept k using (instrument, timeframe, asset)
"""
_EARLIER = """list_filter(list_append(v.earlier, {'version': v.version, 'since': v.since}),
    lambda change: change.since < m.since)"""
_THINNED_EARLIER = f"case when len(v.earlier) >= {MANY} then coalesce(m.earlier, []) else {_EARLIER} end"
_MOVED = """
merge into {versions} v using {drawn} m
  on v.asset = m.asset and v.instrument = m.instrument and v.timeframe = m.timeframe
when matched then update set version = m.version, since = m.since, changed_at = m.changed_at, earlier = {earlier}
when not matched then insert (instrument, timeframe, asset, version, since, changed_at, earlier)
  values (m.instrument, m.timeframe, m.asset, m.version, m.since, m.changed_at, [])
"""


def join_feed(connection: duckdb.DuckDBPyConnection, schema: str) -> bool:
    """Let a schema take part in the feed of its file; false where it does already."""
    about = qualified(schema, Table.schema_info)
    if connection.execute(f"select 1 from {about} where epoch is not null").fetchall():
        return False
    epoch, first_version = _feed(connection) or _begin(connection)
    connection.execute(f"update {about} set epoch = ?, first_version = ?", [epoch, first_version])
    return True


def ensure(connection: duckdb.DuckDBPyConnection, market: str) -> None:
    """Let a market take part in the feed; the series of an older file get their first versions."""
    if not join_feed(connection, market):
        return
    _record_all(connection, market, OF_EVERY_SERIES, Table.series, "first_open_time")
    for manifest, since in ((Table.exports, "first_open_time"), (Table.uploads, "null")):
        _record_all(connection, market, [manifest], manifest, since)


def record_all(connection: duckdb.DuckDBPyConnection, market: str, asset: str) -> None:
    """Give every series of a market a new version for an asset, whose columns changed."""
    _record_all(connection, market, [asset], Table.series, "first_open_time")


def _record_all(
    connection: duckdb.DuckDBPyConnection, market: str, assets: Sequence[str], table: Table, since: str
) -> None:
    connection.execute(
        f"create temp table all_series as select instrument, timeframe, min({since})::timestamp as since "
        f"from {qualified(market, table)} group by instrument, timeframe order by all"
    )
    record_changes(connection, market, assets, "all_series")
    connection.execute("drop table all_series")


def begin_epoch(connection: duckdb.DuckDBPyConnection) -> str:
    """Give the file another epoch, as after a restore; versions continue above those of the replaced file.

    A file of before there were epochs gets one when its tables are brought forward.
    """
    schemas = _schemas(connection)
    if not schemas:
        return ""
    epoch, first_version = _begin(connection)
    for schema in schemas:
        connection.execute(
            f"update {qualified(schema, Table.schema_info)} set epoch = ?, first_version = ?", [epoch, first_version]
        )
    return epoch


def epoch_of(connection: duckdb.DuckDBPyConnection) -> str:
    """The file's epoch; empty where no market takes part in the feed."""
    feed = _feed(connection)
    return feed[0] if feed else ""


def changes(
    connection: duckdb.DuckDBPyConnection, after: int = 0, limit: int | None = None, *, epoch: str | None = None
) -> Changes:
    """The series of all markets that changed after a version, at most `limit`, oldest change first.

    Args:
        connection: to the warehouse; reading is enough.
        after: the newest version that is known; 0 for everything.
        limit: of changes; ask again with the `version` of the answer for those that follow.
        epoch: that the known version is of; None where it is not known.
    """
    schemas, feed = _schemas(connection), _feed(connection)
    if not feed:
        return Changes("", 0, (), reset=bool(after))
    newest = _newest(connection, schemas)
    reset = after > 0 and (not feed[1] - 1 <= after <= max(newest, feed[1] - 1) or epoch not in (None, feed[0]))
    rows = connection.execute(
        f"{_union(schemas)} order by version limit $limit",
        {"after": 0 if reset else after, "limit": 2**31 if limit is None else limit + 1},
    ).fetchall()
    listed = [Change(*row) for row in rows[:limit]]
    is_whole = len(rows) == len(listed)
    return Changes(feed[0], max(newest, feed[1] - 1) if is_whole else listed[-1].version, listed, reset)


def versions_of(
    connection: duckdb.DuckDBPyConnection, market: str, instrument: str, timeframe: str
) -> dict[str, tuple[int, datetime]]:
    """The version and the time (UTC) of the last change of each asset of one series, by asset."""
    rows = connection.execute(
        f"select asset, version, changed_at from {qualified(market, Table.versions)} "
        "where instrument = ? and timeframe = ?",
        [instrument, timeframe],
    ).fetchall()
    return {asset: (version, changed_at) for asset, version, changed_at in rows}


def _union(schemas: Sequence[str]) -> str:
    return " union all ".join(
        f"select version, '{schema}' as market, asset, instrument, timeframe, coalesce((select min(c.since) from "
        "(select unnest(v.earlier, recursive := true)) c where c.version > $after), v.since) as since, "
        f"changed_at from {qualified(schema, Table.versions)} v where version > $after"
        for schema in schemas
    )


def _newest(connection: duckdb.DuckDBPyConnection, schemas: Sequence[str]) -> int:
    newest = ", ".join(
        f"(select coalesce(max(version), 0) from {qualified(schema, Table.versions)})" for schema in schemas
    )
    [versions] = connection.execute(f"select {newest}").fetchall()
    return max(versions)


def _schemas(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute(
        "select schema_name from duckdb_tables() where table_name = ? and database_name = current_database() "
        "order by all",
        [Table.versions.value],
    ).fetchall()
    return [schema for (schema,) in rows]


def _feed(connection: duckdb.DuckDBPyConnection) -> tuple[str, int] | None:
    """The epoch of the file, and the first version that it may give."""
    for schema in _schemas(connection):
        rows = connection.execute(
            f"select epoch, first_version from {qualified(schema, Table.schema_info)} where epoch is not null"
        ).fetchall()
        if rows:
            return rows[0]
    return None


def _begin(connection: duckdb.DuckDBPyConnection) -> tuple[str, int]:
    schemas = _schemas(connection)
    newest = _newest(connection, schemas) if schemas else 0
    first_version = max(int(datetime.now(UTC).timestamp() * 1000), newest + 1)
    if lake.is_lake(connection):
        return lake.begin_feed(connection, uuid4().hex, first_version)
    connection.execute(f"create or replace sequence {SEQUENCE} start with {first_version}")
    return uuid4().hex, first_version
