"""An asset for each destination that a market's YAML describes, downstream of what goes there, and its check.

What REFRESH_UPLOAD_URL names is the asset `uploads`, in `assets`.
"""

from collections.abc import Callable

import dagster as dg

from refresh_pipeline.market.destination_spec import UPLOADS, DestinationSettings, Kind
from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.asset_specs import freshness
from refresh_pipeline.orchestration.checks import result
from refresh_pipeline.orchestration.materialization import materialized, series_left
from refresh_pipeline.orchestration.partitions import grid
from refresh_pipeline.orchestration.resources import Asked, Exports, Uploads, WarehouseParam
from refresh_pipeline.pipeline import redis_cache, upload
from refresh_pipeline.pipeline.quality import upload_verdict, window_verdict
from refresh_pipeline.warehouse.schema import Table

Context = dg.AssetExecutionContext
DESCRIPTIONS = {
    Kind.folder: "The export files in another folder.",
    Kind.dropbox: "The export files in Dropbox.",
    Kind.s3: "The export files in a bucket of S3-compatible storage.",
    Kind.redis: "The newest candles of every series in Redis, the window always whole.",
}


def described(market: Market) -> list[DestinationSettings]:
    """The destinations that the market's YAML describes."""
    return [there for there in market.destinations.values() if there.name != UPLOADS]


def copy_assets(market: Market) -> list[dg.AssetsDefinition]:
    """One asset a destination, of the market's own partitions."""
    return [(_files if there.takes_files else _candles)(market, there) for there in described(market)]


def copy_checks(market: Market) -> list[dg.AssetChecksDefinition]:
    """One check a destination: whether it holds what it should."""
    return [(_files_check if there.takes_files else _candles_check)(market, there) for there in described(market)]


def _files(market: Market, there: DestinationSettings) -> dg.AssetsDefinition:
    def copies(
        context: Context, warehouse: WarehouseParam, files: Exports, destination: Uploads, asked: Asked
    ) -> dg.MaterializeResult:
        now, batch = asked.moment, series_left(context, asked, warehouse, market)
        place = destination.open(there)
        done = upload.upload(warehouse, market, there, batch, root=files.root, destination=place, now=now)
        return materialized(context, warehouse, market, done, now)

    return _asset(market, there, Table.exports)(copies)


def _candles(market: Market, there: DestinationSettings) -> dg.AssetsDefinition:
    def copies(context: Context, warehouse: WarehouseParam, destination: Uploads, asked: Asked) -> dg.MaterializeResult:
        now, batch = asked.moment, series_left(context, asked, warehouse, market)
        place = destination.open_redis(there)
        done = redis_cache.keep(warehouse, market, there, batch, destination=place, now=now)
        return materialized(context, warehouse, market, done, now)

    return _asset(market, there, Table.raw_candles)(copies)


def _asset(
    market: Market, there: DestinationSettings, source: Table
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    kind = Kind(there.kind or Kind.folder)
    return dg.asset(
        key=[market.name, there.asset],
        group_name=market.name,
        deps=[dg.AssetKey([market.name, source.value])],
        description=DESCRIPTIONS[kind],
        owners=list(market.owners),
        kinds={kind.value},
        partitions_def=grid(market),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=freshness(source, market),
    )


def _files_check(market: Market, there: DestinationSettings) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=[market.name, there.asset],
        name=f"{there.asset}_match_the_exports",
        description="The destination holds every export file as it was last exported.",
    )
    def copies_match(warehouse: WarehouseParam, destination: Uploads) -> dg.AssetCheckResult:
        return result(upload_verdict(warehouse, market, there, lambda: destination.open(there)))

    return copies_match


def _candles_check(market: Market, there: DestinationSettings) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=[market.name, there.asset],
        name=f"{there.asset}_are_whole",
        description="The destination holds the whole window of every series.",
    )
    def copies_are_whole(warehouse: WarehouseParam, destination: Uploads) -> dg.AssetCheckResult:
        return result(window_verdict(warehouse, market, there, lambda: destination.open_redis(there)))

    return copies_are_whole
