"""The warehouse as a lake: DuckLake with its catalogue in PostgreSQL and its rows as Parquet, in a bucket or a folder.

Several machines write it. DuckLake alone stores a new series twice where two writers come at once, and refuses a delete
beside any insert into the same table. So one writer at a time works on a market: it holds a lock of PostgreSQL, which
ends with its process or its host. Readers wait for nobody.

What a market's tables are, and what is done with them, is the other modules' part: their statements run on both.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from hashlib import blake2b
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import duckdb

from refresh_pipeline.duckdb_connection import SessionValue, keep_untouched, open_with_extensions
from refresh_pipeline.extras import install_command
from refresh_pipeline.settings import object_store_access
from refresh_pipeline.warehouse.connection import (
    AFTER_TRANSACTION,
    CONFIG,
    LARGEST_SPILL,
    MEMORY,
    SESSION,
    Opening,
    Signature,
    WarehouseBusy,
    WarehouseUnreadable,
)
from refresh_pipeline.warehouse.schema import Table

SCHEME = "ducklake:"
EXAMPLE = "ducklake:postgresql://user@host/database?data=s3://bucket/prefix"
# The lake's name in SQL: a market cannot be called so.
LAKE = "refresh_lake"
PINNED = "constraints-cluster.txt"
# Rows of the tables that say how things stand: so many in one transaction are kept in PostgreSQL, not in a file each.
INLINED_ROWS = 3000
LARGE_TABLES = (Table.raw_candles, Table.enhanced_candles, Table.indicators)
# Another market's writer commits at the same moment: DuckLake tries again by itself, after so many milliseconds. By
# default its waits grow by half each time, which makes a hundred of them endless.
COMMITS_TRIED, WAIT_TO_COMMIT = 100, 50
# Nobody reads one snapshot for longer; a file that no snapshot has is deleted. Less than the time between two upkeeps,
# so that each deletes what the one before has merged.
SNAPSHOTS_KEPT = "interval 10 minutes"
# Files up to this size are merged: of larger ones a merge would rewrite the whole table.
MERGED = ", max_file_size => 64000000"
# Files of which a larger share is deleted are written anew, or they are never merged: each tick changes late columns.
REWRITTEN = ", delete_threshold => 0.001"
# DuckDB's words where PostgreSQL has gone while it was attached.
DISCONNECTED = ("server closed the connection", "Unable to connect to Postgres", "connection to server", "SSL SYSCALL")
# And where the bucket has gone, or does not let us in; the messages name addresses, and no key.
NO_BUCKET = ("Could not connect to server error for HTTP", "HTTP Error", "HTTP GET error", "HTTP PUT error")
# Seconds to reach PostgreSQL, and until this host misses a server that has vanished.
CONNECT_TIMEOUT = 10
KEEPALIVES = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
# Keepalives do not end a session whose question was sent and is never acknowledged; this does, in milliseconds.
UNACKNOWLEDGED = {"tcp_user_timeout": 25_000}
# The same for the server, which misses this host: without, it keeps the lock of a host that has vanished for two hours.
OF_THE_SERVER = (
    "set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; "
    "set tcp_user_timeout = 25000"
)
# Of the change feed, in the catalogue's database: a lake itself has no sequences.
SEQUENCE, FEED_TABLE = "refresh_change_version", "refresh_feed"
LOCK_TIMEOUT = "55P03"


@dataclass(frozen=True)
class LakePlace:
    """A lake by its address; raises ValueError where the address is none."""

    address: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.address.removeprefix(SCHEME))
        if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/") or not self.data:
            raise ValueError(f"found a lake's address that is not shown, allowed: {EXAMPLE}")

    @cached_property
    def catalogue(self) -> str:
        """The address of the catalogue's database, for libpq."""
        parts = urlsplit(self.address.removeprefix(SCHEME))
        options = [(name, value) for name, value in parse_qsl(parts.query) if name != "data"]
        return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options), ""))

    @cached_property
    def data(self) -> str:
        """The folder or the bucket that holds the Parquet files."""
        return dict(parse_qsl(urlsplit(self.address.removeprefix(SCHEME)).query)).get("data", "")

    @property
    def name(self) -> str:
        """The address without the password."""
        parts = urlsplit(self.catalogue)
        user = f"{parts.username}@" if parts.username else ""
        port = f":{parts.port}" if parts.port else ""
        return f"{SCHEME}postgresql://{user}{parts.hostname or ''}{port}{parts.path}?data={self.data}"

    @property
    def file(self) -> None:
        """None: a lake is no file."""
        return

    @property
    def folder(self) -> None:
        """None: its disk is another machine's."""
        return

    @property
    def exists(self) -> bool:
        """Whether the catalogue was created.

        Raises:
            WarehouseUnreadable: PostgreSQL does not answer.
        """
        return self._ask("select to_regclass('ducklake_metadata') is not null")[0]

    @property
    def identity(self) -> object:
        """The catalogue's own number."""
        return self._ask("select schema_uuid::text from ducklake_schema where schema_id = 0 limit 1")[0]

    @property
    def bytes(self) -> int:
        """The size of the catalogue's database and of the files."""
        files = "(select sum(file_size_bytes) from ducklake_data_file)" if self.exists else "0"
        return int(self._ask(f"select pg_database_size(current_database()) + coalesce({files}, 0)")[0])

    def signature(self) -> Signature:
        """The catalogue's number and its newest snapshot."""
        if not self.exists:
            return ((),)
        latest = "select schema_uuid::text, (select max(snapshot_id) from ducklake_snapshot) from ducklake_schema"
        return (self._ask(f"{latest} where schema_id = 0 limit 1"),)

    @contextmanager
    def opened(self, opening: Opening) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor of the instance that this process has attached.

        A reader sees one snapshot. A writer holds its market's lock, or that of all markets, until the block ends.
        """
        if opening.read_only:
            with self._cursor(opening) as cursor:
                cursor.execute("begin transaction read only")
                yield cursor
            return
        session = self._locked(opening)
        try:
            with self._cursor(opening) as cursor:
                _writers[id(cursor)] = session
                try:
                    yield cursor
                finally:
                    del _writers[id(cursor)]
                    AFTER_TRANSACTION.pop(id(cursor), None)
        finally:
            session.close()

    def detach(self) -> None:
        """Let this process attach the lake anew when it opens it next, as after PostgreSQL was away."""
        with _attaching:
            alias = _aliases.pop(self.address, None)
            if alias is not None:
                with suppress(duckdb.Error):
                    _instances[0].execute(f"detach {alias}")
        with _asking:
            session = _looks.pop(self.address, None)
        if session is not None:
            session.close()

    def ask_store(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Ask the folder or the bucket for names that it has not: what was read before may be answered from memory.

        Raises:
            duckdb.Error: the bucket does not answer, of which `is_outage` is true.
        """
        connection.execute("select count(*) from glob($1)", [f"{self.data.rstrip('/')}/none-*"]).fetchall()

    def merge_files(self, market: str) -> None:
        """Upkeep: forget old snapshots, merge small files, rewrite those with many deleted rows, delete unused ones.

        Ticks write a few files each. A file that is large enough stays as it is.
        """
        with self.opened(Opening(market=market)) as connection:
            [(lake,)] = connection.execute("select current_database()").fetchall()
            connection.execute(f"call ducklake_expire_snapshots('{lake}', older_than => now() - {SNAPSHOTS_KEPT})")
            for table in (table.value for table in LARGE_TABLES):
                for function, option in (("rewrite_data_files", REWRITTEN), ("merge_adjacent_files", MERGED)):
                    connection.execute(f"call ducklake_{function}('{lake}', ?, schema => ?{option})", [table, market])
            connection.execute(f"call ducklake_cleanup_old_files('{lake}', older_than => now() - {SNAPSHOTS_KEPT})")

    @contextmanager
    def _cursor(self, opening: Opening) -> Iterator[duckdb.DuckDBPyConnection]:
        if opening.only_files is not None:
            alias, cursor = LAKE, _restricted(self, opening.memory_limit, opening.only_files)
        else:
            alias, cursor = self._attached()
        try:
            cursor.execute(f"use {alias}")
            yield cursor
        except duckdb.Error as error:
            if any(phrase in str(error) for phrase in DISCONNECTED):
                self.detach()
                raise self.unreadable(error) from error
            if any(phrase in str(error) for phrase in NO_BUCKET):
                raise WarehouseUnreadable(
                    f"wanted files of {self.name}, the store of objects says: {_first_line(error)}. Nothing is stored; "
                    "the next refresh fetches it."
                ) from error
            raise
        finally:
            # Rows that were not fetched, and a reader's transaction, end with it.
            cursor.close()

    def _attached(self) -> tuple[str, duckdb.DuckDBPyConnection]:
        """The lake's name in this process's instance, and a cursor of it."""
        with _attaching:
            try:
                if not _instances:
                    _instances.append(_instance(MEMORY, SESSION, ()))
                alias = _aliases.get(self.address)
                if alias is None:
                    alias = f"{LAKE}_{next(_numbers)}"
                    for statement in _attach(self, alias):
                        _instances[0].execute(statement)
                    _aliases[self.address] = alias
                return alias, _instances[0].cursor()
            except duckdb.Error as error:
                raise self.unreadable(error) from error

    def _locked(self, opening: Opening) -> Any:
        """A session of PostgreSQL that holds the writers' lock."""
        session = self._session()
        wanted = (("", opening.market is None), *([] if opening.market is None else [(opening.market, True)]))
        try:
            with session.cursor() as cursor:
                cursor.execute("select set_config('lock_timeout', %s, false)", [f"{opening.patience * 1000:.0f}ms"])
                for subject, alone in wanted:
                    function = "pg_advisory_lock" if alone else "pg_advisory_lock_shared"
                    cursor.execute(f"select {function}(%s)", [lock_number(subject)])
        except BaseException as error:
            session.close()
            if getattr(error, "pgcode", None) != LOCK_TIMEOUT:
                raise self.unreadable(error) from error
            whose = f"market {opening.market}" if opening.market else "all markets"
            raise WarehouseBusy(
                f"wanted to write {whose} in {self.name}, waited {opening.patience:g} s, and another writer still "
                f"holds the lock{self._holders()}. End that process, or try again when it has finished."
            ) from error
        return session

    def _holders(self) -> str:
        """Who holds writers' locks, in words; empty where PostgreSQL does not say."""
        with suppress(WarehouseUnreadable):
            found = self._ask(
                "select string_agg(distinct 'PID ' || a.application_name, '; ') "
                "from pg_locks l join pg_stat_activity a using (pid) where l.locktype = 'advisory' and l.granted "
                "and l.database = (select oid from pg_database where datname = current_database())"
            )[0]
            return f": {found}" if found else ""
        return ""

    def _session(self) -> Any:
        name = f"{os.getpid()} of {os.uname().nodename}"
        try:
            session = _psycopg2().connect(
                self.catalogue, connect_timeout=CONNECT_TIMEOUT, application_name=name, **KEEPALIVES, **UNACKNOWLEDGED
            )
            session.autocommit = True
            with session.cursor() as cursor:
                cursor.execute(OF_THE_SERVER)
        except Exception as error:
            raise self.unreadable(error) from error
        return session

    def _ask(self, query: str) -> tuple[Any, ...]:
        """The one row of a query to the catalogue, over a session that this process keeps."""
        with _asking:
            for is_last in (False, True):
                session = _looks.get(self.address)
                if session is None:
                    session = _looks[self.address] = self._session()
                try:
                    with session.cursor() as cursor:
                        cursor.execute(query)
                        [row] = cursor.fetchall()
                        return row
                except Exception as error:
                    # A server that was restarted ends the session that was kept.
                    _looks.pop(self.address, None)
                    with suppress(Exception):
                        session.close()
                    if is_last:
                        raise self.unreadable(error) from error
        raise AssertionError

    def unreadable(self, error: BaseException) -> WarehouseUnreadable:
        """The error in words, without credentials."""
        if isinstance(error, WarehouseUnreadable):
            return error
        return WarehouseUnreadable(f"wanted to open {self.name}, the catalogue says: {_first_line(error)}")


