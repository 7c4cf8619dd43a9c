"""The checks of each asset as Dagster shows them: a sentence that is true when green, a table of faults when red.

`pipeline.quality` holds what each check examines.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg

from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.resources import ExportsParam, UploadsParam, WarehouseParam
from refresh_pipeline.orchestration.run_options import RunOptionsParam as Options
from refresh_pipeline.pipeline.quality import Verdict, candle_checks, candle_verdicts, export_verdict, upload_verdict
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.check_results import CheckResult
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable
from refresh_pipeline.warehouse.queries import Fault
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

FAULTS_SHOWN = 50
ERROR, WARN = "error", "warn"
EXPORTS_TEXT = "Every export file is unaltered and holds the rows that the tables held when it was written."
UPLOADS_TEXT = "The destination holds every export file as it was last exported."
COLUMNS = dg.TableSchema([dg.TableColumn(name) for name in ("instrument", "timeframe", "open_time", "fault")])


def market_checks(market: Market) -> list[dg.AssetChecksDefinition]:
    """Every check of one market's assets."""
    key = dg.AssetKey([market.name, Table.raw_candles.value])
    specs = [dg.AssetCheckSpec(check.name, asset=key, description=check.text) for check in candle_checks(market)]

    # One step for all checks: a step costs Dagster more than the queries cost DuckDB.
    # Checks run last in a run, so that nobody waits for them to see the newest indicators.
    last = {"dagster/priority": "-1"}

    @dg.multi_asset_check(name=f"{market.name}_raw_candles_checks", specs=specs, can_subset=True, op_tags=last)
    def raw_candles_checks(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseParam, run_options: Options
    ) -> Iterator[dg.AssetCheckResult]:
        chosen = {check.name for check in context.selected_asset_check_keys}
        verdicts = candle_verdicts(warehouse, market, run_options.now_instant(market), chosen)
        texts = {check.name: check.text for check in candle_checks(market)}
        asset = Table.raw_candles.value
        found = [checked(context, asset, name, texts[name], verdict) for name, verdict in verdicts.items()]
        record(context, warehouse, market, found)
        for name, verdict in verdicts.items():
            yield result(verdict, key, name)

    @dg.asset_check(asset=[market.name, Table.exports.value], description=EXPORTS_TEXT)
    def exports_match_the_table(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseParam, files: ExportsParam
    ) -> dg.AssetCheckResult:
        verdict = export_verdict(warehouse, market, files.root)
        found = checked(context, Table.exports.value, "exports_match_the_table", EXPORTS_TEXT, verdict)
        record(context, warehouse, market, [found])
        return result(verdict)

    @dg.asset_check(asset=[market.name, Table.uploads.value], description=UPLOADS_TEXT)
    def uploads_match_the_exports(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseParam, destination: UploadsParam
    ) -> dg.AssetCheckResult:
        verdict = upload_verdict(warehouse, market, market.uploads, lambda: destination.open(market.uploads))
        found = checked(context, Table.uploads.value, "uploads_match_the_exports", UPLOADS_TEXT, verdict)
        record(context, warehouse, market, [found])
        return result(verdict)

    return [raw_candles_checks, exports_match_the_table, uploads_match_the_exports]


def checked(context: dg.AssetCheckExecutionContext, asset: str, name: str, text: str, verdict: Verdict) -> CheckResult:
    """A verdict as the warehouse keeps it."""
    return CheckResult(
        asset=asset,
        check=name,
        description=text,
        passed=not verdict.faults,
        severity=ERROR,
        detail=verdict.summary,
        examined=verdict.examined,
        faults=len(verdict.faults),
        run_id=context.run.run_id,
        checked_at=timestamp(datetime.now(UTC)),
    )


def record(
    context: dg.AssetCheckExecutionContext, warehouse: Warehouse, market: Market, found: Sequence[CheckResult]
) -> None:
    """Keep results for readers without Dagster; a check that another process keeps from writing still counts."""
    if not warehouse.exists:
        return
    try:
        warehouse.record_checks(market, found)
    except (WarehouseBusy, WarehouseUnreadable) as error:
        context.log.warning("the results of checks are not in the warehouse: %s", error)


def result(verdict: Verdict, key: dg.AssetKey | None = None, name: str | None = None) -> dg.AssetCheckResult:
    """A verdict as Dagster shows it."""
    metadata: dict[str, dg.MetadataValue | int] = {"examined": verdict.examined, "faults": len(verdict.faults)}
    if verdict.acknowledged:
        metadata["acknowledged"] = verdict.acknowledged
    if verdict.faults:
        rows = [dg.TableRecord(_row(fault)) for fault in verdict.faults[:FAULTS_SHOWN]]
        metadata["first_faults"] = dg.MetadataValue.table(rows, schema=COLUMNS)
    return dg.AssetCheckResult(
        passed=not verdict.faults,
        check_name=name,
        asset_key=key,
        metadata=metadata,
        description=verdict.summary,
    )


def _row(fault: Fault) -> dict[str, str]:
    return {
        "instrument": fault.series.instrument,
        "timeframe": fault.series.timeframe.value,
        "open_time": "" if fault.open_time is None else str(fault.open_time.astype("datetime64[s]")),
        "fault": fault.what,
    }
