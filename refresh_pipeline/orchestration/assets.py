"""THE STORY, per market: raw_candles -> enhanced_candles -> indicators -> exports -> uploads.

Each asset reads, applies, writes. `pipeline` does the work, `materialization` reports the outcome of every series,
`asset_specs` describes each asset in the web UI.
"""

from functools import partial

import dagster as dg

from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.asset_specs import asset
from refresh_pipeline.orchestration.charts import with_chart
from refresh_pipeline.orchestration.materialization import materialized, remaining_series, series_of
from refresh_pipeline.orchestration.resources import ExportsParam as Exports
from refresh_pipeline.orchestration.resources import UploadsParam as Uploads
from refresh_pipeline.orchestration.resources import VenuesParam as Venues
from refresh_pipeline.orchestration.resources import WarehouseParam
from refresh_pipeline.orchestration.run_options import RunOptionsParam as Options
from refresh_pipeline.pipeline import backfill, compute, fetch, upload
from refresh_pipeline.pipeline.publish import publish_files
from refresh_pipeline.warehouse.schema import Table

Context = dg.AssetExecutionContext
Result = dg.MaterializeResult


def market_assets(market: Market) -> list[dg.AssetsDefinition]:
    """The five assets of one market, each partitioned by instrument and timeframe, each made in one step."""

    @asset(Table.raw_candles, market)
    def raw_candles(context: Context, warehouse: WarehouseParam, venues: Venues, run_options: Options) -> Result:
        now, batch, source = run_options.now_instant(market), series_of(context, run_options), venues.open(market)
        warehouse.prepare(market)
        work = backfill.backfill if run_options.missing_only else partial(fetch.refresh_candles, gaps=run_options.gaps)
        since, until = run_options.since_instant, run_options.until_instant
        attempts = work(warehouse, market, source, batch, now, since=since, until=until)
        return materialized(context, warehouse, market, attempts, options=run_options, now=now)

    @asset(Table.enhanced_candles, market, after=raw_candles)
    def enhanced_candles(context: Context, warehouse: WarehouseParam, run_options: Options) -> Result:
        now, batch = run_options.now_instant(market), remaining_series(context, run_options, warehouse, market)
        attempts = compute.compute(warehouse, market, Table.enhanced_candles, batch)
        if len(context.partition_keys) == 1:
            attempts = with_chart(attempts, warehouse, market)
        return materialized(context, warehouse, market, attempts, options=run_options, now=now)

    @asset(Table.indicators, market, after=enhanced_candles)
    def indicators(context: Context, warehouse: WarehouseParam, run_options: Options) -> Result:
        now, batch = run_options.now_instant(market), remaining_series(context, run_options, warehouse, market)
        attempts = compute.compute(warehouse, market, Table.indicators, batch)
        return materialized(context, warehouse, market, attempts, options=run_options, now=now)

    @asset(Table.exports, market, after=indicators)
    def exports(context: Context, warehouse: WarehouseParam, files: Exports, run_options: Options) -> Result:
        now, batch = run_options.now_instant(market), remaining_series(context, run_options, warehouse, market)
        attempts = publish_files(warehouse, market, files.root, batch, now, snapshot=files.snapshot)
        return materialized(context, warehouse, market, attempts, options=run_options, now=now)

    @asset(Table.uploads, market, after=exports)
    def uploads(
        context: Context, warehouse: WarehouseParam, files: Exports, destination: Uploads, run_options: Options
    ) -> Result:
        now, batch = run_options.now_instant(market), remaining_series(context, run_options, warehouse, market)
        spec, target = market.uploads, destination.open(market.uploads)
        attempts = upload.upload(warehouse, market, spec, batch, root=files.root, destination=target, now=now)
        return materialized(context, warehouse, market, attempts, options=run_options, now=now)

    return [raw_candles, enhanced_candles, indicators, exports, uploads]
