"""One SQL query of a user: it reads the warehouse, reaches no other file, and ends in time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import duckdb

from refresh_pipeline.files.atomic import replacing
from refresh_pipeline.warehouse.connection import connect

# DuckDB counts 16 MB pieces for each thread while it writes Parquet.
MEMORY = "1GB"
COPY_OPTIONS = {"csv": "format csv, header", "parquet": "format parquet"}


class QueryError(ValueError):
    """The query is none, or DuckDB cannot run it; the message says why."""


def require_query(sql: str) -> None:
    """Refuse a text that is not one SELECT.

    >>> require_query("from demo.raw_candles limit 1")
    >>> require_query("drop table demo.raw_candles")
    Traceback (most recent call last):
    ...
    refresh_pipeline.warehouse.sql_query.QueryError: found a statement of type drop, allowed: one select

    Raises:
        QueryError: it is no SQL, several statements, or another one.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(_message(error)) from error
    if len(statements) != 1:
        raise QueryError(f"found {len(statements)} statements, allowed: one select")
    if statements[0].type != duckdb.StatementType.SELECT:
        hint = "; a pivot names its values: on x in (...)" if statements[0].type == duckdb.StatementType.MULTI else ""
        raise QueryError(f"found a statement of type {statements[0].type.name.lower()}, allowed: one select{hint}")


def print_table(database: str, sql: str, *, width: int, most_rows: int, seconds: float) -> None:
    """Print the query's rows as a table of at most `width` characters and `most_rows` rows, types included.

    Raises:
        QueryError: it is not one SELECT, DuckDB cannot run it, or it takes more than `seconds`.
        WarehouseBusy: another process holds the file.
        WarehouseUnreadable: the file is missing or damaged.
    """
    require_query(sql)
    with _reading(database, seconds) as connection:
        connection.sql(sql).show(max_width=width, max_rows=most_rows)


def write_file(database: str, sql: str, path: Path, *, kind: str, seconds: float) -> None:
    """Write the query's rows to a file, whole or not at all; raises as `print_table` does.

    Args:
        database: the warehouse's file.
        sql: one SELECT.
        path: a file to write or replace.
        kind: csv or parquet.
        seconds: after which the query is ended.

    Raises:
        OSError: the file cannot be written.
    """
    require_query(sql)
    # DuckDB's rights are a list of paths: the file is made in a folder of its own, and moved.
    with replacing(path) as part, TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder).absolute() / f"rows.{kind}"
        with _reading(database, seconds, made) as connection:
            # A line break ends a comment at the query's end.
            connection.execute(f"copy ({sql.strip().rstrip(';')}\n) to '{_quoted(made)}' ({COPY_OPTIONS[kind]})")
        made.rename(part)


@contextmanager
def _reading(database: str, seconds: float, output: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads the warehouse alone; errors of the query in words."""
    outputs = [output] if output else []
    with connect(database, read_only=True, memory_limit=MEMORY, only_files=outputs) as connection:
        timer = Timer(seconds, connection.interrupt)
        timer.start()
        try:
            yield connection
        except duckdb.InterruptException as error:
            raise QueryError(
                f"the query took more than {seconds:g} s; ask for fewer rows, or more --seconds"
            ) from error
        except duckdb.Error as error:
            raise QueryError(_message(error)) from error
        finally:
            timer.cancel()


def _message(error: BaseException) -> str:
    return "\n".join(line for line in str(error).strip().splitlines() if line.strip())


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
