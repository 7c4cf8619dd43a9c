"""The commands that look and change nothing: `status`, `gaps` and `alerts`."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from refresh_pipeline.cli.console import out, print_line, print_warning
from refresh_pipeline.cli.options import (
    DONE,
    SOME_FAILED,
    WRONG_REQUEST,
    DataDirOption,
    JsonOption,
    MarketOption,
    NowOption,
    Request,
    request,
    warehouse_errors,
    warn_of_calendars,
    warn_of_unfinished_restore,
)

Rows = Sequence[Mapping[str, Any]]


def status(
    *,
    market: MarketOption = None,
    as_json: JsonOption = False,
    now: NowOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show every series: newest candle, age, bars behind, candle count, completeness, last outcome."""
    with request(market, data_dir, lenient=True, now=now) as wanted:
        moment = wanted.now
    from refresh_pipeline.cli.tables import print_status
    from refresh_pipeline.monitoring.status import status_rows
    from refresh_pipeline.operations.missing_warehouse import why_missing

    warn_of_unfinished_restore(wanted.settings)
    if reason := why_missing(wanted.settings):
        print_warning(reason)
    with warehouse_errors():
        rows = status_rows(wanted.settings, wanted.markets, moment)
    _print_rows(wanted, rows, as_json, lambda: print_status(out, wanted.settings, rows))


def gaps(
    *,
    market: MarketOption = None,
    as_json: JsonOption = False,
    now: NowOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show expected and stored candles of every series, and every range of missing candles."""
    with request(market, data_dir, now=now) as wanted:
        moment = wanted.now
    from refresh_pipeline.cli.gap_table import print_gaps
    from refresh_pipeline.monitoring.gap_report import gap_rows

    with warehouse_errors():
        rows = gap_rows(wanted.settings, wanted.markets, moment)
    _print_rows(wanted, rows, as_json, lambda: print_gaps(out, rows))


def alerts(
    *,
    test: Annotated[bool, typer.Option("--test", help="Send a test message to every alert channel.")] = False,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List present problems and the alert channels, or send a test message."""
    with request(market, data_dir) as wanted:
        from refresh_pipeline.settings import prepare_dagster

        prepare_dagster(wanted.settings)
    from refresh_pipeline.monitoring import notify
    from refresh_pipeline.orchestration.failed_runs import run_history
    from refresh_pipeline.orchestration.run_jobs import dagster_instance

    channels, missing_settings = notify.channels_of(wanted.settings)
    for line in missing_settings:
        print_warning(line)
    if test:
        errors = notify.send_test_message(channels)
        for name, error in errors.items():
            print_line(error or f"{name}: sent")
        raise typer.Exit(WRONG_REQUEST if missing_settings else SOME_FAILED if any(errors.values()) else DONE)
    with dagster_instance(wanted.settings) as instance:
        problems = notify.problems_now(wanted.settings, wanted.markets, run_history(instance, wanted.markets))
    for problem in problems:
        print_line(f"{problem.subject}: {problem.text}")
    names = ", ".join(channel.name for channel in channels) or "none"
    print_line(f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}; channels: {names}")


def _print_rows(wanted: Request, rows: Rows, as_json: bool, print_table: Callable[[], None]) -> None:
    warn_of_calendars(wanted)
    if as_json:
        out.print_json(json.dumps(rows), highlight=False)
    else:
        print_table()
