"""The `refresh` command: the list of its commands, by module.

Commands import late: a wrong request is answered before Dagster, DuckDB and the sources are imported.
"""

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
)
from refresh_pipeline.cli.console import print_line
from refresh_pipeline.cli.failures import CommandGroup

app = typer.Typer(
    name="refresh",
    cls=CommandGroup,
    help="Keep market candles fresh: candles, indicators, exports, uploads.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
exports_app = typer.Typer(help="Verify export files, delete older copies, find duplicates.", no_args_is_help=True)
files_app = typer.Typer(help="Look at files of candles that somebody else writes.", no_args_is_help=True)
apis_app = typer.Typer(help="List, ask and show API snapshots; import and export catalogues.", no_args_is_help=True)

for command in (refresh.once, refresh.backfill, refresh.publish):
    app.command()(command)
for command in (export_files.verify, export_files.prune, export_files.duplicates):
    exports_app.command()(command)
app.add_typer(exports_app, name="exports")
files_app.command()(files.inspect)
app.add_typer(files_app, name="files")
apis_app.command("list")(apis.list_apis)
apis_app.command("import")(apis.import_catalogue)
for command in (apis.once, apis.show, apis.export):
    apis_app.command()(command)
app.add_typer(apis_app, name="apis")
for command in (operate.backup, operate.restore, operate.maintain, recompute.recompute, snapshot.snapshot):
    app.command()(command)
for command in (status.status, gaps.gaps, check.check, acknowledge.acknowledge, alerts.alerts, watch.watch):
    app.command()(command)
for command in (
    new.new,
    markets.markets,
    settings_table.settings,
    doctor.doctor,
    query.query,
    chart.chart,
    signals.signals,
):
    app.command()(command)
for command in (operate.up, serve.serve, operate.universe, forget.forget, compute.compute, rename.rename):
    app.command()(command)


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
