"""Payloads of API snapshots: stored when they changed, noted as seen otherwise, with views for columns.

Each collection has a schema of its own. Which API is asked when is `market.apis`' part, asking `sources.any_api`'s.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.apis import Api, ApiQuestion, Collection, Keep
from refresh_pipeline.redaction import clean
from refresh_pipeline.warehouse.arrays import arrays_of, registered, texts, timestamp
from refresh_pipeline.warehouse.connection import Connect, transaction
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.schema import FIXED_TABLES, SCHEMA_VERSION, Table, qualified
from refresh_pipeline.warehouse.versions import join_feed, record_changes

NO_TIMES = np.array([], dtype="datetime64[us]")
# The asset of a collection's payloads.
ASSET = "snapshots"
# Clocks of machines that share a warehouse may differ by so much; what lies further ahead is from a wrong clock.
CLOCK_SLACK = timedelta(minutes=1)
TABLES: Mapping[str, Mapping[str, str]] = {
    "snapshots": {
        "api": "varchar",
        "fetched_at": "timestamp",
        "seen_at": "timestamp",
        "status": "integer",
        "url_used": "varchar",
        "content_type": "varchar",
        "bytes": "bigint",
        "content_hash": "varchar",
        "etag": "varchar",
        "last_modified": "varchar",
        "payload": "varchar",
    },
    "api_outcomes": {
        "api": "varchar",
        "outcome": "varchar",
        "reason": "varchar",
        "transient": "boolean",
        "failures": "integer",
        "attempted_at": "timestamp",
        "due_at": "timestamp",
        "successes": "bigint",
        "errors": "bigint",
    },
    Table.check_results.value: FIXED_TABLES[Table.check_results],
    Table.versions.value: FIXED_TABLES[Table.versions],
    Table.schema_info.value: FIXED_TABLES[Table.schema_info],
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One stored payload; `fetched_at` is when it was first seen, `seen_at` when it was last seen (UTC, no zone)."""

    api: str
    fetched_at: datetime
    seen_at: datetime
    status: int
    url_used: str
    content_type: str
    bytes: int
    content_hash: str
    etag: str | None
    last_modified: str | None
    payload: str


@dataclass(frozen=True, slots=True)
class ApiStatus:
    """The last attempt at one API: its outcome, its failures in a row, and when it is due again (UTC, no zone)."""

    api: str
    outcome: Outcome
    reason: str | None
    transient: bool
    failures: int
    attempted_at: datetime
    due_at: datetime
    successes: int
    errors: int

    def next_at(self, every: timedelta) -> datetime:
        """When to ask again at this interval, which may be another than at the last attempt (UTC, no zone).

        One that failed waits for what was decided then.
        """
        return self.due_at if self.failures else minute_of(self.attempted_at) + every


