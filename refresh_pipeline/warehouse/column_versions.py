"""Stored fingerprints of computed columns, and the queue of the columns to compute anew.

`column_versions` holds what each stored column is computed with. A column is queued for every series where the market's
YAML or this program gives it another fingerprint, in the transaction that stores that; column_refresh.py computes it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import duckdb
import numpy as np

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.analytics.fingerprints import Fingerprint
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse import schema, versions
from refresh_pipeline.warehouse.arrays import arrays_of, days_before, registered, texts
from refresh_pipeline.warehouse.ingest import queue_recompute
from refresh_pipeline.warehouse.schema import Table, TableChange, candle_columns, qualified, queue_full_recompute
from refresh_pipeline.warehouse.stored_values import DIGITS, ROUNDED

# A table of which more columns differ is computed as a whole. Both numbers are estimates from measured rates (decision
# 0081): DuckDB updates about a million cells a second in place, and writes a whole table several times as fast.
MOST_COLUMNS, LARGEST_SHARE = 32, 1 / 4
CARRIED = Fingerprint("candle")
# The row of `column_versions` that says how long a timeframe's rows are kept.
KEEP_COLUMN = "open_time"
FOR_EVER = "for ever"


@dataclass(frozen=True, slots=True)
class _Version:
    """What one column or state is stored with; `position` is a state's place in a checkpoint, from 1."""

    fingerprint: str
    code_version: int
    position: int | None = None


_Versions = Mapping[str, _Version]


def ensure(
    connection: duckdb.DuckDBPyConnection, market: str, computations: Sequence[Computation], two_sided: bool
) -> None:
    """Create the market's tables or bring them forward, and queue the columns whose fingerprints differ.

    Raises:
        RuntimeError: a newer version of the project wrote this file.
        ValueError: DuckDB cannot tell the market's schema from a database of the same name.
    """
    changes = schema.ensure(connection, market, computations, two_sided)
    versions.ensure(connection, market)
    for table in changes:
        versions.record_all(connection, market, table)
    for computation in computations:
        _follow(connection, market, computation, two_sided, changes.get(Table(computation.name), TableChange()))


def _follow(
    connection: duckdb.DuckDBPyConnection, market: str, computation: Computation, two_sided: bool, change: TableChange
) -> None:
    """Store the fingerprints of one table's columns, and queue those that differ."""
    table, wanted = Table(computation.name), _wanted(computation, two_sided)
    stored = _stored(connection, market, table)
    if stored == wanted and not change:
        return
    if not stored and not change.created:
        stored = _of_before(connection, market, computation, wanted, change)
    changed = {name for name in wanted if name in change.added or not _is_same(stored.get(name), wanted[name])}
    columns = changed - {*computation.states}
    if change.created or _is_whole(table, computation, columns):
        clear_columns(connection, market, table)
        queue_full_recompute(connection, market, table)
    elif changed or _layout(stored) != _layout(wanted):
        _remap_checkpoints(
            connection, market, table, _layout(stored), [None if name in changed else name for name in _layout(wanted)]
        )
        _queue_columns(connection, market, table, sorted(changed))
    _store(connection, market, table, wanted)


def _is_whole(table: Table, computation: Computation, columns: Collection[str]) -> bool:
    """Whether so many columns differ that computing the whole table is faster."""
    # Rows of enhanced candles that are written anew would have the indicators computed as well.
    if table is not Table.indicators:
        return False
    names = {column.name for column in computation.columns}
    return names <= {*columns} or len(columns) > max(MOST_COLUMNS, len(names) * LARGEST_SHARE)


def _is_same(stored: _Version | None, wanted: _Version) -> bool:
    return stored is not None and stored.fingerprint == wanted.fingerprint


def _layout(versions: _Versions) -> list[str]:
    """The names of the states in a checkpoint, in order."""
    positions = {version.position: name for name, version in versions.items() if version.position is not None}
    return [positions[position] for position in sorted(positions)]


