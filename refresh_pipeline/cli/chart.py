"""The command `chart`: the newest candles of a series in the terminal, as a picture, or in the dashboard."""

import socket
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer
from rich.console import Console

from refresh_pipeline.cli.console import out, print_line, print_warning
from refresh_pipeline.cli.options import (
    SOME_FAILED,
    DataDirOption,
    MarketOption,
    chosen_series,
    in_words,
    request,
    require_stored,
    warehouse_errors,
)

if TYPE_CHECKING:
    from refresh_pipeline.market.model import Market
    from refresh_pipeline.market.series import Series
    from refresh_pipeline.warehouse.warehouse import Warehouse

CANDLES = ("open_time", "open", "high", "low", "close")
AXIS = 14
LOCALHOST = "127.0.0.1"


def chart(
    *,
    instrument: Annotated[str, typer.Argument(help="The instrument, by its name in the market.")],
    timeframe: Annotated[str, typer.Argument(help="The timeframe.")],
    bars: Annotated[
        int | None, typer.Option("--bars", min=2, max=1000, help="Show this many candles; as many as fit if not given.")
    ] = None,
    height: Annotated[int, typer.Option("--height", min=4, max=200, help="Lines of the chart.")] = 20,
    png: Annotated[
        str | None, typer.Option("--png", help="Write a picture with the enhanced columns to this file instead.")
    ] = None,
    in_browser: Annotated[bool, typer.Option("--open", help="Open the series in the dashboard instead.")] = False,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show the newest candles of one series in the terminal, as a PNG file, or in the dashboard."""
    with request(market, data_dir, lenient=True) as wanted:
        chosen = chosen_series(wanted.markets, instrument, timeframe, prefix="")
        if sum(len(series) for _, series in chosen) != 1:
            names = ", ".join(f"{member.name} {one}" for member, series in chosen for one in series)
            raise ValueError(f"found {names}; chart shows one series, --market chooses one market")
        if png and not png.lower().endswith(".png"):
            raise ValueError(f"--png: found {png}, allowed: a name that ends in .png")
        [(member, [series])] = chosen
        if in_browser:
            _open_dashboard(member, series, wanted.settings.api_port)
            return
        require_stored(wanted.settings)
    from refresh_pipeline.warehouse.warehouse import Warehouse

    warehouse = Warehouse(database=wanted.settings.warehouse)
    with warehouse_errors(), in_words((_NoRows, OSError), SOME_FAILED):
        if png:
            _write_png(warehouse, member, series, Path(png).expanduser())
        else:
            _print_chart(out, warehouse, member, series, count=bars or max(2, out.width - AXIS), height=height)


class _NoRows(LookupError):
    """Nothing is stored of the series."""


def dashboard_url(market: str, instrument: str, timeframe: str, port: int) -> str:
    """The address of a series in the dashboard.

    >>> dashboard_url("crypto", "BTC/USDT", "H1", 8080)
    'http://127.0.0.1:8080/series/crypto/BTC-USDT/H1'
    """
    return f"http://{LOCALHOST}:{port}/series/{market}/{quote(instrument.replace('/', '-'), safe='')}/{timeframe}"


def _open_dashboard(market: "Market", series: "Series", port: int) -> None:
    url = dashboard_url(market.name, series.instrument, series.timeframe.value, port)
    print_line(url)
    try:
        socket.create_connection((LOCALHOST, port), timeout=1).close()
    except OSError:
        print_warning("The dashboard does not answer: refresh up starts it.")
        raise typer.Exit(SOME_FAILED) from None
    webbrowser.open(url)


def _print_chart(
    console: Console, warehouse: "Warehouse", market: "Market", series: "Series", *, count: int, height: int
) -> None:
    from refresh_pipeline.cli.terminal_chart import draw, price_text
    from refresh_pipeline.warehouse.schema import Table

    _require_tables(warehouse, market, series)
    rows = warehouse.newest_rows(market, Table.raw_candles, series, CANDLES, count)
    if not len(rows["open_time"]):
        raise _NoRows(_advice(market, series))
    first, last = float(rows["open"][0]), float(rows["close"][-1])
    title = f"{market.name} {series}: {len(rows['close'])} candles, UTC; close {price_text(last)}"
    console.print(f"{title} ({last / first - 1:+.2%})".replace("%", " %"), style="bold", highlight=False)
    for line in draw(rows, height=height):
        console.print(line, no_wrap=True, overflow="crop")


def _write_png(warehouse: "Warehouse", market: "Market", series: "Series", path: Path) -> None:
    from refresh_pipeline.files.atomic import replacing
    from refresh_pipeline.orchestration import charts
    from refresh_pipeline.warehouse.schema import Table

    _require_tables(warehouse, market, series)
    rows = warehouse.newest_rows(market, Table.enhanced_candles, series, charts.COLUMNS, charts.BARS)
    if not len(rows["open_time"]):
        raise _NoRows(_advice(market, series))
    with replacing(path) as part:
        part.write_bytes(charts.picture(series, rows))
    print_line(str(path))


def _require_tables(warehouse: "Warehouse", market: "Market", series: "Series") -> None:
    from refresh_pipeline.warehouse import queries

    with warehouse.get_connection() as connection:
        if not queries.has_tables(connection, market.name):
            raise _NoRows(_advice(market, series))


def _advice(market: "Market", series: "Series") -> str:
    where = f"-m {market.name} -i {series.instrument} -t {series.timeframe.value}"
    return f"{market.name} {series}: no candle is stored; refresh once {where} fetches them"