def minute_of(moment: datetime) -> datetime:
    """The minute of an attempt, from which its interval counts: ticks come on whole minutes, and runs seconds later.

    >>> minute_of(datetime(2026, 1, 1, 12, 0, 9))
    datetime.datetime(2026, 1, 1, 12, 0)
    """
    return moment.replace(second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One attempt at an API: the payload where one came, what became of it, and when to ask again."""

    attempt: Attempt
    due_at: datetime
    payload: Any = None
    status: int = 0
    url_used: str = ""
    content_type: str = ""
    bytes: int = 0
    etag: str | None = None
    last_modified: str | None = None


def text_of(payload: Any) -> str:
    """A payload as it is stored: JSON without blanks, keys in the answer's order; a text as it came."""
    if isinstance(payload, str):
        return payload
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"))


def content_hash(payload: Any, ignore: Sequence[Sequence[str]] = ()) -> str:
    """The hash of a payload's content: keys in any order are one content, and ignored paths none.

    >>> content_hash({"a": 1, "t": 5}, [["t"]]) == content_hash({"t": 6, "a": 1}, [["t"]])
    True
    """
    if isinstance(payload, str):
        return hashlib.sha256(payload.encode("utf-8", "replace")).hexdigest()
    kept = json.loads(json.dumps(payload)) if ignore else payload
    for path in ignore:
        _remove(kept, path)
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _remove(payload: Any, path: Sequence[str]) -> None:
    parents = [payload]
    for step in path[:-1]:
        parents = [child for parent in parents for child in _children(parent, step)]
    for parent in parents:
        if isinstance(parent, dict):
            parent.pop(path[-1], None)
        elif isinstance(parent, list) and path[-1].isdigit() and int(path[-1]) < len(parent):
            parent[int(path[-1])] = None


def _children(parent: Any, step: str) -> list[Any]:
    """What lies at a step; `*` is every element of a list."""
    if isinstance(parent, dict):
        return [parent[step]] if step in parent else []
    if isinstance(parent, list):
        if step == "*":
            return parent
        return [parent[int(step)]] if step.isdigit() and int(step) < len(parent) else []
    return []


def prepare(connect: Connect, collection: Collection) -> None:
    """Create a collection's tables and views, or bring them forward."""
    with connect() as connection, transaction(connection):
        ensure(connection, collection)


def ensure(connection: duckdb.DuckDBPyConnection, collection: Collection) -> None:
    """Create a collection's tables and views, or bring them forward, inside the open transaction."""
    name = collection.name
    connection.execute(f'create schema if not exists "{name}"')
    for table, columns in TABLES.items():
        listed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
        connection.execute(f'create table if not exists "{name}".{table} ({listed})')
        for column, kind in columns.items():
            connection.execute(f'alter table "{name}".{table} add column if not exists "{column}" {kind}')
    about = qualified(name, Table.schema_info)
    if not connection.execute(f"select 1 from {about}").fetchall():
        connection.execute(f"insert into {about} (schema_version) values (?)", [SCHEMA_VERSION])
    join_feed(connection, name)
    for identifier, api in collection.apis.items():
        if api.columns:
            connection.execute(view_of(name, identifier, api))


def view_of(collection: str, identifier: str, api: Api) -> str:
    """The statement that makes an API's columns a view over all of its payloads; nothing is stored twice.

    A value that cannot be read as its column's type is null. With `rows` each element of that list is a row.
    """
    is_each = bool(api.each)
    where = f"api like '{identifier}.%'" if is_each else f"api = '{identifier}'"
    head = "api, fetched_at, seen_at" if is_each else "fetched_at, seen_at"
    source = f'(select {head}, try_cast(payload as json) as payload from "{collection}".snapshots where {where})'
    if api.rows is not None:
        element = f"try_cast(json_extract(payload, {_pointer(api.rows)}) as json[])"
        source = f"(select {head}, unnest({element}) as payload from {source})"
    columns = "".join(
        f', try_cast(json_extract_string(payload, {_pointer(column.path)}) as {column.type}) as "{name}"'
        for name, column in api.columns.items()
    )
    return f'create or replace view "{collection}"."{identifier}" as select {head}{columns} from {source}'


def _pointer(path: Sequence[str]) -> str:
    steps = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)
    return "'" + steps.replace("'", "''") + "'"


def newest(connection: duckdb.DuckDBPyConnection, collection: str, apis: Sequence[str]) -> dict[str, Snapshot]:
    """The newest payload of each API that has one."""
    return {snapshot.api: snapshot for snapshot in _read(connection, collection, apis, 1)}


def newest_heads(connection: duckdb.DuckDBPyConnection, collection: str, apis: Sequence[str]) -> dict[str, Snapshot]:
    """The newest payload of each API, without its content: the payloads of a long history are not read for it."""
    listed = ", ".join("'' as payload" if name == "payload" else f"s.{name}" for name in TABLES["snapshots"])
    rows = connection.execute(
        f'select {listed} from "{collection}".snapshots s join (select api, max(fetched_at) as fetched_at '
        f'from "{collection}".snapshots where list_contains($apis::varchar[], api) group by api) n '
        "using (api, fetched_at)",
        {"apis": list(apis)},
    ).fetchall()
    return {row[0]: Snapshot(*row) for row in rows}


def history(connection: duckdb.DuckDBPyConnection, collection: str, api: str, limit: int = 100) -> list[Snapshot]:
    """The newest payloads of one API, newest first."""
    return _read(connection, collection, [api], limit)


