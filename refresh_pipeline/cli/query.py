"""The command `query`: SQL that reads the warehouse."""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.compute import LAYERS
from refresh_pipeline.cli.console import out, print_warning
from refresh_pipeline.cli.options import DataDirOption, require_stored, warehouse_errors, wrong_requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from refresh_pipeline.warehouse.arrays import Arrays
    from refresh_pipeline.warehouse.sql_query import ComputedCall

# Of computed rows in memory: half a gigabyte.
MOST_CELLS = 60_000_000


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
        rewritten, calls = sql_query.computed_calls(text)
        views = {call.name: _computed(call, database, data_dir) for call in calls}
        if parquet:
            file = Path(parquet).expanduser()
            sql_query.write_file(database, rewritten, file, kind="parquet", seconds=seconds, views=views)
        elif csv:
            _print_csv(database, rewritten, seconds, views)
        else:
            sql_query.print_table(database, rewritten, width=out.width, most_rows=rows, seconds=seconds, views=views)
        for sentence in sql_query.expiring_rows(database, rewritten):
            print_warning(sentence)


def _computed(call: "ComputedCall", database: str, data_dir: str | None) -> "dict[str, NDArray]":
    """The rows of a call of `computed`, with the columns of the table that it names."""
    import numpy as np

    from refresh_pipeline.market.candles import instant, parse_instant
    from refresh_pipeline.market.series import Series
    from refresh_pipeline.market_files import load_markets
    from refresh_pipeline.settings import load_settings
    from refresh_pipeline.warehouse.arrays import BEGINNING, texts
    from refresh_pipeline.warehouse.schema import Table
    from refresh_pipeline.warehouse.warehouse import Warehouse

    if call.table not in LAYERS.values():
        raise ValueError(f"computed: found {call.table!r}, allowed: {', '.join(LAYERS.values())}")
    [market] = load_markets(load_settings(enabled_markets=call.market, data_dir=data_dir), named_by="computed")
    series = Series(market.instrument(call.instrument), market.timeframe(call.timeframe))
    since = BEGINNING if call.since is None else instant(parse_instant(call.since))
    until = None if call.until is None else instant(parse_instant(call.until))
    pieces, count = [], 0
    for piece in Warehouse(database).computed_rows(market, Table(call.table), series, since=since, until=until):
        pieces.append(piece)
        count += len(piece["open_time"])
        if count * len(piece) > MOST_CELLS:
            raise ValueError(
                f"computed: found more than {MOST_CELLS // len(piece):,} rows of {len(piece)} columns; name since and "
                "until, or write them to a file: refresh compute"
            )
    if not pieces:
        raise ValueError(f"computed: {market.name} {series}: no candle is stored there; refresh status lists series")
    keys = {"instrument": texts([series.instrument] * count), "timeframe": texts([series.timeframe.value] * count)}
    return keys | {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _print_csv(database: str, sql: str, seconds: float, views: "Mapping[str, Arrays]") -> None:
    """Through a file: who reads our output slowly must not keep the warehouse from a refresh."""
    from refresh_pipeline.warehouse import sql_query

    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        sql_query.write_file(database, sql, file, kind="csv", seconds=seconds, views=views)
        with file.open(encoding="utf-8") as text:
            shutil.copyfileobj(text, sys.stdout)
