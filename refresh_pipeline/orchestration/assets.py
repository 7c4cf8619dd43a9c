"""THE STORY, per market: raw_candles -> enhanced_candles -> indicators -> exports -> uploads.

Each asset reads, applies, writes; `steps` knows how, `materializing` tells Dagster what became of every series, and
`describing` tells the reader of the web UI what each asset is.
"""

from functools import partial

import dagster as dg

from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.asset_specs import asset
from refresh_pipeline.orchestration.charts import with_chart
from refresh_pipeline.orchestration.materialization import materialized, series_left, series_of
from refresh_pipeline.orchestration.resources import Asked, Exports, Uploads, Venues, WarehouseParam
from refresh_pipeline.pipeline import backfill, compute, fetch, upload
from refresh_pipeline.pipeline.publish import file_away
from refresh_pipeline.warehouse.schema import Table

Context = dg.AssetExecutionContext


def market_assets(market: Market) -> list[dg.AssetsDefinition]:
    """The five assets of one market, each partitioned by instrument and timeframe, each done in one step."""

    @asset(Table.raw_candles, market)
    def raw_candles(context: Context, warehouse: WarehouseParam, venues: Venues, asked: Asked) -> dg.MaterializeResult:
        now, batch, venue = asked.moment, series_of(context, asked), venues.open(market)
        with warehouse.session():
            warehouse.prepare(market)
            warehouse.write_expected_bars(market, now)
        work = backfill.backfill if asked.missing else partial(fetch.refresh_candles, holes=asked.holes)
        done = work(warehouse, market, venue, batch, now, since=asked.since_instant, until=asked.until_instant)
        return materialized(context, warehouse, market, done, now)

    @asset(Table.enhanced_candles, market, after=raw_candles)
    def enhanced_candles(context: Context, warehouse: WarehouseParam, asked: Asked) -> dg.MaterializeResult:
        batch = series_left(context, asked, warehouse, market)
        done = compute.compute(warehouse, market, Table.enhanced_candles, batch)
        if len(context.partition_keys) == 1:
            done = with_chart(done, warehouse, market)
        return materialized(context, warehouse, market, done, asked.moment)

    @asset(Table.indicators, market, after=enhanced_candles)
    def indicators(context: Context, warehouse: WarehouseParam, asked: Asked) -> dg.MaterializeResult:
        batch = series_left(context, asked, warehouse, market)
        done = compute.compute(warehouse, market, Table.indicators, batch)
        return materialized(context, warehouse, market, done, asked.moment)

    @asset(Table.exports, market, after=indicators)
    def exports(context: Context, warehouse: WarehouseParam, files: Exports, asked: Asked) -> dg.MaterializeResult:
        now, batch = asked.moment, series_left(context, asked, warehouse, market)
        done = file_away(warehouse, market, files.root, batch, now)
        return materialized(context, warehouse, market, done, now)

    @asset(Table.uploads, market, after=exports)
    def uploads(
        context: Context, warehouse: WarehouseParam, files: Exports, destination: Uploads, asked: Asked
    ) -> dg.MaterializeResult:
        now, batch = asked.moment, series_left(context, asked, warehouse, market)
        place = destination.open(market.uploads)
        done = upload.upload(warehouse, market, market.uploads, batch, root=files.root, destination=place, now=now)
        return materialized(context, warehouse, market, done, now)

    return [raw_candles, enhanced_candles, indicators, exports, uploads]
