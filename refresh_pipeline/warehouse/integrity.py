"""Reads a database file to its end, so that a damaged block is met before the file counts as good.

DuckDB verifies a block's checksum when it reads the block. `count(*)` reads no block: it is answered from metadata.
"""

import duckdb

from refresh_pipeline.files.writer import quoted
from refresh_pipeline.warehouse.connection import connect


def read_every_row(database: str) -> dict[str, int]:
    """Read every column of every row of every table; the number of rows of each table, as `schema.table`.

    Raises:
        WarehouseDamaged: a block cannot be read.
        WarehouseUnreadable: the file cannot be opened.
        WarehouseBusy: another process has the file open.
    """
    with connect(database, read_only=True) as connection:
        return {f"{schema}.{table}": _read(connection, schema, table) for schema, table in _tables(connection)}


def count_rows(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """The number of rows of each table, as `schema.table`, from metadata alone."""
    return {f"{schema}.{table}": _count(connection, schema, table) for schema, table in _tables(connection)}


def _tables(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    return connection.execute(
        "select schema_name, table_name from duckdb_tables() where database_name = current_database() order by all"
    ).fetchall()


def _read(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> int:
    # The hash of a whole row needs every column; minimum and maximum would come from statistics.
    [(count, _)] = connection.execute(
        f"select count(*), bit_xor(hash(t)) from {quoted(schema)}.{quoted(table)} t"
    ).fetchall()
    return count


def _count(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> int:
    [(count,)] = connection.execute(f"select count(*) from {quoted(schema)}.{quoted(table)}").fetchall()
    return count
