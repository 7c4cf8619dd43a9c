"""The command `forget`: stored candles that should not be there, or that the YAML no longer names."""

from typing import Annotated

import typer

from refresh_pipeline.cli.console import err, print_line
from refresh_pipeline.cli.options import (
    WRONG_REQUEST,
    DataDirOption,
    NowOption,
    request,
    warehouse_errors,
)


def forget(
    *,
    market: Annotated[str, typer.Option("--market", "-m", help="Forget candles of this market.")],
    instrument: Annotated[
        str | None, typer.Option("--instrument", help="Forget this instrument, by its name in the warehouse.")
    ] = None,
    timeframe: Annotated[str | None, typer.Option("--timeframe", help="Forget this timeframe.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Forget candles from this instant on (ISO 8601).")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Forget candles before this instant (ISO 8601).")] = None,
    off_grid: Annotated[
        bool, typer.Option("--off-grid", help="Forget candles where the calendar expects none, and no others.")
    ] = False,
    future: Annotated[
        bool, typer.Option("--future", help="Forget candles that close later than now, and no others.")
    ] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="List series that the market's YAML no longer has; forget nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Forget without asking.")] = False,
    now: NowOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Remove stored candles and what is computed from them; the next refresh may fetch them again."""
    from refresh_pipeline.market.candles import parse_instant
    from refresh_pipeline.market.timeframe import Timeframe

    with request(market, data_dir, now=now, since=since, until=until) as wanted:
        if len(wanted.markets) != 1:
            raise ValueError(f"--market: found {market}, allowed: one market")
        if not (orphans or off_grid or future or instrument or timeframe):
            raise ValueError("found no choice, allowed: --instrument, --timeframe, --off-grid, --future or --orphans")
        chosen, moment = wanted.markets[0], wanted.now
        name = Timeframe.parse(timeframe).value if timeframe else None
        bounds = [parse_instant(wanted.instants[key]) if key in wanted.instants else None for key in ("since", "until")]
    from refresh_pipeline.warehouse.forgetting import Choice
    from refresh_pipeline.warehouse.warehouse import Warehouse

    warehouse = Warehouse(database=str(wanted.settings.database))
    with warehouse_errors():
        warehouse.prepare(chosen)
        if orphans:
            for series, count in warehouse.orphans(chosen).items():
                print_line(f"{series}: {count:,} candles")
            return
        choice = Choice(instrument, name, bounds[0], bounds[1], off_grid, closing_after=moment if future else None)
        counts = warehouse.chosen_candles(chosen, choice)
        for series, count in counts.items():
            err.print(f"{series}: {count:,} candles", markup=False, highlight=False)
        if not counts:
            print_line("No candle forgotten: none is stored that matches.")
            return
        if not yes and not _confirmed():
            err.print("No candle forgotten; use --yes to skip the question.")
            raise typer.Exit(WRONG_REQUEST)
        forgotten = warehouse.forget(chosen, choice, moment)
    print_line(f"{sum(forgotten.values()):,} candles of {len(forgotten)} series forgotten")


def _confirmed() -> bool:
    try:
        return typer.confirm("Forget these candles?", err=True)
    except typer.Abort:
        return False
