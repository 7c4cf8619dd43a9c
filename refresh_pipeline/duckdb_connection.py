"""The one door to DuckDB: every connection is opened here and keeps the configuration it got.

None loads an extension, but those of a lake, which come as packages.
DuckDB downloads and loads extensions (code) by itself where a path or a setting asks for one. Nothing here waits for a
file's lock: that is the warehouse's part.
"""

import atexit
import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from refresh_pipeline.settings import scheme_of

SessionValue = str | int | bool | Sequence[str]

IN_MEMORY = ":memory:"
# No extension is loaded from the network or from a folder, whoever signed it. Those that DuckDB is built with stay.
NO_EXTENSIONS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
}
# DuckDB's words where an earlier connection of this process to the same file has locked it already.
LOCKED_ALREADY = "configuration has been locked"


def open_duckdb(
    database: str = IN_MEMORY,
    *,
    read_only: bool = False,
    config: Mapping[str, str | int] | None = None,
    session: Mapping[str, SessionValue] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A connection whose configuration nobody can change; the caller closes it.

    Args:
        database: the path of a file, or ":memory:".
        read_only: whether the file may not be written.
        config: DuckDB's global options, for instance threads; the same for all connections of a process to one file.
        session: options of this connection, for instance TimeZone. A second connection of a process to the same file
            gets DuckDB's defaults instead.

    Raises:
        ValueError: the database's path has a scheme such as `sqlite:`.
        duckdb.Error: DuckDB cannot open the file, or knows no option of that name.
    """
    if database != IN_MEMORY:
        require_path(database)
    with _kept.opening:
        connection = duckdb.connect(database, read_only=read_only, config={**(config or {}), **NO_EXTENSIONS})
    try:
        _configure(connection, {**(session or {}), "lock_configuration": True})
    except BaseException:
        connection.close()
        raise
    return connection


def attach_duckdb(database: str, *, read_only: bool, config: Mapping[str, str | int]) -> "AttachedFile":
    """A connection to a file in an instance of DuckDB that stays when the file is closed; the caller closes it.

    A new instance registers thousands of functions, which takes 20 ms of processor time; attaching takes one. Its
    configuration is locked, as that of `open_duckdb`, and so is no file's while it is closed.

    Args:
        database: the path of a file.
        read_only: whether the file may not be written.
        config: DuckDB's global options.

    Raises:
        ValueError: the database's path has a scheme such as `sqlite:`.
        duckdb.Error: DuckDB cannot open the file, or this process has it open in the other mode.
    """
    require_path(database)
    instance = _kept.taken(database, config)
    try:
        return AttachedFile(instance, instance.open(read_only=read_only))
    except duckdb.Error as error:
        _kept.given_back(instance, failed=isinstance(error, duckdb.FatalException | duckdb.InternalException))
        raise


def end_idle_instances() -> None:
    """Give back what DuckDB keeps of large reads, tens of megabytes; the next file opened takes 20 ms longer."""
    _kept.end(idle_alone=True)


def open_with_extensions(
    extensions: Sequence[Path],
    statements: Sequence[str],
    *,
    config: Mapping[str, str | int],
    session: Mapping[str, SessionValue],
) -> duckdb.DuckDBPyConnection:
    """A connection in memory with these extensions, files that were installed as packages; the caller closes it.

    The statements, for instance an `attach`, run before the configuration is locked. No other extension is loaded.

    Raises:
        duckdb.Error: an extension is of another DuckDB, or a statement fails.
    """
    connection = duckdb.connect(IN_MEMORY, config={**config, **NO_EXTENSIONS})
    try:
        for statement in (*(f"load {_literal(str(extension))}" for extension in extensions), *statements):
            connection.execute(statement)
        _configure(connection, {**session, "lock_configuration": True})
    except BaseException:
        connection.close()
        raise
    return connection


def require_path(database: str) -> None:
    """Refuse a database that is no path of a file; what follows the scheme is not shown, it may hold a password.

    >>> require_path("data/refresh.duckdb")
    >>> require_path("C:/data/refresh.duckdb")
    >>> require_path("sqlite:data/other")
    Traceback (most recent call last):
    ...
    ValueError: found 'sqlite:...', allowed: a path without a scheme

    Raises:
        ValueError: it starts with a scheme.
    """
    if scheme := scheme_of(database):
        raise ValueError(f"found '{scheme}...', allowed: a path without a scheme")


class _Instance:
    """An instance of DuckDB in memory, to which one file is attached while somebody has it open."""

    def __init__(self, database: str, config: Mapping[str, str | int]) -> None:
        self.key = _key(database, config)
        # Those who have it or are about to; `_kept` counts them.
        self.users = 0
        self._database = database
        self._name = _name_of(database)
        # What does not fit in memory spills beside the file, as where DuckDB opens the file itself.
        options = {**config, "temp_directory": f"{database}.tmp", **NO_EXTENSIONS}
        self._connection = duckdb.connect(IN_MEMORY, config=options)
        _configure(self._connection, {"lock_configuration": True})
        # Attaching and detaching; a large file's changes are written to it meanwhile.
        self._lock = threading.Lock()
        self._openings = 0
        self._read_only = False

    def open(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if not self._openings or read_only != self._read_only:
                mode = "read_only" if read_only else "read_write"
                self._connection.execute(f"attach {_literal(self._database)} as {self._name} (type duckdb, {mode})")
                self._read_only = read_only
            self._openings += 1
            cursor = self._connection.cursor()
        cursor.execute(f"use {self._name}")
        return cursor

    def close(self) -> None:
        with self._lock:
            self._openings -= 1
            if not self._openings:
                self._connection.execute(f"detach {self._name}")

    def end(self) -> None:
        with suppress(duckdb.Error):
            self._connection.close()

    def keep_untouched(self) -> None:
        keep_untouched(self._connection)


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A file that is open, until it is closed."""

    _instance: _Instance
    connection: duckdb.DuckDBPyConnection

    def close(self, *, failed: bool = False) -> None:
        """End the connection, and let the file go if it was the last; an instance in which something failed ends too.

        Rows that were not fetched, and what was not committed, end with it.
        """
        self.connection.close()
        try:
            self._instance.close()
        except duckdb.Error:
            failed = True
            raise
        finally:
            _kept.given_back(self._instance, failed=failed)


class _Kept:
    """The instances of this process, the one that was opened last at the end."""

    def __init__(self) -> None:
        # A connection that is opened while another thread of this process opens the same file for the first time lacks
        # DuckDB's functions for arrays ("pandas_scan does not exist").
        self.opening = threading.Lock()
        self._instances: dict[_Key, _Instance] = {}

    def taken(self, database: str, config: Mapping[str, str | int]) -> _Instance:
        key = _key(database, config)
        with self.opening:
            instance = self._instances.pop(key, None) or _Instance(database, config)
            self._instances[key] = instance
            instance.users += 1
            idle = [each for each in self._instances.values() if not each.users]
            for oldest in idle[:-INSTANCES_KEPT]:
                self._instances.pop(oldest.key).end()
            return instance

    def given_back(self, instance: _Instance, *, failed: bool) -> None:
        with self.opening:
            instance.users -= 1
            if failed and self._instances.get(instance.key) is instance:
                del self._instances[instance.key]
            if not instance.users and self._instances.get(instance.key) is not instance:
                instance.end()

    def forget_parents(self) -> None:
        for instance in self._instances.values():
            instance.keep_untouched()
        self.opening, self._instances = threading.Lock(), {}

    def end(self, *, idle_alone: bool = False) -> None:
        with self.opening:
            for instance in list(self._instances.values()):
                if not (idle_alone and instance.users):
                    self._instances.pop(instance.key).end()


_Key = tuple[str, frozenset[tuple[str, str | int]]]
# The warehouse, as it is written and with the memory of a reader, and one more file; each idle instance takes 4.5 MB.
INSTANCES_KEPT = 3
_kept = _Kept()
os.register_at_fork(after_in_child=_kept.forget_parents)
atexit.register(_kept.end)
# Names that DuckDB gives to databases of its own.
NAMES_OF_DUCKDB = {"memory", "system", "temp"}


def keep_untouched(connection: duckdb.DuckDBPyConnection) -> None:
    """Let a forked child never end a connection of its parent, not even at its exit: the threads are not there."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _key(database: str, config: Mapping[str, str | int]) -> _Key:
    return database, frozenset(config.items())


def _name_of(file: str) -> str:
    stem = Path(file).stem
    name = f"{stem}_db" if stem.lower() in NAMES_OF_DUCKDB else stem
    return '"' + name.replace('"', '""') + '"'


def _configure(connection: duckdb.DuckDBPyConnection, options: Mapping[str, SessionValue]) -> None:
    for name, value in options.items():
        try:
            connection.execute(f"set {name} = {_literal(value)}")
        except duckdb.Error as error:
            if LOCKED_ALREADY not in str(error):
                raise


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
