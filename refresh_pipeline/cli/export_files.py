"""The commands for export files: `refresh exports verify`, `prune` and `duplicates`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.console import counted, err, out, print_line
from refresh_pipeline.cli.options import (
    DONE,
    SOME_FAILED,
    DataDirOption,
    DryRunOption,
    InstrumentOption,
    MarketOption,
    TimeframeOption,
    in_words,
    narrowed,
    refuse_left_out,
    reject_unknown,
    request,
    usable,
    warehouse_errors,
)

if TYPE_CHECKING:
    from refresh_pipeline.pipeline.export_duplicates import Duplicates


def verify(
    *,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Read every row of every export file, and compare it with schema, manifest and table."""
    with request(market, data_dir, lenient=True) as asked:
        reject_unknown(asked.markets, instrument, timeframe)
        wanted = usable(asked)
    from refresh_pipeline.cli.tables import progress_bars
    from refresh_pipeline.pipeline import export_verification
    from refresh_pipeline.pipeline.progress import watched
    from refresh_pipeline.warehouse.warehouse import Warehouse

    warehouse, exports_dir = Warehouse(database=wanted.settings.warehouse), wanted.settings.exports_dir
    messages: list[str] = []
    with warehouse_errors(), progress_bars(err) as watcher, watched(watcher):
        for selected in wanted.markets:
            series = narrowed(selected, instrument, timeframe)
            count, faults = export_verification.verify(warehouse, selected, exports_dir, series)
            messages += [f"{selected.name} {fault.series}: {fault.what}" for fault in faults]
            print_line(f"{selected.name}: {counted(count, 'file')} read, {counted(len(faults), 'fault')}")
    for message in messages:
        out.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    refuse_left_out(wanted)
    raise typer.Exit(SOME_FAILED if messages else DONE)


def prune(
    *,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Delete also the files of exports that no YAML names any more.")
    ] = False,
    market: MarketOption = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Delete older copies of export files that no market's YAML keeps; publishing does this as well."""
    with request(market, data_dir, lenient=True) as asked:
        wanted = usable(asked)
        exports_dir = wanted.settings.exports_dir
    from refresh_pipeline.pipeline import export_retention
    from refresh_pipeline.pipeline.export import current_files, unwanted_files
    from refresh_pipeline.warehouse.warehouse import Warehouse

    warehouse, verb = Warehouse(database=wanted.settings.warehouse), "would be deleted" if dry_run else "deleted"
    now = datetime.now(UTC)
    with warehouse_errors():
        for selected in wanted.markets:
            warehouse.prepare(selected)
            files, unwanted = current_files(warehouse, selected), unwanted_files(warehouse, selected)
            deletions = export_retention.prune(selected, exports_dir, files, now, dry_run=dry_run)
            if orphans:
                deletions += export_retention.delete_orphans(exports_dir, unwanted, now, dry_run=dry_run)
                gone = [file.path for file in unwanted if not (exports_dir / file.path).exists()]
                warehouse.drop_exports(selected, [] if dry_run else gone)
            for deletion in deletions:
                print_line(f"{deletion.file.path} ({deletion.reason})")
            print_line(f"{selected.name}: {counted(len(deletions), 'file')} {verb}")
            if unwanted and not orphans:
                print_line(
                    f"{counted(len(unwanted), 'file')} of exports that no YAML names any more; --orphans deletes them"
                )
    refuse_left_out(wanted)


def duplicates(
    *,
    link: Annotated[bool, typer.Option("--link", help="Replace equal files by hard links to one file.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete equal files that no loaded market's YAML asks for, all but one.")
    ] = False,
    market: MarketOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List export files with equal content, older copies included."""
    with request(market, data_dir) as wanted:
        if link and remove:
            raise ValueError("--link and --remove exclude each other; choose one")
    from refresh_pipeline.pipeline import export, export_content, export_dataset, export_duplicates

    exports_dir = wanted.settings.exports_dir
    needed = {exports_dir / path for selected in wanted.markets for path in export_content.wanted_paths(selected)}
    datasets = [dataset for selected in wanted.markets for dataset in export_dataset.datasets(selected)]
    needed |= {path for dataset in datasets for path in dataset.folder(exports_dir).glob("*.parquet")}
    groups = export_duplicates.find_duplicates(exports_dir, export.older_folder(exports_dir))
    with in_words((OSError,), SOME_FAILED):
        for group in groups:
            _print_group(group)
            if link:
                print_line(f"  linked: {export_duplicates.link(group)}")
            for path in export_duplicates.remove(group, needed) if remove else ():
                print_line(f"  deleted: {path}")
    print_line(f"{sum(group.spare_bytes for group in groups):,} bytes to spare")


def _print_group(group: "Duplicates") -> None:
    print_line(f"{len(group.paths)} files of {group.bytes:,} bytes, {group.links} linked:")
    for path in group.paths:
        print_line(f"  {path}")
