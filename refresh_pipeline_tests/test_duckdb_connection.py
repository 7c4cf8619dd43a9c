"""Connections to DuckDB: no extension is loaded, and nobody changes the configuration afterwards."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from refresh_pipeline.duckdb_connection import open_duckdb
from refresh_pipeline.files.reader import TableReader
from refresh_pipeline.files.writer import TableWriter
from refresh_pipeline.settings import SettingsError, load_settings
from refresh_pipeline.warehouse.connection import WarehouseUnreadable, connect

REFUSED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
    "lock_configuration": "true",
}
SCHEMES = ("sqlite:x", "md:x", "ducklake:x.db", "http://127.0.0.1:1/x", "s3://bucket/x", "postgres:host=x password=y")


def options(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    names = ", ".join(f"'{name}'" for name in REFUSED)
    return dict(
        connection.execute(f"select name, lower(value) from duckdb_settings() where name in ({names})").fetchall()
    )


@pytest.mark.parametrize("read_only", [False, True])
def test_the_warehouse_loads_no_extension_and_locks_its_configuration(tmp_path: Path, read_only: bool) -> None:
    database = str(tmp_path / "refresh.duckdb")
    with connect(database):
        pass
    with connect(database, read_only=read_only) as connection:
        assert options(connection) == REFUSED
        for statement in ("set threads = 1", "set allow_unsigned_extensions = true", "reset memory_limit"):
            with pytest.raises(duckdb.Error, match=r"configuration has been locked|while database is running"):
                connection.execute(statement)


def test_export_files_are_read_and_written_with_the_same_configuration() -> None:
    with TableReader() as reader, TableWriter() as writer:
        assert options(reader._connection) == REFUSED
        assert options(writer._connection) == REFUSED
        assert reader._connection.execute("select current_setting('TimeZone')").fetchall() == [("UTC",)]


def test_two_connections_of_a_process_share_the_warehouse(tmp_path: Path) -> None:
    database = str(tmp_path / "refresh.duckdb")
    with connect(database) as first, connect(database) as second:
        first.execute("create table t as select 1 as n")
        assert second.execute("select n from t").fetchall() == [(1,)]
        assert options(second) == REFUSED


def test_a_file_of_another_kind_loads_no_extension(tmp_path: Path) -> None:
    database = tmp_path / "refresh.duckdb"
    with closing(sqlite3.connect(database)) as other, other:
        other.execute("create table t (n integer)")
    with pytest.raises(WarehouseUnreadable), connect(str(database)):
        pass


@pytest.mark.parametrize("database", SCHEMES)
def test_a_database_is_a_path_of_this_machine(database: str) -> None:
    # The one scheme of a warehouse is a lake's, of which this is no whole address.
    allowed = "ducklake:postgresql://" if database.startswith("ducklake:") else "a path without a scheme"
    for refused, match in (
        (lambda: open_duckdb(database), "a path without a scheme"),
        (lambda: connect(database).__enter__(), allowed),
    ):
        with pytest.raises(ValueError, match=f"allowed: {match}") as caught:
            refused()
        assert "password" not in str(caught.value)


@pytest.mark.parametrize("name", ["database_path", "data_dir", "backup_dir"])
@pytest.mark.parametrize("path", SCHEMES)
def test_settings_refuse_a_path_with_a_scheme(name: str, path: str) -> None:
    with pytest.raises(SettingsError, match="allowed: a path without a scheme"):
        load_settings(**{name: path})


def test_a_drive_letter_is_no_scheme() -> None:
    assert load_settings(database_path="C:/candles/refresh.duckdb").database.name == "refresh.duckdb"


def test_an_instance_outlives_its_file_and_lets_it_go(tmp_path: Path) -> None:
    database = str(tmp_path / "refresh.duckdb")
    with connect(database) as first:
        first.execute("create table t as select 1 as n")
        first.execute("create temp table mine as select 1 as n")
    # Another program may have the file now, and nothing of the first connection is left.
    with duckdb.connect(database) as other:
        other.execute("insert into t values (2)")
    with connect(database, read_only=True) as second, connect(database, read_only=True) as third:
        for connection in (second, third):
            assert connection.execute("select sum(n) from t").fetchall() == [(3,)]
        with pytest.raises(duckdb.CatalogException, match="mine does not exist"):
            second.execute("from mine")
        with pytest.raises(duckdb.Error, match="read-only"):
            third.execute("insert into t values (3)")


def test_threads_open_and_close_one_file_side_by_side(tmp_path: Path) -> None:
    database = str(tmp_path / "refresh.duckdb")
    with connect(database) as connection:
        connection.execute("create table t (n integer)")

    def work(number: int) -> int:
        with connect(database) as connection:
            connection.execute("insert into t values (?)", [number])
        with connect(database, read_only=True) as connection:
            return connection.execute("select count(*) from t where n = ?", [number]).fetchall()[0][0]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(40))) == [1] * 40


def test_a_forked_process_opens_files_of_its_own_and_ends_as_it_should(tmp_path: Path) -> None:
    program = (
        "import os, sys; from refresh_pipeline.warehouse.connection import connect\n"
        "with connect(sys.argv[1]) as c: c.execute('create table t as select 1 as n')\n"
        "if child := os.fork(): sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "with connect(sys.argv[1]) as c: print(c.execute('from t').fetchall())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "refresh.duckdb")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[(1,)]\n"