def differing(
    connection: duckdb.DuckDBPyConnection, market: str, computation: Computation, two_sided: bool
) -> set[str]:
    """The columns and states that are stored with another fingerprint than this computation's, or are not stored."""
    stored = _stored(connection, market, Table(computation.name))
    wanted = _wanted(computation, two_sided)
    return {name for name, version in wanted.items() if not _is_same(stored.get(name), version)}


def _wanted(computation: Computation, two_sided: bool) -> dict[str, _Version]:
    known = computation.fingerprints
    carried = dict.fromkeys(candle_columns(two_sided) if computation.carries_candles else (), CARRIED)
    columns = carried | {column.name: known.get(column.name, Fingerprint("")) for column in computation.columns}
    if Table(computation.name) in ROUNDED:
        columns = {name: Fingerprint(f"{found.text}/{DIGITS}", found.version) for name, found in columns.items()}
    versions = {name: _Version(found.text, found.version) for name, found in columns.items()}
    for position, name in enumerate(computation.states, start=1):
        found = known.get(name, Fingerprint(""))
        versions[name] = _Version(found.text, found.version, position)
    return versions


def _stored(connection: duckdb.DuckDBPyConnection, market: str, table: Table) -> dict[str, _Version]:
    rows = connection.execute(
        "select column_name, fingerprint, code_version, checkpoint_position "
        f"from {qualified(market, Table.column_versions)} where asset = ? and timeframe is null",
        [table.value],
    ).fetchall()
    return {name: _Version(*values) for name, *values in rows}


def _of_before(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    computation: Computation,
    wanted: _Versions,
    change: TableChange,
) -> _Versions:
    """What a table of before there were fingerprints is taken to be stored with: every formula's first version.

    Nothing is known of its checkpoints where columns left it, or where their length differs: then of no column.
    """
    states = {*computation.states}
    changed = {name for name, version in wanted.items() if version.code_version > 1 or name in change.added}
    kept = [column.name for column in computation.columns if column.name not in change.added]
    layout = [*computation.narrowed(kept).states] if kept and change.added else [*computation.states]
    lengths = connection.execute(
        f"select distinct len(state) from {qualified(market, Table.checkpoints)} where asset = ?",
        [computation.name],
    ).fetchall()
    if change.removed or any(length != len(layout) for (length,) in lengths):
        return {}
    before = {name: version for name, version in wanted.items() if name not in changed | states}
    return before | {
        name: _Version("" if name in changed else wanted[name].fingerprint, 1, position)
        for position, name in enumerate(layout, start=1)
    }


def _store(connection: duckdb.DuckDBPyConnection, market: str, table: Table, wanted: _Versions) -> None:
    name = qualified(market, Table.column_versions)
    connection.execute(f"delete from {name} where asset = ? and timeframe is null", [table.value])
    rows = {
        "column_name": texts(wanted),
        "fingerprint": texts(version.fingerprint for version in wanted.values()),
        "code_version": np.array([version.code_version for version in wanted.values()], dtype=np.int32),
        "position": np.array([version.position or 0 for version in wanted.values()], dtype=np.int32),
    }
    with registered(connection, "versions", rows):
        connection.execute(
            f"insert into {name} (asset, column_name, fingerprint, code_version, checkpoint_position) "
            "select ?, column_name, fingerprint, code_version, nullif(position, 0) from versions",
            [table.value],
        )


def _remap_checkpoints(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    table: Table,
    before: Sequence[str],
    after: Sequence[str | None],
) -> None:
    """Bring the states of stored checkpoints into another order; None stands for one that is to be computed anew."""
    if list(before) == list(after):
        return
    checkpoints = qualified(market, Table.checkpoints)
    values = ", ".join("null" if name is None else f"state[{before.index(name) + 1}]" for name in after)
    connection.execute(f"update {checkpoints} set state = [{values}]::double[] where asset = ?", [table.value])