def is_outage(error: Exception) -> bool:
    """Whether an error of a statement says that PostgreSQL or the store of objects of a lake does not answer."""
    return isinstance(error, duckdb.Error) and any(phrase in str(error) for phrase in (*DISCONNECTED, *NO_BUCKET))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# The instance of this process, the names of the lakes that it has attached, and kept sessions, by address. A forked
# child must neither use nor close its parent's: it keeps them untouched.
_instances: list[duckdb.DuckDBPyConnection] = []
_aliases: dict[str, str] = {}
_numbers = count(1)
_looks: dict[str, Any] = {}
_of_parents: list[Any] = []
_attaching, _asking = threading.Lock(), threading.Lock()
# The session that holds a writer's lock, by the id of its DuckDB connection.
_writers: dict[int, Any] = {}


def _forget_parents() -> None:
    global _attaching, _asking
    _attaching, _asking = threading.Lock(), threading.Lock()
    for instance in _instances:
        keep_untouched(instance)
    _of_parents.append((dict(_looks), dict(_writers)))
    for kept in (_instances, _aliases, _looks, _writers):
        kept.clear()


os.register_at_fork(after_in_child=_forget_parents)


def lock_number(subject: str) -> int:
    """The number of an advisory lock: a market's name; empty for all markets.

    >>> lock_number("demo") == lock_number("demo"), lock_number("demo") == lock_number("fx")
    (True, False)
    """
    return int.from_bytes(blake2b(f"refresh {subject}".encode(), digest_size=8).digest(), signed=True)


