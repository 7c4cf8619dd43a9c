"""The command `alerts`: present problems, and the channels that report them."""

from typing import Annotated

import typer

from refresh_pipeline.cli.console import counted, print_line, print_warning
from refresh_pipeline.cli.options import (
    DONE,
    SOME_FAILED,
    WRONG_REQUEST,
    DataDirOption,
    MarketOption,
    request,
)


def alerts(
    *,
    test: Annotated[bool, typer.Option("--test", help="Send a test message to every alert channel.")] = False,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List present problems and the alert channels, or send a test message."""
    with request(market, data_dir, lenient=True) as wanted:
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
    print_line(f"{counted(len(problems), 'problem')}; channels: {names}")
