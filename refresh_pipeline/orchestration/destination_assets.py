"""An asset for each destination that a market's YAML describes, downstream of what goes spec, and its check.

What REFRESH_UPLOAD_URL names is the asset `uploads`, in `assets`.
"""

from collections.abc import Callable

import dagster as dg

from refresh_pipeline.market.destination_spec import UPLOADS, BaseSpec, FileSpec, RedisSpec
from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.asset_specs import freshness
from refresh_pipeline.orchestration.checks import result
from refresh_pipeline.orchestration.materialization import materialized, remaining_series
from refresh_pipeline.orchestration.partitions import grid
from refresh_pipeline.orchestration.resources import ExportsParam, UploadsParam, WarehouseParam
from refresh_pipeline.orchestration.run_options import RunOptionsParam as Options
from refresh_pipeline.pipeline import redis_cache, upload
from refresh_pipeline.pipeline.quality import upload_verdict, window_verdict
from refresh_pipeline.warehouse.schema import Table

Context = dg.AssetExecutionContext


def described(market: Market) -> list[FileSpec | RedisSpec]:
    """The destinations that the market's YAML describes."""
    return [spec for spec in market.destinations.values() if spec.name != UPLOADS]


def copy_assets(market: Market) -> list[dg.AssetsDefinition]:
    """One asset a destination, of the market's own partitions."""
    return [
        _files(market, spec) if isinstance(spec, FileSpec) else _candles(market, spec) for spec in described(market)
    ]


def copy_checks(market: Market) -> list[dg.AssetChecksDefinition]:
    """One check a destination: whether it holds what it should."""
    return [
        _files_check(market, spec) if isinstance(spec, FileSpec) else _candles_check(market, spec)
        for spec in described(market)
    ]


def _files(market: Market, spec: FileSpec) -> dg.AssetsDefinition:
    def copies(
        context: Context,
        warehouse: WarehouseParam,
        files: ExportsParam,
        destination: UploadsParam,
        run_options: Options,
    ) -> dg.MaterializeResult:
        now, batch = run_options.now_instant(market), remaining_series(context, run_options, warehouse, market)
        opened = destination.open(spec)
        attempts = upload.upload(warehouse, market, spec, batch, root=files.root, destination=opened, now=now)
        return materialized(context, warehouse, market, attempts, now)

    return _asset(market, spec, Table.exports)(copies)


def _candles(market: Market, spec: RedisSpec) -> dg.AssetsDefinition:
    def copies(
        context: Context, warehouse: WarehouseParam, destination: UploadsParam, run_options: Options
    ) -> dg.MaterializeResult:
        now, batch = run_options.now_instant(market), remaining_series(context, run_options, warehouse, market)
        opened = destination.open_redis(spec)
        attempts = redis_cache.keep(warehouse, market, spec, batch, destination=opened, now=now)
        return materialized(context, warehouse, market, attempts, now)

    return _asset(market, spec, Table.raw_candles)(copies)


def _asset(
    market: Market, spec: BaseSpec, source: Table
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    return dg.asset(
        key=[market.name, spec.asset],
        group_name=market.name,
        deps=[dg.AssetKey([market.name, source.value])],
        description=spec.description,
        owners=list(market.owners),
        kinds={spec.kind},
        partitions_def=grid(market),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=freshness(source, market),
    )


def _files_check(market: Market, spec: FileSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=[market.name, spec.asset],
        name=f"{spec.asset}_match_the_exports",
        description="The destination holds every export file as it was last exported.",
    )
    def copies_match(warehouse: WarehouseParam, destination: UploadsParam) -> dg.AssetCheckResult:
        return result(upload_verdict(warehouse, market, spec, lambda: destination.open(spec)))

    return copies_match


def _candles_check(market: Market, spec: RedisSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=[market.name, spec.asset],
        name=f"{spec.asset}_are_whole",
        description="The destination holds the whole window of every series.",
    )
    def copies_are_whole(warehouse: WarehouseParam, destination: UploadsParam) -> dg.AssetCheckResult:
        return result(window_verdict(warehouse, market, spec, lambda: destination.open_redis(spec)))

    return copies_are_whole