def as_of(connection: duckdb.DuckDBPyConnection, collection: str, api: str, moment: datetime) -> Snapshot | None:
    """What was known of an API at an instant; None before its first payload."""
    rows = connection.execute(
        f'select {_LISTED} from "{collection}".snapshots where api = ? and fetched_at <= ? '
        "order by fetched_at desc limit 1",
        [api, timestamp(moment)],
    ).fetchall()
    return Snapshot(*rows[0]) if rows else None


_LISTED = ", ".join(TABLES["snapshots"])


def _read(connection: duckdb.DuckDBPyConnection, collection: str, apis: Sequence[str], limit: int) -> list[Snapshot]:
    rows = connection.execute(
        f'select {_LISTED} from "{collection}".snapshots where list_contains($apis::varchar[], api) '
        "qualify row_number() over (partition by api order by fetched_at desc) <= $limit order by api, fetched_at desc",
        {"apis": list(apis), "limit": limit},
    ).fetchall()
    return [Snapshot(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class KnownRows:
    """Rows of payloads: equally long arrays by column with their SQL types, and the payload that follows them."""

    arrays: Mapping[str, NDArray]
    types: Mapping[str, str]
    following: datetime | None = None


def rows_of(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    api: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> KnownRows:
    """The columns of an API's payloads, oldest first, with `fetched_at` and `seen_at`; `payload` where it has none.

    Args:
        connection: to the warehouse.
        collection: the schema.
        api: the id of a question.
        since: the first `fetched_at`.
        until: the end of `fetched_at`, excluded.
        limit: payloads at most: the first from `since`, the newest without it. A payload may have several rows.
    """
    view = _view(connection, collection, api)
    source = f'"{collection}"."{view}"' if view else f'"{collection}".snapshots'
    hidden = {"api"} if view else set(TABLES["snapshots"]) - {"fetched_at", "seen_at", "payload"}
    described = connection.execute(f"describe {source}").fetchall()
    types = {name: kind.lower() for name, kind, *_ in described if name not in hidden}
    bounds = {
        "api": api,
        "since": None if since is None else timestamp(since),
        "until": None if until is None else timestamp(until),
    }
    of_api = f'"{collection}".snapshots where api = $api and ($since is null or fetched_at >= $since) '
    of_api += "and ($until is null or fetched_at < $until)"
    order = "order by fetched_at" + ("" if since is not None else " desc")
    times = connection.execute(
        f"select fetched_at from {of_api} {order} {'' if limit is None else f'limit {limit + 1}'}", bounds
    ).fetchall()
    kept = sorted(time for (time,) in times[:limit])
    following = times[limit][0] if since is not None and limit is not None and len(times) > limit else None
    named = any(name == "api" for name, *_ in described)
    listed = ", ".join(f'"{name}"' for name in types)
    arrays = arrays_of(
        connection,
        f"select {listed} from {source} where fetched_at between $first and $last"
        f"{' and api = $api' if named else ''} order by fetched_at",
        {"first": kept[0] if kept else None, "last": kept[-1] if kept else None, **({"api": api} if named else {})},
    )
    return KnownRows(arrays, types, following)


def _view(connection: duckdb.DuckDBPyConnection, collection: str, api: str) -> str | None:
    """The view that holds a question's columns: its own, or that of the API whose placeholder it fills."""
    rows = connection.execute(
        "select view_name from duckdb_views() where schema_name = ? and database_name = current_database()",
        [collection],
    ).fetchall()
    named = {name for (name,) in rows}
    name = api
    while name not in named and "." in name:
        name = name.rpartition(".")[0]
    return name if name in named else None


def located(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[str, str]]:
    """The collection and the id of every API that a name means: `fear_greed`, or `sentiment.fear_greed`."""
    rows = connection.execute(
        "select schema_name from duckdb_tables() where table_name = 'snapshots' "
        "and database_name = current_database() order by schema_name"
    ).fetchall()
    return [
        (collection, api)
        for (collection,) in rows
        for api, *_ in counts(connection, collection)
        if name in (api, f"{collection}.{api}")
    ]


def counts(connection: duckdb.DuckDBPyConnection, collection: str) -> list[tuple[str, int, datetime, datetime]]:
    """How many payloads each API has, and the times of the oldest and the newest (UTC, no zone)."""
    return connection.execute(
        "select api, count(*), min(fetched_at), max(fetched_at) "
        f'from "{collection}".snapshots group by api order by api'
    ).fetchall()


def statuses(connection: duckdb.DuckDBPyConnection, collection: str) -> dict[str, ApiStatus]:
    """The last attempt at each API of a collection."""
    listed = ", ".join(TABLES["api_outcomes"])
    rows = connection.execute(f'select {listed} from "{collection}".api_outcomes').fetchall()
    return {row[0]: ApiStatus(row[0], Outcome(row[1]), *row[2:]) for row in rows}


def has_tables(connection: duckdb.DuckDBPyConnection, collection: str) -> bool:
    """Whether a collection was ever refreshed."""
    return bool(
        connection.execute(
            "select 1 from duckdb_tables() where schema_name = ? and table_name = 'snapshots' "
            "and database_name = current_database()",
            [collection],
        ).fetchall()
    )


def store(
    connection: duckdb.DuckDBPyConnection,
    collection: Collection,
    arrivals: Mapping[str, Arrival],
    now: datetime,
) -> dict[str, Attempt]:
    """Write payloads that changed and note the others as seen, inside the open transaction; gives what became of each.

    Arrivals are by question. A payload whose content is that of the newest stored one only moves `seen_at`.
    """
    questions = {question.id: question for question in collection.questions}
    _put_back(connection, collection.name, now)
    known = newest_heads(connection, collection.name, list(arrivals))
    changed: dict[str, Arrival] = {}
    seen: list[str] = []
    results: dict[str, Attempt] = {}
    hashes: dict[str, str] = {}
    for name, arrival in arrivals.items():
        results[name] = arrival.attempt
        if arrival.attempt.outcome is Outcome.failed:
            continue
        ignore = questions[name].api.ignore if name in questions else ()
        hashes[name] = "" if arrival.payload is None else content_hash(arrival.payload, ignore)
        if name in known and hashes[name] in ("", known[name].content_hash):
            seen.append(name)
            results[name] = Attempt(Outcome.unchanged, seconds=arrival.attempt.seconds)
        elif arrival.payload is not None:
            changed[name] = arrival
            results[name] = Attempt(Outcome.updated, rows_added=1, seconds=arrival.attempt.seconds)
    _note_seen(connection, collection.name, seen, arrivals, now)
    _insert(connection, collection.name, changed, hashes, now)
    _write_outcomes(connection, collection.name, results, arrivals, now)
    return results


def _put_back(connection: duckdb.DuckDBPyConnection, collection: str, now: datetime) -> None:
    """Put instants of the future, which a clock that was ahead has written, back to now; payloads keep their order."""
    table, values = f'"{collection}".snapshots', {"now": timestamp(now), "latest": timestamp(now) + CLOCK_SLACK}
    connection.execute(f"update {table} set seen_at = $now where seen_at > $latest", values)
    # The newest of them would hide every later payload.
    connection.execute(
        f"update {table} s set fetched_at = $now::timestamp - to_microseconds(n.number) from (select api, fetched_at, "
        f"row_number() over (partition by api order by fetched_at desc) as number from {table} "
        "where fetched_at > $latest) n where s.api = n.api and s.fetched_at = n.fetched_at",
        values,
    )


def _note_seen(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    seen: Sequence[str],
    arrivals: Mapping[str, Arrival],
    now: datetime,
) -> None:
    if not seen:
        return
    rows = {
        "api": texts(seen),
        "etag": texts(arrivals[name].etag for name in seen),
        "last_modified": texts(arrivals[name].last_modified for name in seen),
    }
    with registered(connection, "seen", rows):
        connection.execute(
            f'update "{collection}".snapshots s set seen_at = $now, etag = seen.etag, '
            "last_modified = seen.last_modified from seen "
            "where s.api = seen.api and s.fetched_at = (select max(n.fetched_at) "
            f'from "{collection}".snapshots n where n.api = s.api)',
            {"now": timestamp(now)},
        )


def _insert(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    changed: Mapping[str, Arrival],
    hashes: Mapping[str, str],
    now: datetime,
) -> None:
    if not changed:
        return
    arrivals = list(changed.values())
    rows = {
        "api": texts(changed),
        "status": np.array([arrival.status for arrival in arrivals], dtype=np.int32),
        "url_used": texts(clean(arrival.url_used) for arrival in arrivals),
        "content_type": texts(arrival.content_type for arrival in arrivals),
        "bytes": np.array([arrival.bytes for arrival in arrivals], dtype=np.int64),
        "content_hash": texts(hashes[name] for name in changed),
        "etag": texts(arrival.etag for arrival in arrivals),
        "last_modified": texts(arrival.last_modified for arrival in arrivals),
        "payload": texts(clean_payload(text_of(arrival.payload)) for arrival in arrivals),
        # When it came: a question may wait a minute for its host, and bars that open meanwhile do not know the answer.
        "fetched_at": np.array([_after(now, arrival) for arrival in arrivals], dtype="datetime64[us]"),
    }
    with registered(connection, "arrived", rows):
        connection.execute(
            f'insert into "{collection}".snapshots by name select *, fetched_at as seen_at from arrived order by api'
        )
        connection.execute(
            "create temp table touched as "
            "select api as instrument, '' as timeframe, null::timestamp as since from arrived"
        )
    record_changes(connection, collection, [ASSET])
    connection.execute("drop table touched")


def _after(now: datetime, arrival: Arrival) -> datetime:
    """The instant at which an answer came that was asked for at `now`."""
    return timestamp(now) + timedelta(seconds=arrival.attempt.seconds or 0)


def clean_payload(text: str) -> str:
    """A payload without characters that a database rejects; what it says is kept."""
    return text.replace("\x00", "")


def _write_outcomes(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    results: Mapping[str, Attempt],
    arrivals: Mapping[str, Arrival],
    now: datetime,
) -> None:
    rows = {
        "api": texts(results),
        "outcome": texts(attempt.outcome.value for attempt in results.values()),
        "reason": texts(attempt.reason for attempt in results.values()),
        "transient": np.array([attempt.transient for attempt in results.values()], dtype=bool),
        "due_at": np.array([arrivals[name].due_at for name in results], dtype="datetime64[us]"),
    }
    table = f'"{collection}".api_outcomes'
    with registered(connection, "attempts", rows):
        connection.execute(
            "create temp table attempted as select a.*, a.outcome = 'failed' as is_failed, "
            "if(a.outcome = 'failed', coalesce(o.failures, 0) + 1, 0)::integer as failures, "
            "coalesce(o.successes, 0) + (a.outcome <> 'failed')::integer as successes, "
            "coalesce(o.errors, 0) + (a.outcome = 'failed')::integer as errors, $now::timestamp as attempted_at "
            f"from attempts a left join {table} o using (api)",
            {"now": timestamp(now)},
        )
    connection.execute(f"delete from {table} o using attempted a where o.api = a.api")
    connection.execute(f"insert into {table} by name select * exclude (is_failed) from attempted")
    connection.execute("drop table attempted")


def delete_history(connection: duckdb.DuckDBPyConnection, collection: str, api: str, before: datetime | None) -> int:
    """Delete the payloads of an API but its newest one, those seen last before an instant where one is given."""
    [(count,)] = connection.execute(
        f'delete from "{collection}".snapshots where api = $api and fetched_at < (select max(fetched_at) '
        f'from "{collection}".snapshots where api = $api) and ($before is null or seen_at < $before)',
        {"api": api, "before": None if before is None else timestamp(before)},
    ).fetchall()
    return count


def prune(connection: duckdb.DuckDBPyConnection, collection: Collection, now: datetime) -> int:
    """Delete payloads that are more or older than each API keeps, never its newest; gives how many."""
    return sum(
        _prune(connection, collection.name, question, question.api.keep, now) for question in collection.questions
    )


def _prune(
    connection: duckdb.DuckDBPyConnection, collection: str, question: ApiQuestion, keep: Keep, now: datetime
) -> int:
    [(count,)] = connection.execute(
        f'delete from "{collection}".snapshots s using (select api, fetched_at, row_number() over (order by fetched_at '
        f'desc) as number from "{collection}".snapshots where api = $api) n where s.api = n.api '
        "and s.fetched_at = n.fetched_at and n.number > 1 and (n.number > $payloads or s.seen_at < $oldest)",
        {"api": question.id, "payloads": keep.payloads, "oldest": timestamp(now) - timedelta(days=keep.days)},
    ).fetchall()
    return count
