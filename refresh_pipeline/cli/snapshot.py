"""The command `snapshot`: a copy of the warehouse that readers may keep open."""

from pathlib import Path
from typing import Annotated

import typer

from refresh_pipeline.cli.console import print_line
from refresh_pipeline.cli.options import (
    DataDirOption,
    require_stored,
    require_warehouse,
    warehouse_errors,
    wrong_requests,
)


def snapshot(
    *,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the copy to this file instead of REFRESH_SNAPSHOT.")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Copy the warehouse into a file that readers may keep open; the copy replaces the former one at once."""
    from refresh_pipeline.settings import load_settings
    from refresh_pipeline.warehouse.connection import place_of

    with wrong_requests():
        settings = load_settings(data_dir=data_dir)
        target = (to.expanduser().absolute() if to else settings.snapshot) or settings.data / "readers.duckdb"
        file = place_of(settings.warehouse).file
        if file is not None and target.resolve() == file.resolve():
            raise ValueError(f"--to: found {target}, allowed: another file than the warehouse")
        require_warehouse(settings, new=False)
        require_stored(settings)
    from refresh_pipeline.pipeline.snapshot import renew_snapshot

    with warehouse_errors(), wrong_requests():
        renew_snapshot(settings.warehouse, target)
    print_line(f"{target}: {target.stat().st_size:,} bytes")
