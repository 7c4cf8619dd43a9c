"""The one door to DuckDB: every connection is opened here and keeps the configuration it got.

None loads an extension, but those of a lake, which come as packages.
DuckDB downloads and loads extensions (code) by itself where a path or a setting asks for one. Nothing here waits for a
file's lock: that is the warehouse's part.
"""

import threading
from collections.abc import Mapping, Sequence
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
# A connection that is opened while another thread of this process opens the same file for the first time lacks DuckDB's
# functions for arrays ("pandas_scan does not exist").
_OPENING = threading.Lock()
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
    with _OPENING:
        connection = duckdb.connect(database, read_only=read_only, config={**(config or {}), **NO_EXTENSIONS})
    try:
        _configure(connection, {**(session or {}), "lock_configuration": True})
    except BaseException:
        connection.close()
        raise
    return connection


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
