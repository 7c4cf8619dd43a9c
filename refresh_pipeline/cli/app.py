"""The `refresh` command: a thin way in for people. Every refresh it does is a Dagster run that the web UI shows."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler

from refresh_pipeline.cli import gap_table, tables
from refresh_pipeline.cli.supervisor import Plan, exec_supervisor
from refresh_pipeline.instance import run_retention
from refresh_pipeline.market.candles import parse_instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.market.universe import SCRIP_MASTER
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.monitoring import status as series_status
from refresh_pipeline.operations import backup as backups
from refresh_pipeline.operations.backup import BackupError
from refresh_pipeline.orchestration import maintenance_job
from refresh_pipeline.pipeline import export, export_retention, export_verification
from refresh_pipeline.pipeline import export_duplicates as finding
from refresh_pipeline.pipeline.export import check_exports
from refresh_pipeline.pipeline.progress import watched
from refresh_pipeline.settings import (
    PACKAGE,
    Settings,
    child_environment,
    dagster_home,
    load_settings,
    prepare_dagster,
    settings_files,
)
from refresh_pipeline.sources import SourceError
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable
from refresh_pipeline.warehouse.warehouse import Warehouse

Name = TypeVar("Name")
LOCALHOST = "127.0.0.1"

# Exit codes.
DONE, SOME_FAILED, WRONG_REQUEST = 0, 1, 2

app = typer.Typer(
    name="refresh",
    help="Keep market candles fresh: candles, indicators, exports, uploads.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
exports_app = typer.Typer(help="Look after export files: verify, prune, duplicates.", no_args_is_help=True)
app.add_typer(exports_app, name="exports")
# Into a file or a pipe a table keeps its shape; on a terminal it keeps to the window.
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)

MarketOption = Annotated[
    str | None, typer.Option("--market", "-m", help="These markets (comma list), whatever REFRESH_MARKETS says.")
]
InstrumentOption = Annotated[str | None, typer.Option("--instrument", "-i", help="Only these (comma list).")]
TimeframeOption = Annotated[str | None, typer.Option("--timeframe", "-t", help="Only these (comma list).")]
NowOption = Annotated[str | None, typer.Option(help="Go by this instant instead of the clock (ISO 8601).")]
VerboseOption = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv for everything.")]
DataDirOption = Annotated[str | None, typer.Option("--data-dir", help="Keep everything in this folder.")]


def main() -> None:
    """The console script."""
    app()


@app.command()
def once(
    *,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Say out loud that every series of every loaded market is meant.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(help="Ask for candles from this instant on (ISO 8601), whatever is stored.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Ask for candles up to this instant (ISO 8601).")] = None,
    now: NowOption = None,
    verbose: VerboseOption = 0,
    data_dir: DataDirOption = None,
) -> None:
    """Refresh candles, what is computed from them, exports and uploads, once."""
    with wrong_requests():
        if everything and (market or instrument or timeframe):
            raise ValueError(
                "--all: every series of every loaded market; leave out --market, --instrument, --timeframe"
            )
        settings, wanted = chosen_series(market, data_dir, instrument, timeframe)
        asked = asked_for(since, until, now)
        prepare_dagster(settings)
    log_to_console(verbose)
    # Late, so that a wrong request is answered at once: Dagster takes a second to import.
    from refresh_pipeline.orchestration.run_jobs import refresh_once  # noqa: PLC0415

    with tables.progress_bars(err) as watcher, watched(watcher):
        refreshed = [refresh_once(settings, each, series, asked, verbose) for each, series in wanted]
    tables.print_refreshed(out, refreshed, verbose)
    raise typer.Exit(DONE if all(each.succeeded for each in refreshed) else SOME_FAILED)


@app.command()
def backfill(
    *,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    since: Annotated[str, typer.Option(help="Ask for missing candles from this instant on (ISO 8601).")],
    until: Annotated[str | None, typer.Option(help="Ask for missing candles up to this instant (ISO 8601).")] = None,
    now: NowOption = None,
    verbose: VerboseOption = 0,
    data_dir: DataDirOption = None,
) -> None:
    """Fetch the history that is missing, in chunks; after a kill, started again, it goes on where it was."""
    with wrong_requests():
        settings, wanted = chosen_series(market, data_dir, instrument, timeframe)
        asked = asked_for(since, until, now)
        prepare_dagster(settings)
    log_to_console(verbose)
    # Late, so that a wrong request is answered at once: Dagster takes a second to import.
    from refresh_pipeline.orchestration import run_jobs  # noqa: PLC0415

    with tables.progress_bars(err) as watcher, watched(watcher):
        done = [run_jobs.backfill(settings, each, series, asked, verbose) for each, series in wanted]
    tables.print_refreshed(out, done, verbose, publishes=False)
    raise typer.Exit(DONE if all(each.succeeded for each in done) else SOME_FAILED)


@app.command()
def publish(
    *,
    market: MarketOption = None,
    instrument: Annotated[str | None, typer.Option("--instrument", "-i", help="Only these (comma list).")] = None,
    timeframe: Annotated[str | None, typer.Option("--timeframe", "-t", help="Only these (comma list).")] = None,
    now: Annotated[str | None, typer.Option(help="Go by this instant instead of the clock (ISO 8601).")] = None,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv for everything.")] = 0,
    data_dir: DataDirOption = None,
) -> None:
    """Write the files of what changed and send them, without asking any source for candles."""
    with wrong_requests():
        settings, markets = chosen(market, data_dir)
        reject_unknown(markets, instrument, timeframe)
        wanted = {each.name: narrowed(each, instrument, timeframe) for each in markets}
        asked = asked_for(None, None, now)
        open_sources(settings, markets)
        prepare_dagster(settings)
    log_to_console(verbose)
    # Late, so that a wrong request is answered at once: Dagster takes a second to import.
    from refresh_pipeline.orchestration.run_jobs import publish_once  # noqa: PLC0415

    with tables.progress_bars(err) as watcher, watched(watcher):
        published = [
            publish_once(settings, each, wanted[each.name], asked, verbose) for each in markets if wanted[each.name]
        ]
    tables.print_refreshed(out, published, verbose)
    raise typer.Exit(DONE if all(each.succeeded for each in published) else SOME_FAILED)


@exports_app.command()
def verify(
    *,
    market: MarketOption = None,
    instrument: Annotated[str | None, typer.Option("--instrument", "-i", help="Only these (comma list).")] = None,
    timeframe: Annotated[str | None, typer.Option("--timeframe", "-t", help="Only these (comma list).")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Read every row of every export file and hold it against schema, manifest and table."""
    with wrong_requests():
        settings, markets = chosen(market, data_dir)
        reject_unknown(markets, instrument, timeframe)
    found: list[str] = []
    with (
        in_words((WarehouseBusy, WarehouseUnreadable), SOME_FAILED),
        tables.progress_bars(err) as bars,
        watched(bars),
    ):
        for each in markets:
            batch, warehouse = narrowed(each, instrument, timeframe), Warehouse(database=str(settings.database))
            count, faults = export_verification.verify(warehouse, each, settings.exports_dir, batch)
            found += [f"{each.name} {fault.series}: {fault.what}" for fault in faults]
            out.print(f"{each.name}: {count} files read, {len(faults)} faults", highlight=False)
    for line in found:
        out.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(SOME_FAILED if found else DONE)


