"""The commands that refresh: `once`, `backfill` and `publish`. The work is Dagster runs that the web UI shows."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.console import log_on, out, terminal
from refresh_pipeline.cli.options import (
    DONE,
    SOME_FAILED,
    DataDirOption,
    InstrumentOption,
    MarketOption,
    NewOption,
    NowOption,
    Request,
    SinceOption,
    TimeframeOption,
    UntilOption,
    VerboseOption,
    chosen_series,
    reachable,
    refuse_left_out,
    request,
    require_bounds,
    require_warehouse,
    usable,
    warn_of_calendars,
    warn_of_older_instance_file,
)

if TYPE_CHECKING:
    from refresh_pipeline.market.model import Market
    from refresh_pipeline.market.series import Series


def once(
    *,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Refresh every series of every loaded market (the default, made explicit).")
    ] = False,
    since: SinceOption = None,
    until: UntilOption = None,
    now: NowOption = None,
    verbose: VerboseOption = 0,
    new: NewOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Refresh candles, computed tables, exports and uploads once."""
    with request(market, data_dir, lenient=True, since=since, until=until, now=now) as asked:
        if everything and (market or instrument or timeframe):
            raise ValueError(
                "--all refreshes every series of every loaded market; leave out --market, --instrument, --timeframe"
            )
        wanted, series = _prepared(asked, instrument, timeframe, new=new)
    _run("refresh", wanted, series, verbose)


def backfill(
    *,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    since: Annotated[str, typer.Option(help="Fetch missing candles from this instant on (ISO 8601).")],
    until: UntilOption = None,
    now: NowOption = None,
    verbose: VerboseOption = 0,
    new: NewOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Fetch missing history in chunks; after an interruption, run it again and it continues."""
    with request(market, data_dir, lenient=True, since=since, until=until, now=now) as asked:
        wanted, series = _prepared(asked, instrument, timeframe, new=new)
    _run("backfill", wanted, series, verbose)


def publish(
    *,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    now: NowOption = None,
    verbose: VerboseOption = 0,
    new: NewOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Write and upload the files of changed series, without fetching candles."""
    with request(market, data_dir, lenient=True, now=now) as asked:
        wanted, series = _prepared(asked, instrument, timeframe, new=new, fetches=False)
    _run("publish", wanted, series, verbose)


def _prepared(
    wanted: Request, instrument: str | None, timeframe: str | None, *, new: bool, fetches: bool = True
) -> "tuple[Request, list[tuple[Market, list[Series]]]]":
    """The request without the markets that cannot be refreshed, and the series of the others."""
    from refresh_pipeline.settings import prepare_dagster

    require_bounds(wanted)
    markets = [market for market, _ in chosen_series(wanted.markets, instrument, timeframe)]
    require_warehouse(wanted.settings, new=new)
    wanted = usable(replace(wanted, markets=markets))
    if fetches:
        wanted = reachable(wanted)
    warn_of_calendars(wanted)
    prepare_dagster(wanted.settings)
    warn_of_older_instance_file(wanted.settings)
    return wanted, chosen_series(wanted.markets, instrument, timeframe)


def _run(action: str, wanted: Request, chosen: "list[tuple[Market, list[Series]]]", verbose: int) -> None:
    """Run the action for each market, and print a table; exit code 1 where something failed."""
    from refresh_pipeline.cli import tables
    from refresh_pipeline.instance.data_lock import holder_of
    from refresh_pipeline.orchestration import run_jobs
    from refresh_pipeline.pipeline.progress import watched

    work = {"refresh": run_jobs.refresh_once, "backfill": run_jobs.backfill, "publish": run_jobs.publish_once}[action]
    with terminal() as console, log_on(console, verbose), tables.progress_bars(console) as watcher, watched(watcher):
        results = [work(wanted.settings, market, series, wanted.instants, verbose) for market, series in chosen]
    service = holder_of(wanted.settings.data)
    tables.print_refreshed(out, action, results, verbose, service=str(service) if service else None)
    refuse_left_out(wanted)
    raise typer.Exit(DONE if all(result.succeeded for result in results) else SOME_FAILED)
