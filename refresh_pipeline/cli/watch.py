"""The command `watch`: whether the daemon lives, for health checks and timers where `refresh up` does not watch."""

import time
from typing import Annotated

import typer

from refresh_pipeline.cli.console import print_error, print_line
from refresh_pipeline.cli.options import SOME_FAILED, DataDirOption, wrong_requests


def watch(
    *,
    alert: Annotated[bool, typer.Option("--alert", help="Tell the alert channels as well.")] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Look at the daemon's newest heartbeat and tick; exit code 1 if one is older than ten minutes."""
    from refresh_pipeline.settings import dagster_home, load_settings

    with wrong_requests():
        home = dagster_home(load_settings(data_dir=data_dir))
    from refresh_pipeline.cli.watchdog import silences

    sentences = silences(home, time.time())
    for sentence in sentences:
        print_error(sentence)
    if not sentences:
        print_line(f"The daemon of {home} writes heartbeats and ticks.")
        return
    if alert:
        from refresh_pipeline.monitoring.send_alert import send_alert

        for error in send_alert("Refresh Pipeline: the daemon is silent", " ".join(sentences)):
            print_error(error)
    raise typer.Exit(SOME_FAILED)
