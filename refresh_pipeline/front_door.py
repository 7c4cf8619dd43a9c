"""Dagster's web UI behind a guard: `refresh-web`, in place of dagster-webserver.

Dagster's own server executes mutations by GET, answers any Host and any Origin, and knows no login. Here its app
stands behind `api.guard`; where REFRESH_API_KEY is set, people log in and programs send the key.
"""

import logging
import sys
from typing import Annotated

import dagster as dg
import typer
import uvicorn
from dagster._cli.utils import get_possibly_temporary_instance_for_cli
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__ as webserver_version

from refresh_pipeline.api.guard import Guard, OpenDoor, Rules, host_names, is_loopback
from refresh_pipeline.api.login import Keys
from refresh_pipeline.settings import Settings, SettingsError, keep_files_private, load_settings, set_dagster_variables

WRONG_REQUEST = 2
# GraphQL holds mutations; the report endpoints forge materializations, and nothing of ours uses them.
MUTATING, CLOSED = frozenset({"graphql"}), ("report_",)
# The versions of Dagster's packages: what health checks ask for.
PUBLIC = frozenset({"/server_info"})


def rules_and_keys(settings: Settings, host: str, port: int) -> tuple[Rules, Keys]:
    """What the guard goes by, as these settings say.

    Raises:
        OpenDoor: `host` is more than this machine, and no key is set.
    """
    keys = Keys.of(settings.api_key.get_secret_value() if settings.api_key else None)
    if not keys and not is_loopback(host):
        raise OpenDoor(
            f"--host {host}: other machines would reach the web UI, and no key is set; "
            "set REFRESH_API_KEY (16 characters or more), or leave --host out"
        )
    hosts = host_names(port, settings.api_hosts.split(","))
    return Rules(hosts=hosts, mutating=MUTATING, closed=CLOSED, public=PUBLIC), keys


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option("--host", "-h", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="The port to listen on.")] = 3000,
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="The workspace.yaml to load.")] = "workspace.yaml",
) -> None:
    """Serve Dagster's web UI behind the guard until interrupted."""
    try:
        rules, keys = rules_and_keys(load_settings(), host, port)
    except (SettingsError, OpenDoor) as error:
        print(error, file=sys.stderr)  # noqa: T201
        raise typer.Exit(WRONG_REQUEST) from None
    set_dagster_variables()
    setup_interrupt_handlers()
    logger = logging.getLogger("dagster-webserver")
    with (
        get_possibly_temporary_instance_for_cli(cli_command="dagster-webserver", logger=logger) as instance,
        WorkspaceProcessContext(
            optimized(instance), version=webserver_version, workspace_load_target=WorkspaceFileTarget([workspace])
        ) as context,
    ):
        app = Guard(create_app_from_workspace_process_context(context), rules, keys)
        uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)  # pyright: ignore[reportArgumentType]


def optimized(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """The instance, told that a server uses it for long: connections as dagster-webserver's defaults have them."""
    instance.optimize_for_webserver(statement_timeout=15000, pool_recycle=3600, max_overflow=20)
    return instance


def main() -> None:
    """The console script refresh-web."""
    keep_files_private()
    app()


if __name__ == "__main__":
    main()