FEED = lock_number("/feed")

# ---- the change feed


def draw_versions(connection: duckdb.DuckDBPyConnection, count: int) -> int:
    """The first of so many versions in a row. Until the transaction ends, no other market's writer draws any.

    So versions become visible in the order in which they were drawn.
    """
    with _feeding(connection) as cursor:
        cursor.execute(f"select min(v) from (select nextval('{SEQUENCE}') as v from generate_series(1, %s)) s", [count])
        return int(cursor.fetchall()[0][0] or 0)


def begin_feed(connection: duckdb.DuckDBPyConnection, epoch: str, first_version: int) -> tuple[str, int]:
    """The epoch and the first version of the lake's feed: these, unless another market's writer has begun it."""
    with _feeding(connection) as cursor:
        cursor.execute(f"create table if not exists {FEED_TABLE} (epoch text, first_version bigint)")
        cursor.execute(f"select epoch, first_version from {FEED_TABLE}")
        begun = cursor.fetchall()
        if begun:
            return begun[0]
        cursor.execute(f"create sequence if not exists {SEQUENCE}")
        cursor.execute(f"select setval('{SEQUENCE}', %s, false)", [first_version])
        cursor.execute(f"insert into {FEED_TABLE} values (%s, %s)", [epoch, first_version])
        return epoch, first_version


