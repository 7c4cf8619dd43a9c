"""The commands `compute` and `archive`: rows of computed tables, stored or not, as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from refresh_pipeline.cli.console import print_line
from refresh_pipeline.cli.options import (
    SOME_FAILED,
    DataDirOption,
    InstrumentOption,
    MarketOption,
    TimeframeOption,
    chosen_series,
    comma_list,
    in_words,
    refuse_left_out,
    request,
    warehouse_errors,
    wrong_requests,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from refresh_pipeline.cli.options import Request
    from refresh_pipeline.files.writer import TableWriter, Written
    from refresh_pipeline.market.model import Market
    from refresh_pipeline.market.series import Series
    from refresh_pipeline.warehouse.schema import Table

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
        chosen = chosen_series(wanted.markets, instrument, timeframe, prefix="")
        if sum(len(batch) for _, batch in chosen) != 1:
            names = ", ".join(f"{one.name} {series}" for one, batch in chosen for series in batch)
            raise ValueError(f"found {names}; compute takes one series, --market chooses one market")
    from refresh_pipeline.files.writer import TableWriter, kind_of
    from refresh_pipeline.warehouse.schema import Table

    with wrong_requests():
        kind_of(file)
    (selected, [series]) = chosen[0]
    with wrong_requests(), TableWriter() as writer:
        rows = _Rows(wanted, selected, Table(LAYERS[layer]), comma_list(columns))
        written = rows.write(writer, series, file)
        if written is None:
            raise ValueError(f"{selected.name} {series}: no candle is stored there; refresh status lists every series")
    print_line(f"{written.rows:,} rows written to {file}")


def archive(
    *,
    folder: Annotated[Path, typer.Argument(help="The folder to write to.")],
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    since: Annotated[str | None, typer.Option("--since", help="Write rows from this instant on (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Write rows before this instant (ISO 8601).")] = None,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Write all rows of both computed tables, also those that are no longer stored, as a Parquet file a series."""
    with request(market, data_dir, lenient=True, since=since, until=until) as wanted:
        chosen = chosen_series(wanted.markets, instrument, timeframe)
    from refresh_pipeline.files.writer import TableWriter
    from refresh_pipeline.warehouse.schema import Table

    with TableWriter() as writer:
        for selected, batch in chosen:
            rows = files = size = 0
            for table in map(Table, LAYERS.values()):
                work = _Rows(wanted, selected, table)
                for series in batch:
                    place = folder / selected.name / table / f"timeframe={series.timeframe.value}"
                    file = place / f"instrument={quote(series.instrument, safe='')}" / "rows.parquet"
                    if written := work.write(writer, series, file):
                        rows, files, size = rows + written.rows, files + 1, size + written.bytes
            without = f", {len(batch) - files // 2} series without candles" if files < 2 * len(batch) else ""
            print_line(f"{selected.name}: {rows:,} rows in {files:,} files, {size / 1e6:,.1f} MB{without}")
    refuse_left_out(wanted)


class _Rows:
    """Rows of one computed table of a market between the request's instants."""

    def __init__(self, wanted: "Request", market: "Market", table: "Table", columns: "Sequence[str]" = ()) -> None:
        from refresh_pipeline.market.candles import instant, parse_instant
        from refresh_pipeline.warehouse.warehouse import Warehouse

        self._market, self._table, self._columns = market, table, columns or None
        self._bounds = {name: instant(parse_instant(text)) for name, text in wanted.instants.items()}
        self._warehouse = Warehouse(database=wanted.settings.warehouse)

    def write(self, writer: "TableWriter", series: "Series", file: Path) -> "Written | None":
        """Write the rows of a series; None where there are none."""
        from tempfile import TemporaryDirectory

        from refresh_pipeline.files.writer import ExportError

        with warehouse_errors(), in_words((ExportError,), SOME_FAILED), TemporaryDirectory() as folder:
            pieces = self._warehouse.computed_rows(
                self._market, self._table, series, columns=self._columns, **self._bounds
            )
            staged = writer.stage(pieces, Path(folder))
            if not staged.pieces:
                return None
            return writer.write_staged(staged, {name: name for name in staged.kinds}, file)
