"""The command `serve`: the API by itself."""

import os
import sys
from typing import Annotated

import typer

from refresh_pipeline.cli.operate import refuse_used_port
from refresh_pipeline.cli.options import DataDirOption, MarketOption, request


def serve(
    *,
    host: Annotated[
        str | None, typer.Option(help="Listen on this address instead of REFRESH_API_HOST; others need a key.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Listen on this port instead of REFRESH_API_PORT.")
    ] = None,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve the API until interrupted."""
    with request(market, data_dir, lenient=True) as wanted:
        settings = wanted.settings
        host, port = host or settings.api_host, port or settings.api_port
        refuse_used_port(port, host)
    from refresh_pipeline.settings import PACKAGE, child_environment

    # The API takes this process's place: what reads the command line is not kept in memory.
    command = [sys.executable, "-P", "-m", f"{PACKAGE.name}.api.serving", host, str(port)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, child_environment(settings, markets_named=wanted.named))  # noqa: S606 (our own program)
