"""`status_report.json`, one per market beside its export files: how they stand, for whoever reads files alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from refresh_pipeline.files.atomic import replacing, why_not_written
from refresh_pipeline.files.writer import ExportError
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.export_spec import ALL_INSTRUMENTS
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.manifests import Exported
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome

NAME = "status_report.json"
HEALTHY, DEGRADED = "healthy", "degraded"


def status_report(
    market: Market, files: Sequence[Exported], failed: Mapping[Series, Attempt], now: datetime
) -> dict[str, Any]:
    """How a market's files stand: when, whether anything is wrong, what was asked for, how many and how large."""
    exports = {name: export.model_dump(mode="json") for name, export in market.exports.items()}
    return {
        "timestamp": iso_utc(now),
        "system_status": DEGRADED if failed else HEALTHY,
        "configuration": {
            "market": market.name,
            "instruments": len(market.instruments),
            "timeframes": [timeframe.value for timeframe in market.timeframes],
            "publish_seconds": int(market.publish.total_seconds()),
            "exports": exports,
        },
        "file_statistics": {
            **_sums(files),
            "by_export": {name: _sums(file for file in files if file.export == name) for name in exports},
            "failed_series": {str(series): attempt.reason for series, attempt in failed.items()},
        },
    }


def write_status_report(
    root: Path, market: Market, files: Sequence[Exported], done: Mapping[Series, Attempt], now: datetime
) -> None:
    """Write it, whole or not at all.

    Raises:
        ExportError: the folder refuses it.
    """
    failed = {series: attempt for series, attempt in done.items() if attempt.outcome is Outcome.failed}
    text = json.dumps(status_report(market, files, failed, now), indent=2) + "\n"
    path = root / market.name / NAME
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExportError(why_not_written(error, path, len(text))) from error


def _sums(files: Iterable[Exported]) -> dict[str, Any]:
    listed = list(files)
    newest = max((file.last_open_time for file in listed), default=None)
    return {
        "total_files": len(listed),
        "total_bytes": sum(file.bytes for file in listed),
        "total_rows": sum(file.rows for file in listed),
        "series": len({file.series for file in listed if file.series.instrument != ALL_INSTRUMENTS}),
        "newest_candle": None if newest is None else iso_utc(newest),
    }
