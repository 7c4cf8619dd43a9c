"""The command `forget`: stored candles that should not be there, or that the YAML no longer names."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.console import counted, err, print_line
from refresh_pipeline.cli.options import (
    WRONG_REQUEST,
    DataDirOption,
    NowOption,
    Request,
    request,
    warehouse_errors,
    wrong_requests,
)

if TYPE_CHECKING:
    from refresh_pipeline.settings import Settings
    from refresh_pipeline.warehouse.forgetting import Choice


def forget(
    *,
    market: Annotated[str, typer.Option("--market", "-m", help="Forget candles of this market.")],
    instrument: Annotated[
        str | None, typer.Option("--instrument", "-i", help="Forget this instrument, by its name in the warehouse.")
    ] = None,
    timeframe: Annotated[str | None, typer.Option("--timeframe", "-t", help="Forget this timeframe.")] = None,
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
        bool, typer.Option("--orphans", help="Forget series that no YAML names any more, and no others.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Forget without asking.")] = False,
    now: NowOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Remove stored candles, what is computed from them, and their files; a refresh may fetch them again."""
    if orphans:
        with wrong_requests():
            settings = _settings_without(market, data_dir)
        if settings is not None:
            _forget_market(settings, market, yes=yes)
            return
    with request(market, data_dir, now=now, since=since, until=until) as wanted:
        if len(wanted.markets) != 1:
            raise ValueError(f"--market: found {market}, allowed: one market")
        if not (orphans or off_grid or future or instrument or timeframe):
            raise ValueError("found no choice, allowed: --instrument, --timeframe, --off-grid, --future or --orphans")
        from refresh_pipeline.market.timeframe import Timeframe

        name = Timeframe.parse(timeframe).value if timeframe else None
    from refresh_pipeline.warehouse.forgetting import Choice

    choice = Choice(
        instrument,
        name,
        _bound(wanted, "since"),
        _bound(wanted, "until"),
        off_grid,
        closing_after=wanted.now if future else None,
        orphans=orphans,
    )
    with warehouse_errors():
        _forget(wanted, choice, yes=yes)


def _bound(wanted: Request, name: str) -> datetime | None:
    from refresh_pipeline.market.candles import parse_instant

    return parse_instant(wanted.instants[name]) if name in wanted.instants else None


def _forget(wanted: Request, choice: "Choice", *, yes: bool) -> None:
    from refresh_pipeline.pipeline.forgotten_files import delete_files
    from refresh_pipeline.warehouse.warehouse import Warehouse

    warehouse, market = Warehouse(database=wanted.settings.warehouse), wanted.markets[0]
    warehouse.prepare(market)
    counts, leftovers = warehouse.chosen_candles(market, choice), _leftovers(wanted, choice)
    for series, count in counts.items():
        err.print(f"{series}: {counted(count, 'candle')}", markup=False, highlight=False)
    for sentence in leftovers:
        err.print(sentence, markup=False, highlight=False)
    if not counts and not leftovers:
        print_line("Nothing forgotten: nothing is stored that matches.")
        return
    _require_consent("Forget these candles?" if counts else "Forget what is stored of these series?", yes=yes)
    forgotten = warehouse.forget(market, choice, wanted.now) if counts else {}
    warehouse.drop_records(market, choice)
    for sentence in delete_files(warehouse, market, wanted.settings.exports_dir):
        print_line(sentence)
    what = counted(sum(forgotten.values()), "candle") if counts else "Rows and files"
    print_line(f"{what} of {len(counts) + len(leftovers)} series forgotten")


def _leftovers(wanted: Request, choice: "Choice") -> list[str]:
    """A sentence for each chosen series that has no candles, is in no YAML, and has rows or files all the same."""
    if choice.since or choice.until or choice.off_grid or choice.closing_after:
        return []
    from refresh_pipeline.monitoring.orphans import orphan_rows

    return [
        f"{row['instrument']} {row['timeframe']}: no candles, {counted(row['rows'], 'row')}, "
        f"{counted(row['export_files'], 'export file')}"
        for row in orphan_rows(wanted.settings, wanted.markets)
        if row["instrument"]
        and not row["candles"]
        and choice.instrument in (None, row["instrument"])
        and choice.timeframe in (None, row["timeframe"])
    ]


def _settings_without(market: str, data_dir: str | None) -> "Settings | None":
    """The settings where the market has no YAML but tables in the warehouse."""
    from refresh_pipeline.market.model import MARKET_NAME
    from refresh_pipeline.market_files import market_files
    from refresh_pipeline.settings import load_settings

    settings = load_settings(data_dir=data_dir)
    if market in market_files(settings) or not MARKET_NAME.fullmatch(market):
        return None
    from refresh_pipeline.warehouse.connection import connect, place_of
    from refresh_pipeline.warehouse.queries import has_tables

    if not place_of(settings.warehouse).exists:
        return None

    with warehouse_errors(), connect(settings.warehouse, read_only=True) as connection:
        return settings if has_tables(connection, market) else None


def _forget_market(settings: "Settings", market: str, *, yes: bool) -> None:
    from refresh_pipeline.warehouse.warehouse import Warehouse

    _require_consent(f"Remove every table and export file of market {market}, which has no YAML?", yes=yes)
    with warehouse_errors():
        paths = Warehouse(database=settings.warehouse).drop_market(market)
    for path in paths:
        (settings.exports_dir / path).unlink(missing_ok=True)
    print_line(f"market {market} and {len(paths):,} export files forgotten")


def _require_consent(question: str, *, yes: bool) -> None:
    """End with exit code 2 where the question is not answered with yes."""
    if not yes and not _confirmed(question):
        err.print("Nothing forgotten; use --yes to skip the question.")
        raise typer.Exit(WRONG_REQUEST)


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False
