"""Publishing of a market's files: export, retention of older copies, status report."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from refresh_pipeline.files.writer import ExportError
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline.export import current_files, export, unwanted_files
from refresh_pipeline.pipeline.export_retention import prune
from refresh_pipeline.pipeline.snapshot import renew_snapshot
from refresh_pipeline.pipeline.status_report import write_status_report
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable
from refresh_pipeline.warehouse.outcomes import Attempt
from refresh_pipeline.warehouse.warehouse import Warehouse

log = logging.getLogger("refresh_pipeline")


def publish_files(
    warehouse: Warehouse,
    market: Market,
    root: Path,
    batch: Sequence[Series],
    now: datetime,
    *,
    snapshot: Path | None = None,
) -> dict[Series, Attempt]:
    """Write the due files, delete the older copies beyond their retention, and write the status report.

    With `snapshot`, the readers' copy of the warehouse is renewed. A report or a copy that cannot be written fails
    nothing: the log and the metadata of each series say so.
    """
    attempts = export(warehouse, market, root, batch, now)
    with warehouse.session(market.name):
        unwanted, current = unwanted_files(warehouse, market), current_files(warehouse, market)
    if unwanted:
        words = (
            "%s: %s files that the YAML no longer asks for are no longer written, %s for instance; "
            "refresh exports prune --orphans deletes them"
        )
        log.warning(words, market.name, f"{len(unwanted):,}", unwanted[0].path)
    prune(market, root, current, now)
    try:
        write_status_report(root, market, current, attempts, now)
        if snapshot:
            renew_snapshot(warehouse.database, snapshot)
    except (ExportError, OSError, ValueError, WarehouseUnreadable, WarehouseBusy) as error:
        return with_warning(attempts, str(error))
    return attempts


def with_warning(attempts: Mapping[Series, Attempt], warning: str) -> dict[Series, Attempt]:
    """The attempts with a warning in their metadata; the log gets it too."""
    log.warning("%s", warning)
    return {
        series: replace(attempt, metadata={**attempt.metadata, "warning": warning})
        for series, attempt in attempts.items()
    }
