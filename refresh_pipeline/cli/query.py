"""The command `query`: SQL that reads the warehouse."""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from refresh_pipeline.cli.console import out
from refresh_pipeline.cli.options import DataDirOption, require_stored, warehouse_errors, wrong_requests


def query(
    *,
    sql: Annotated[str, typer.Argument(help="One select statement; - reads it from standard input.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    parquet: Annotated[str | None, typer.Option("--parquet", help="Write this Parquet file instead.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Show at most this many rows in the table.")] = 40,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="End the query after this time.")] = 30.0,
    data_dir: DataDirOption = None,
) -> None:
    """Read the warehouse by SQL; the query writes nothing and reaches no other file."""
    from refresh_pipeline.settings import load_settings

    with wrong_requests():
        settings = load_settings(data_dir=data_dir)
        if csv and parquet:
            raise ValueError("--csv and --parquet: found both, allowed: one of them")
        require_stored(settings)
        text = sys.stdin.read() if sql == "-" else sql
    from refresh_pipeline.warehouse import sql_query

    database = settings.warehouse
    with warehouse_errors(), wrong_requests():
        if parquet:
            sql_query.write_file(database, text, Path(parquet).expanduser(), kind="parquet", seconds=seconds)
        elif csv:
            _print_csv(database, text, seconds)
        else:
            sql_query.print_table(database, text, width=out.width, most_rows=rows, seconds=seconds)


def _print_csv(database: str, sql: str, seconds: float) -> None:
    """Through a file: who reads our output slowly must not keep the warehouse from a refresh."""
    from refresh_pipeline.warehouse import sql_query

    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        sql_query.write_file(database, sql, file, kind="csv", seconds=seconds)
        with file.open(encoding="utf-8") as text:
            shutil.copyfileobj(text, sys.stdout)
