"""The command `recompute`: computed tables anew from the stored candles, for a warehouse that was damaged."""

from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.console import print_line
from refresh_pipeline.cli.options import (
    DataDirOption,
    InstrumentOption,
    MarketOption,
    TimeframeOption,
    chosen_series,
    refuse_left_out,
    request,
    require_stored,
    require_warehouse,
    usable,
    warehouse_errors,
)

if TYPE_CHECKING:
    from refresh_pipeline.warehouse.schema import Table


def recompute(
    *,
    table: Annotated[
        str | None, typer.Option("--table", help="Compute only enhanced_candles or only indicators anew.")
    ] = None,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Compute tables anew from the first stored candle, without anything that was computed before."""
    with request(market, data_dir, lenient=True) as asked:
        chosen_series(asked.markets, instrument, timeframe)
        tables = _tables(table)
        require_warehouse(asked.settings, new=False)
        require_stored(asked.settings)
        wanted = usable(asked)
        chosen = chosen_series(wanted.markets, instrument, timeframe)
    from refresh_pipeline.pipeline.compute import compute
    from refresh_pipeline.warehouse.warehouse import Warehouse

    warehouse = Warehouse(database=wanted.settings.warehouse)
    with warehouse_errors():
        for member, series in chosen:
            warehouse.prepare(member)
            warehouse.queue_recompute(member, tables, series)
            for name in tables:
                attempts = compute(warehouse, member, name, series)
                rows = sum(attempt.rows_added + attempt.rows_revised for attempt in attempts.values())
                print_line(f"{member.name}.{name.value}: {rows:,} rows of {len(series)} series computed anew")
    refuse_left_out(wanted)


def _tables(name: str | None) -> "list[Table]":
    from refresh_pipeline.warehouse.schema import Table

    tables = [Table.enhanced_candles, Table.indicators]
    if name is not None and name not in tables:
        raise ValueError(f"--table: found {name}, allowed: {', '.join(tables)}")
    return [table for table in tables if name in (None, table.value)]
