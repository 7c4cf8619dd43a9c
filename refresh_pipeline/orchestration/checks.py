"""What must be true of each asset: sentences that are true when green, and a table of what is not when red."""

from collections.abc import Iterator

import dagster as dg

from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.resources import Asked, Exports, Uploads, WarehouseParam
from refresh_pipeline.pipeline.quality import Verdict, export_verdict, raw_verdicts, upload_verdict
from refresh_pipeline.warehouse.queries import Fault
from refresh_pipeline.warehouse.schema import Table

RAW_CHECKS = {
    "every_series_was_fetched": "The last attempt at every series got an answer.",
    "prices_are_coherent": "No stored candle contradicts itself: high is highest, low is lowest, all are positive.",
    "open_times_are_unique_and_on_the_grid": "Each candle is there once, and opens where the calendar says.",
    "every_series_is_fresh": "Each series has the newest candle that the calendar says has closed.",
    "prices_are_plausible": "No newer price jumps and comes back, is off by a factor of 100, or steps as at a split.",
    "no_candles_are_missing": "Every candle that the calendar expects is there, but for what the source does not have.",
}
AGREEMENT = {
    "sources_agree": "Where two sources have the same candle, their prices are no further apart than allowed.",
}
FAULTS_SHOWN = 50
COLUMNS = dg.TableSchema([dg.TableColumn(name) for name in ("instrument", "timeframe", "open_time", "what")])


def market_checks(market: Market) -> list[dg.AssetChecksDefinition]:
    """Every check of one market's assets."""
    key = dg.AssetKey([market.name, Table.raw_candles.value])
    texts = RAW_CHECKS | (AGREEMENT if market.fallbacks else {})
    specs = [dg.AssetCheckSpec(name, asset=key, description=text) for name, text in texts.items()]

    # One step for them all: each step of a run costs Dagster more than the questions cost DuckDB.
    # After everything else of the run: who waits for the newest indicators does not wait for them.
    last = {"dagster/priority": "-1"}

    @dg.multi_asset_check(name=f"{market.name}_raw_candles_checks", specs=specs, can_subset=True, op_tags=last)
    def raw_candles_checks(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseParam, asked: Asked
    ) -> Iterator[dg.AssetCheckResult]:
        chosen = {check.name for check in context.selected_asset_check_keys}
        for verdict in raw_verdicts(warehouse, market, asked.moment):
            if verdict.name in chosen:
                yield result(verdict, key)

    @dg.asset_check(
        asset=[market.name, Table.exports.value],
        description="Every export file is there unaltered and holds what the tables held when it was written.",
    )
    def exports_match_the_table(warehouse: WarehouseParam, files: Exports) -> dg.AssetCheckResult:
        return result(export_verdict(warehouse, market, files.root))

    @dg.asset_check(
        asset=[market.name, Table.uploads.value],
        description="The destination holds every export file as it was last exported.",
    )
    def uploads_match_the_exports(warehouse: WarehouseParam, destination: Uploads) -> dg.AssetCheckResult:
        return result(upload_verdict(warehouse, market, market.uploads, lambda: destination.open(market.uploads)))

    return [raw_candles_checks, exports_match_the_table, uploads_match_the_exports]


def result(verdict: Verdict, key: dg.AssetKey | None = None) -> dg.AssetCheckResult:
    """A verdict as Dagster shows it."""
    metadata: dict[str, dg.MetadataValue | int] = {"examined": verdict.examined, "faults": len(verdict.faults)}
    if verdict.faults:
        rows = [dg.TableRecord(_row(fault)) for fault in verdict.faults[:FAULTS_SHOWN]]
        metadata["first_faults"] = dg.MetadataValue.table(rows, schema=COLUMNS)
    return dg.AssetCheckResult(
        passed=not verdict.faults,
        check_name=verdict.name if key else None,
        asset_key=key,
        metadata=metadata,
        description=verdict.summary,
    )


def _row(fault: Fault) -> dict[str, str]:
    return {
        "instrument": fault.series.instrument,
        "timeframe": fault.series.timeframe.value,
        "open_time": "" if fault.open_time is None else str(fault.open_time.astype("datetime64[s]")),
        "what": fault.what,
    }


# ---- raw candles


# ---- exports and uploads