@contextmanager
def _feeding(connection: duckdb.DuckDBPyConnection) -> Iterator[Any]:
    """A cursor of the writer's session, which holds the feed's lock until the transaction has ended."""
    session = _writers[id(connection)]
    with session.cursor() as cursor:
        if id(connection) not in AFTER_TRANSACTION:
            try:
                cursor.execute("select pg_advisory_lock(%s)", [FEED])
            except _psycopg2().errors.LockNotAvailable as error:
                raise WarehouseBusy("waited for another market's writer to commit: try again") from error
            AFTER_TRANSACTION[id(connection)] = partial(_release_feed, session)
        yield cursor


def keep_small_tables_in_catalogue(connection: duckdb.DuckDBPyConnection, market: str) -> None:
    """Let the rows of a market's small tables stay in PostgreSQL, so that a tick writes a file for each large one."""
    [(lake,)] = connection.execute("select current_database()").fetchall()
    rows = connection.execute(
        "select t.table_name from duckdb_tables() t where t.schema_name = $market "
        "and t.database_name = current_database() and not list_contains($large, t.table_name) and not exists ("
        f"from ducklake_options('{lake}') o where o.option_name = 'data_inlining_row_limit' "
        "and o.scope_entry = $market || '.' || t.table_name)",
        {"market": market, "large": [table.value for table in LARGE_TABLES]},
    ).fetchall()
    for (table,) in rows:
        connection.execute(
            f"call {lake}.set_option('data_inlining_row_limit', {INLINED_ROWS}, schema => ?, table_name => ?)",
            [market, table],
        )


