"""The `refresh` command: the list of its commands, by module.

Commands import late: a wrong request is answered before Dagster, DuckDB and the sources are imported.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from refresh_pipeline.cli import (
    acknowledge,
    alerts,
    apis,
    chart,
    check,
    compute,
    doctor,
    export_files,
    files,
    forget,
    gaps,
    markets,
    new,
    operate,
    query,
    recompute,
    refresh,
    rename,
    serve,
    settings_table,
    signals,
    snapshot,
    status,
    watch,
    worker,
)
from refresh_pipeline.cli.console import print_line
from refresh_pipeline.cli.failures import CommandGroup

app = typer.Typer(
    name="refresh",
    cls=CommandGroup,
    help="Keep market candles fresh: candles, indicators, exports, uploads.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    epilog="Begin with: refresh once, refresh status, refresh up. The manual explains every command: docs/commands.md.",
)
exports_app = typer.Typer(help="Verify export files, delete older copies, find duplicates.", no_args_is_help=True)
files_app = typer.Typer(help="Look at files of candles that somebody else writes.", no_args_is_help=True)
apis_app = typer.Typer(help="List, ask and show API snapshots; import and export catalogues.", no_args_is_help=True)

# What `refresh --help` shows, in this order.
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Refresh": (refresh.once, refresh.backfill, refresh.publish, operate.up, serve.serve, worker.worker),
    "Look": (
        status.status,
        gaps.gaps,
        check.check,
        alerts.alerts,
        chart.chart,
        query.query,
        signals.signals,
        watch.watch,
    ),
    "Set up": (new.new, markets.markets, settings_table.settings, doctor.doctor, operate.universe),
    "Repair": (acknowledge.acknowledge, recompute.recompute, compute.compute, forget.forget, rename.rename),
    "Keep": (compute.archive, operate.backup, operate.restore, operate.maintain, snapshot.snapshot),
}
GROUPS = {
    "exports": (exports_app, (export_files.verify, export_files.prune, export_files.duplicates)),
    "files": (files_app, (files.inspect,)),
    "apis": (apis_app, (apis.once, apis.show, apis.files, apis.export)),
}

for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
apis_app.command("list")(apis.list_apis)
apis_app.command("import")(apis.import_catalogue)
for name, (group, commands) in GROUPS.items():
    for command in commands:
        group.command()(command)
    app.add_typer(group, name=name, rich_help_panel="Files and APIs")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print_line(f"refresh-pipeline {version('refresh-pipeline')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Keep market candles fresh: candles, indicators, exports, uploads."""