def _queue_columns(connection: duckdb.DuckDBPyConnection, market: str, table: Table, names: Sequence[str]) -> None:
    """Queue columns and states of every series, besides what is queued; a series that is queued as a whole has them."""
    if not names:
        return
    queue = qualified(market, Table.column_queue)
    connection.execute(
        "create temp table queued as select s.instrument, s.timeframe, "
        "list_distinct(list_concat(coalesce(q.columns, []), $names::varchar[])) as columns, s.first_open_time as since "
        f"from {qualified(market, Table.series)} s left join {queue} q "
        "on q.asset = $asset and q.instrument = s.instrument and q.timeframe = s.timeframe "
        f"left join {qualified(market, Table.recompute_queue)} r "
        "on r.asset = $asset and r.instrument = s.instrument and r.timeframe = s.timeframe "
        "where r.since is null or r.since > s.first_open_time",
        {"names": list(names), "asset": table.value},
    )
    clear_columns(connection, market, table)
    connection.execute(
        f"insert into {queue} (instrument, timeframe, asset, columns, since, version) "
        "select instrument, timeframe, ?, columns, since, uuid()::varchar from queued",
        [table.value],
    )
    connection.execute("drop table queued")


def clear_columns(connection: duckdb.DuckDBPyConnection, market: str, table: Table) -> None:
    """Take every series of a table off the queue of columns."""
    connection.execute(f"delete from {qualified(market, Table.column_queue)} where asset = ?", [table.value])


# ---- how long rows are kept


def follow_keep(
    connection: duckdb.DuckDBPyConnection, market: str, table: Table, keep: Mapping[Timeframe, timedelta]
) -> None:
    """Queue the rows to add where a timeframe's rows are kept for longer, and those to drop where for shorter."""
    wanted = {timeframe.value: str(keep.get(timeframe, FOR_EVER)) for timeframe in Timeframe}
    name = qualified(market, Table.column_versions)
    stored = dict(
        connection.execute(
            f"select timeframe, fingerprint from {name} where asset = ? and timeframe is not null", [table.value]
        ).fetchall()
    )
    if changed := {timeframe for timeframe in wanted if stored.get(timeframe) != wanted[timeframe]}:
        _queue_rows(connection, market, table, {Timeframe(each): keep.get(Timeframe(each)) for each in changed})
        connection.execute(f"delete from {name} where asset = ? and timeframe is not null", [table.value])
        rows = {"timeframe": texts(wanted), "fingerprint": texts(wanted.values())}
        with registered(connection, "versions", rows):
            connection.execute(
                f"insert into {name} (asset, column_name, timeframe, fingerprint, code_version) "
                f"select ?, '{KEEP_COLUMN}', timeframe, fingerprint, 1 from versions",
                [table.value],
            )


def _queue_rows(
    connection: duckdb.DuckDBPyConnection,
    market: str,
    table: Table,
    keep: Mapping[Timeframe, timedelta | None],
) -> None:
    """Queue the series of these timeframes whose stored rows begin elsewhere than the rows to keep."""
    series = arrays_of(
        connection,
        f"select instrument, timeframe, last_open_time from {qualified(market, Table.series)} "
        "where timeframe in (select unnest(?))",
        [[timeframe.value for timeframe in keep]],
    )
    kept = np.array(
        [
            days_before(last, keep[Timeframe(timeframe)])
            for last, timeframe in zip(series["last_open_time"], series["timeframe"], strict=True)
        ],
        dtype=TIME_UNIT,
    )
    with registered(connection, "kept_series", {**series, "kept": kept}):
        # The last row is written anew where rows leave: whatever is written drops what has expired.
        connection.execute(
            "create temp table touched as with stored as (select instrument, timeframe, min(open_time) as first "
            f"from {qualified(market, table)} group by all), wanted as (select k.instrument, k.timeframe, "
            f"min(c.open_time) as first from kept_series k join {qualified(market, Table.raw_candles)} c "
            "on c.instrument = k.instrument and c.timeframe = k.timeframe and c.open_time >= k.kept group by all) "
            "select k.instrument, k.timeframe, if(w.first < s.first, w.first, k.last_open_time) as since "
            "from kept_series k join wanted w using (instrument, timeframe) "
            "join stored s using (instrument, timeframe) where w.first <> s.first"
        )
    queue_recompute(connection, market, [table])
    connection.execute("drop table touched")