def read_on(connection: duckdb.DuckDBPyConnection) -> None:
    """Let a reader ask more after a statement that failed: of a lake it is in a transaction, which the failure ends."""
    # Of a file there is no transaction to roll back.
    with suppress(duckdb.Error):
        connection.execute("rollback")
        connection.execute("begin transaction read only")


def is_lake(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a connection writes a lake."""
    return id(connection) in _writers


def _release_feed(session: Any) -> None:
    # Where PostgreSQL is gone, so is the lock.
    with suppress(Exception), session.cursor() as cursor:
        cursor.execute("select pg_advisory_unlock(%s)", [FEED])


# ---- attaching


def _instance(
    memory_limit: str, session: Mapping[str, SessionValue], statements: Sequence[str]
) -> duckdb.DuckDBPyConnection:
    """An instance of DuckDB with a lake's extensions, whose configuration is locked after the statements."""
    names = ("postgres_scanner", "ducklake", "httpfs")
    options: dict[str, SessionValue] = {
        "max_temp_directory_size": LARGEST_SPILL,
        "ducklake_max_retry_count": COMMITS_TRIED,
        "ducklake_retry_wait_ms": WAIT_TO_COMMIT,
        "ducklake_retry_backoff": 1,
        **session,
    }
    config = {**CONFIG, "memory_limit": memory_limit}
    return open_with_extensions([_extension(name) for name in names], statements, config=config, session=options)


def _restricted(place: LakePlace, memory_limit: str, only_files: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """An instance that reads the lake alone, and reaches its data, these files and nothing else of the disk."""
    session: dict[str, SessionValue] = {
        **SESSION,
        "allowed_directories": [place.data],
        "allowed_paths": [*map(str, only_files)],
        "enable_external_access": False,
    }
    try:
        return _instance(memory_limit, session, _attach(place, LAKE, "read_only"))
    except duckdb.Error as error:
        raise place.unreadable(error) from error


def _attach(place: LakePlace, alias: str, *options: str) -> list[str]:
    listed = ", ".join([f"data_path {_quoted(place.data)}", *options])
    attach = f"attach {_quoted(f'ducklake:postgres:{place.catalogue}')} as {alias} ({listed})"
    return [*_secrets(place.data), attach]


def _secrets(data: str) -> list[str]:
    if not data.startswith("s3://"):
        return []
    access = {name: value for name, value in object_store_access().items() if value}
    values = ", ".join(f"{name} {_quoted(value)}" for name, value in access.items())
    return [f"create or replace secret (type s3{', ' if values else ''}{values})"]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@cache
def _extension(name: str) -> Path:
    """The file of an extension that came as a package, of this DuckDB's version.

    Raises:
        WarehouseUnreadable: the package is missing, or of another version.
    """
    found = find_spec(f"duckdb_extension_{name}")
    folders = [Path(folder) for folder in found.submodule_search_locations or ()] if found else []
    for folder in folders:
        file = folder / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if file.is_file():
            return file
    raise WarehouseUnreadable(
        f"a lake needs DuckDB's extension {name} for DuckDB {duckdb.__version__}, which is not installed: "
        f"{install_command('lake', PINNED)}"
    )


def _psycopg2() -> Any:
    try:
        import psycopg2  # pyright: ignore[reportMissingModuleSource, reportMissingImports]  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise WarehouseUnreadable(
            f"a lake needs psycopg2, which is not installed: {install_command('lake', PINNED)}"
        ) from error
    return psycopg2