@exports_app.command()
def prune(
    *,
    market: MarketOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Delete older copies of export files that no market's YAML wants kept; every publishing does so as well."""
    with wrong_requests():
        settings, markets = chosen(market, data_dir)
    with in_words((WarehouseBusy, WarehouseUnreadable), SOME_FAILED):
        for each in markets:
            warehouse = Warehouse(database=str(settings.database))
            warehouse.prepare(each)
            going = export_retention.prune(warehouse, each, settings.exports_dir, datetime.now(UTC), dry_run=dry_run)
            for deletion in going:
                out.print(f"{deletion.file.path} ({deletion.reason})", markup=False, highlight=False, soft_wrap=True)
            verb = "would be deleted" if dry_run else "deleted"
            out.print(f"{each.name}: {len(going)} files {verb}", highlight=False)


@exports_app.command()
def duplicates(
    *,
    link: Annotated[bool, typer.Option("--link", help="Make them one file on disk under their several names.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete those that no loaded market's YAML asks for; one always stays.")
    ] = False,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List export files, older copies included, that have the same content."""
    with wrong_requests():
        if link and remove:
            raise ValueError("--link and --remove: choose one")
        settings, markets = chosen(market, data_dir)
    roots = [settings.exports_dir, export.older_folder(settings.exports_dir)]
    needed = {settings.exports_dir / path for each in markets for path in export.wanted_paths(each)}
    groups = finding.find_duplicates(*roots)
    with in_words((OSError,), SOME_FAILED):
        for group in groups:
            out.print(f"{len(group.paths)} files of {group.bytes:,} bytes, {group.links} linked:", highlight=False)
            for path in group.paths:
                out.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
            if link:
                out.print(f"  linked: {finding.link(group)}", highlight=False)
            for path in finding.remove(group, needed) if remove else ():
                out.print(f"  deleted: {path}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"{sum(group.spare_bytes for group in groups):,} bytes to spare", highlight=False)


@app.command()
def backup(
    *,
    to: Annotated[
        str | None, typer.Option("--to", help="Keep it in this folder, whatever REFRESH_BACKUP_DIR says.")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Copy the warehouse and Dagster's files, verify the copies, and delete the oldest ones."""
    with wrong_requests():
        settings = load_settings(data_dir=data_dir, backup_dir=to)
        home = prepare_dagster(settings)
    with in_words((BackupError, WarehouseBusy, WarehouseUnreadable), SOME_FAILED):
        made = backups.back_up(settings.backups, settings.database, home, datetime.now(UTC))
        gone = backups.keep_newest(settings.backups, settings.backups_kept)
    rows = f"{sum(made.rows.values()):,} rows of {len(made.rows)} tables"
    out.print(f"{made.folder}: {made.bytes:,} bytes, {rows}", markup=False, highlight=False, soft_wrap=True)
    for each in gone:
        out.print(f"deleted {each}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def restore(
    *,
    which: Annotated[
        str | None, typer.Argument(help="The backup's folder or name; the newest one if not given.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Overwrite what is there without asking.")] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Put a backup in the place of the warehouse and Dagster's files; stop everything else before."""
    with wrong_requests():
        settings = load_settings(data_dir=data_dir)
    with in_words((BackupError,), WRONG_REQUEST):
        chosen_backup = backups.read_backup(backups.find(settings.backups, which))
    home = dagster_home(settings)
    in_the_way = backups.in_the_way(settings.database, home)
    for path in in_the_way:
        err.print(f"would be overwritten: {path}", markup=False, highlight=False, soft_wrap=True)
    if in_the_way and not yes and not agreed("Overwrite it?"):
        err.print("Nothing was restored. Where nobody can be asked: --yes")
        raise typer.Exit(WRONG_REQUEST)
    with in_words((BackupError, WarehouseBusy), SOME_FAILED):
        backups.restore(chosen_backup, settings.database, home)
    told = f"{chosen_backup.folder} is restored: {settings.database}, {home}"
    out.print(told, markup=False, highlight=False, soft_wrap=True)


@app.command()
def maintain(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Delete what Dagster remembers of superseded runs, and bring the warehouse's old rows into order."""
    with wrong_requests():
        settings, markets = chosen(market, data_dir)
        prepare_dagster(settings)
    # Late, so that a wrong request is answered at once: Dagster takes a second to import.
    from refresh_pipeline.instance.run_pruning import prune  # noqa: PLC0415
    from refresh_pipeline.operations import maintenance  # noqa: PLC0415
    from refresh_pipeline.orchestration.run_jobs import dagster_instance  # noqa: PLC0415

    now = datetime.now(UTC)
    with dagster_instance(settings) as instance:
        pruned = prune(instance, run_retention.retention_of, now, dry_run=dry_run)
    out.print(maintenance_job.pruning_summary(pruned, dry_run=dry_run), highlight=False, soft_wrap=True)
    with in_words((WarehouseBusy, WarehouseUnreadable), SOME_FAILED):
        if dry_run:
            told = f"would bring {maintenance.pending_compaction(settings, markets, now):,} rows into order"
        else:
            told = maintenance.compaction_summary(maintenance.compact(settings, markets, now))
    out.print(told, highlight=False, soft_wrap=True)


@app.command()
def status(
    *,
    market: MarketOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    now: NowOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show every series: newest candle, its age against the calendar, count, completeness, last outcome."""
    with wrong_requests():
        settings, markets = chosen(market, data_dir)
        moment = parse_instant(now) if now else datetime.now(UTC)
    with in_words((WarehouseBusy, WarehouseUnreadable), SOME_FAILED):
        rows = series_status.status_rows(settings, markets, moment)
    for line in series_status.calendar_warnings(markets, moment):
        err.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        out.print_json(json.dumps(rows), highlight=False)
    else:
        tables.print_status(out, settings, rows)


@app.command()
def gaps(
    *,
    market: MarketOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    now: Annotated[str | None, typer.Option(help="Go by this instant instead of the clock (ISO 8601).")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show what is missing: of each series how many candles are expected and stored, and every missing stretch."""
    with wrong_requests():
        settings, markets = chosen(market, data_dir)
        moment = parse_instant(now) if now else datetime.now(UTC)
    # Late: a wrong request is answered at once.
    from refresh_pipeline.monitoring import gap_report  # noqa: PLC0415

    with in_words((WarehouseBusy, WarehouseUnreadable), SOME_FAILED):
        rows = gap_report.gap_rows(settings, markets, moment)
    for line in series_status.calendar_warnings(markets, moment):
        err.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        out.print_json(json.dumps(rows), highlight=False)
    else:
        gap_table.print_gaps(out, rows)


@app.command()
def alerts(
    *,
    test: Annotated[bool, typer.Option("--test", help="Send a message to everybody who would be told.")] = False,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List what is wrong now and who would be told of it, or try whether a message arrives."""
    with wrong_requests():
        settings, markets = chosen(market, data_dir)
        prepare_dagster(settings)
    # Late, so that a wrong request is answered at once: Dagster takes a second to import.
    from refresh_pipeline.monitoring import notify as telling  # noqa: PLC0415
    from refresh_pipeline.orchestration.failed_runs import run_history  # noqa: PLC0415
    from refresh_pipeline.orchestration.run_jobs import dagster_instance  # noqa: PLC0415

    channels, lacking = telling.channels_of(settings)
    for line in lacking:
        err.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if test:
        errors = telling.send_test_message(channels)
        for name, error in errors.items():
            out.print(error or f"{name}: sent", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(WRONG_REQUEST if lacking else SOME_FAILED if any(errors.values()) else DONE)
    with dagster_instance(settings) as instance:
        found = telling.problems_now(settings, markets, run_history(instance, markets))
    for each in found:
        out.print(f"{each.subject}: {each.text}", markup=False, highlight=False, soft_wrap=True)
    whom = ", ".join(channel.name for channel in channels) or "none"
    out.print(f"{len(found)} problems; channels of the sensor alerts: {whom}", highlight=False)


@app.command()
def up(
    *,
    port: Annotated[int, typer.Option(help="The web UI's port on localhost.")] = 3000,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run the web UI and the daemon on localhost until interrupted."""
    with wrong_requests():
        settings, markets = chosen(market, data_dir)
        open_sources(settings, markets)
        prepare_dagster(settings)
    # Late, so that a wrong request is answered at once: Dagster takes a second to import.
    from refresh_pipeline.orchestration.run_jobs import dagster_instance  # noqa: PLC0415

    with dagster_instance(settings):
        # Its databases are there before the programs look for them.
        pass
    err.print(
        f"Markets: {', '.join(each.name for each in markets)}. Web UI: http://{LOCALHOST}:{port}. Ctrl-C ends it."
    )
    exec_supervisor(programs(settings, port, Path(mkdtemp(prefix="refresh-"))), child_environment(settings))


def programs(settings: Settings, port: int, folder: Path) -> Plan:
    """The web UI and the daemon, and one code server for both, which they reach through a socket in the folder.

    Alone each would start a code server of its own, the daemon a new one every minute.
    """
    dagster, socket, workspace = [sys.executable, "-P", "-m"], folder / "code.sock", folder / "workspace.yaml"
    there = {"grpc_server": {"socket": str(socket), "location_name": PACKAGE.name}}
    workspace.write_text(json.dumps({"load_from": [there]}), encoding="utf-8")
    # Errors in the definitions are shown by the web UI, and mended by editing what is wrong.
    code = ["dagster", "api", "grpc", "--lazy-load-user-code", "--socket", str(socket), "--location-name", PACKAGE.name]
    own = [folder for folder in [settings.markets_dir] if folder]
    return Plan(
        programs={
            "code server": [*dagster, *code, "-m", f"{PACKAGE.name}.definitions"],
            "web UI": [*dagster, "dagster_webserver", "-h", LOCALHOST, "-p", str(port), "-w", str(workspace)],
            "daemon": [*dagster, "dagster._daemon", "run", "-w", str(workspace)],
        },
        renewed="code server",
        ready=str(socket),
        watched=[str(path.expanduser().absolute()) for path in [PACKAGE, *own, *settings_files()]],
        temporary=str(folder),
    )


@app.command()
def universe(
    *,
    market: Annotated[str, typer.Option("--market", "-m", help="The market whose universe it is.")] = "nse",
    constituents: Annotated[
        str | None,
        typer.Option(help="The exchange's list of the index (CSV), a file or an address; else its shares stay."),
    ] = None,
    scrip_master: Annotated[str, typer.Option(help="Dhan's scrip master (CSV), a file or an address.")] = SCRIP_MASTER,
    data_dir: DataDirOption = None,
) -> None:
    """Renew a universe of shares, and the ids by which Dhan knows them, in the folder REFRESH_MARKETS_DIR."""
    # Late, as the other commands need no HTTP client.
    from refresh_pipeline.pipeline.universe_refresh import renew_universe  # noqa: PLC0415

    with in_words((SourceError,), SOME_FAILED), wrong_requests():
        settings, markets = chosen(market, data_dir)
        if len(markets) != 1:
            raise ValueError(f"--market {market}: one market at a time")
        file, renewed = renew_universe(settings, markets[0], scrip_master, constituents)
    tables.print_universe(out, file, renewed)


def chosen(market: str | None, data_dir: str | None) -> tuple[Settings, list[Market]]:
    """The settings with the command line's choices, and the markets that they load."""
    settings = load_settings(enabled_markets=market, data_dir=data_dir)
    return settings, load_markets(settings)


def chosen_series(
    market: str | None, data_dir: str | None, instrument: str | None, timeframe: str | None
) -> tuple[Settings, list[tuple[Market, list[Series]]]]:
    """The settings, and the series that the options leave of each market that has any; raises where that is none."""
    settings, markets = chosen(market, data_dir)
    reject_unknown(markets, instrument, timeframe)
    wanted = [(each, narrowed(each, instrument, timeframe)) for each in markets]
    if not any(series for _, series in wanted):
        raise ValueError(f"no market has a series of {instrument} on {timeframe}; refresh status lists those there are")
    open_sources(settings, markets)
    return settings, [(each, series) for each, series in wanted if series]


def open_sources(settings: Settings, markets: Sequence[Market]) -> None:
    """Raise where a market's YAML says something that its source does not know, or needs what is not installed."""
    for market in markets:
        open_source(market, settings.limits_dir)
        check_exports(market)


def narrowed(market: Market, instruments: str | None, timeframes: str | None) -> list[Series]:
    """The series of a market that the options leave; names that another market may know are passed over."""
    chosen_instruments = _known(names(instruments), market.instrument) if instruments else set(market.instruments)
    chosen_timeframes = _known(names(timeframes), market.timeframe) if timeframes else set(market.timeframes)
    return [s for s in market.series if s.instrument in chosen_instruments and s.timeframe in chosen_timeframes]


def reject_unknown(markets: Sequence[Market], instruments: str | None, timeframes: str | None) -> None:
    """Raise for a name that no loaded market has."""
    for text in names(timeframes):
        Timeframe.parse(text)
    for each in names(instruments):
        _known_somewhere(each, [market.instrument for market in markets])
    for each in names(timeframes):
        _known_somewhere(each, [market.timeframe for market in markets])


def agreed(question: str) -> bool:
    """Whether somebody said yes; nobody there is a no."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False


def asked_for(since: str | None, until: str | None, now: str | None) -> dict[str, str]:
    """The instants of the options, read once so that a wrong one is a wrong request."""
    given = {"since": since, "until": until, "now": now}
    asked = {name: parse_instant(text).isoformat() for name, text in given.items() if text}
    if "since" in asked and "until" in asked and asked["since"] >= asked["until"]:
        raise ValueError(f"--since {since} is not before --until {until}")
    return asked


def names(text: str | None) -> list[str]:
    """The parts of a comma list."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def log_to_console(verbose: int) -> None:
    """Show the project's log on standard error: warnings, with -v what is done, with -vv everything."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = RichHandler(console=err, show_path=False, omit_repeated_times=False)
    logger = logging.getLogger("refresh_pipeline")
    logger.setLevel(level)
    logger.addHandler(handler)


def wrong_requests() -> AbstractContextManager[None]:
    """End with exit code 2 and the message alone where the request itself is wrong."""
    return in_words((ValueError, OSError), WRONG_REQUEST)


@contextmanager
def in_words(kinds: tuple[type[Exception], ...], exit_code: int) -> Iterator[None]:
    """End with this exit code and the message alone at errors of these kinds."""
    try:
        yield
    except kinds as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(exit_code) from error


def _known(texts: Sequence[str], resolve: Callable[[str], Name]) -> set[Name]:
    found = set()
    for text in texts:
        with suppress(ValueError):
            found.add(resolve(text))
    return found


def _known_somewhere(text: str, resolvers: Sequence[Callable[[str], object]]) -> None:
    errors: list[ValueError] = []
    for resolve in resolvers:
        try:
            resolve(text)
        except ValueError as error:
            errors.append(error)
    if len(errors) == len(resolvers):
        raise errors[0]
