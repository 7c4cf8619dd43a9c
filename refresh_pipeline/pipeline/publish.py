"""All that a publishing does to a market's files: written, older copies put in order, the status report told."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline.export import current_files, export
from refresh_pipeline.pipeline.export_retention import prune
from refresh_pipeline.pipeline.status_report import write_status_report
from refresh_pipeline.warehouse.outcomes import Attempt
from refresh_pipeline.warehouse.warehouse import Warehouse


def file_away(
    warehouse: Warehouse, market: Market, root: Path, batch: Sequence[Series], now: datetime
) -> dict[Series, Attempt]:
    """Write what is due, delete what is kept no longer, and say beside the files how they stand.

    Raises:
        ExportError: the folder refuses the report.
    """
    done = export(warehouse, market, root, batch, now)
    prune(warehouse, market, root, now)
    write_status_report(root, market, current_files(warehouse, market), done, now)
    return done
