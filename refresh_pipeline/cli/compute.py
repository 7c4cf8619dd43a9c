"""The command `compute`: rows of a computed table, stored or not, as a file."""

from pathlib import Path
from typing import Annotated

import typer

from refresh_pipeline.cli.console import print_line
from refresh_pipeline.cli.options import (
    SOME_FAILED,
    DataDirOption,
    MarketOption,
    chosen_series,
    comma_list,
    in_words,
    request,
    warehouse_errors,
    wrong_requests,
)

LAYERS = {"enhanced": "enhanced_candles", "indicators": "indicators"}


def compute(
    *,
    instrument: Annotated[str, typer.Argument(help="The instrument, by its name in the market.")],
    timeframe: Annotated[str, typer.Argument(help="The timeframe.")],
    file: Annotated[Path, typer.Argument(help="The file to write: .parquet, .csv, .json or .feather.")],
    layer: Annotated[str, typer.Option("--layer", help="Compute enhanced or indicators.")] = "indicators",
    columns: Annotated[str | None, typer.Option("--columns", help="Compute only these columns (comma list).")] = None,
    since: Annotated[str | None, typer.Option("--since", help="Compute rows from this instant on (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Compute rows before this instant (ISO 8601).")] = None,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Compute rows of any stretch of a series, also rows that are no longer stored, and write them to a file."""
    with request(market, data_dir, lenient=True, since=since, until=until) as wanted:
        if layer not in LAYERS:
            raise ValueError(f"--layer: found {layer!r}, allowed: {', '.join(LAYERS)}")
        chosen = chosen_series(wanted.markets, instrument, timeframe)
        if sum(len(batch) for _, batch in chosen) != 1:
            names = ", ".join(f"{one.name} {series}" for one, batch in chosen for series in batch)
            raise ValueError(f"found {names}; compute takes one series, --market chooses one market")
    from tempfile import TemporaryDirectory

    from refresh_pipeline.files.writer import ExportError, TableWriter, kind_of
    from refresh_pipeline.market.candles import instant, parse_instant
    from refresh_pipeline.warehouse.schema import Table
    from refresh_pipeline.warehouse.warehouse import Warehouse

    with wrong_requests():
        kind_of(file)
    (selected, [series]), bounds = (
        chosen[0],
        {name: instant(parse_instant(text)) for name, text in wanted.instants.items()},
    )
    warehouse = Warehouse(database=wanted.settings.warehouse)
    with (
        warehouse_errors(),
        wrong_requests(),
        in_words((ExportError,), SOME_FAILED),
        TemporaryDirectory() as folder,
        TableWriter() as writer,
    ):
        names = comma_list(columns) or None
        pieces = warehouse.computed_rows(selected, Table(LAYERS[layer]), series, columns=names, **bounds)
        staged = writer.stage(pieces, Path(folder))
        if not staged.pieces:
            raise ValueError(f"{selected.name} {series}: no candle is stored there; refresh status lists every series")
        written = writer.write_staged(staged, {name: name for name in staged.kinds}, file)
    print_line(f"{written.rows:,} rows written to {file}")
