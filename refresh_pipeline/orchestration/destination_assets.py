"""An asset and a check for each destination in a market's YAML, downstream of the files or candles that go there.

The destination of REFRESH_UPLOAD_URL is the asset `uploads`, in `assets`.
"""

from collections.abc import Callable
from functools import partial

import dagster as dg

from refresh_pipeline.market.destination_spec import UPLOADS, BaseSpec, FileSpec, RedisSpec
from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.asset_specs import freshness
from refresh_pipeline.orchestration.checks import checked, record, result
from refresh_pipeline.orchestration.materialization import materialized, remaining_series
from refresh_pipeline.orchestration.partitions import grid
from refresh_pipeline.orchestration.resources import ExportsParam, UploadsParam, WarehouseParam
from refresh_pipeline.orchestration.run_options import RunOptionsParam as Options
from refresh_pipeline.pipeline import redis_cache, upload
from refresh_pipeline.pipeline.quality import upload_verdict, window_verdict
from refresh_pipeline.warehouse.schema import Table

Context = dg.AssetExecutionContext
FILES_CHECK = "matches_the_exports", "The destination holds every export file as it was last exported."
CANDLES_CHECK = "is_whole", "The destination holds the whole window of every series."


def further_destinations(market: Market) -> list[FileSpec | RedisSpec]:
    """The destinations that the market's YAML adds to `uploads`."""
    return [spec for spec in market.destinations.values() if spec.name != UPLOADS]


def destination_assets(market: Market) -> list[dg.AssetsDefinition]:
    """One asset per destination, with the market's partitions."""
    return [
        _files(market, spec) if isinstance(spec, FileSpec) else _candles(market, spec)
        for spec in further_destinations(market)
    ]


def destination_checks(market: Market) -> list[dg.AssetChecksDefinition]:
    """One check per destination: whether it holds all that belongs there."""
    return [_check(market, spec) for spec in further_destinations(market)]


def _files(market: Market, spec: FileSpec) -> dg.AssetsDefinition:
    def uploaded_files(
        context: Context,
        warehouse: WarehouseParam,
        files: ExportsParam,
        destination: UploadsParam,
        run_options: Options,
    ) -> dg.MaterializeResult:
        now, batch = run_options.now_instant(market), remaining_series(context, run_options, warehouse, market)
        opened = destination.open(spec)
        attempts = upload.upload(warehouse, market, spec, batch, root=files.root, destination=opened, now=now)
        return materialized(context, warehouse, market, attempts, options=run_options, now=now)

    return _asset(market, spec, Table.exports)(uploaded_files)


def _candles(market: Market, spec: RedisSpec) -> dg.AssetsDefinition:
    def pushed_candles(
        context: Context, warehouse: WarehouseParam, destination: UploadsParam, run_options: Options
    ) -> dg.MaterializeResult:
        now, batch = run_options.now_instant(market), remaining_series(context, run_options, warehouse, market)
        opened = destination.open_redis(spec)
        attempts = redis_cache.keep(warehouse, market, spec, batch, destination=opened, now=now)
        return materialized(context, warehouse, market, attempts, options=run_options, now=now)

    return _asset(market, spec, Table.raw_candles)(pushed_candles)


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


def _check(market: Market, spec: FileSpec | RedisSpec) -> dg.AssetChecksDefinition:
    statement, description = FILES_CHECK if isinstance(spec, FileSpec) else CANDLES_CHECK
    name = f"{spec.asset}_{statement}"

    @dg.asset_check(asset=[market.name, spec.asset], name=name, description=description)
    def destination_check(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseParam, destination: UploadsParam
    ) -> dg.AssetCheckResult:
        if isinstance(spec, FileSpec):
            verdict = upload_verdict(warehouse, market, spec, partial(destination.open, spec))
        else:
            verdict = window_verdict(warehouse, market, spec, partial(destination.open_redis, spec))
        record(context, warehouse, market, [checked(context, spec.asset, name, description, verdict)])
        return result(verdict)

    return destination_check
