"""The jobs of a market: refresh, publish, backfill."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from refresh_pipeline.instance.queues import ON_FILES
from refresh_pipeline.market.destination_spec import FileSpec
from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.destination_assets import further_destinations
from refresh_pipeline.orchestration.run_options import KEY
from refresh_pipeline.pipeline.job_names import (
    backfill_job_name,
    candle_check_job_name,
    check_job_name,
    publish_job_name,
    refresh_job_name,
)
from refresh_pipeline.warehouse.schema import Table

REFRESHED = (Table.raw_candles, Table.enhanced_candles, Table.indicators)


PUBLISHED = (Table.exports, Table.uploads)


def market_jobs(market: Market) -> list[UnresolvedAssetJobDefinition]:
    """The jobs that refresh the market's candles, publish them, fetch missing history and run the checks."""
    refreshed = _selection(market, [*REFRESHED, *_destination_names(market, of_files=False)])
    return [
        *([candle_check_job(market, refreshed)] if market.chunks else []),
        dg.define_asset_job(
            refresh_job_name(market),
            # Checks examine the whole market: with chunks they would run once in each.
            selection=refreshed.without_checks() if market.chunks else refreshed,
            description=f"Fetch {market.name}'s candles and compute what follows from them.",
        ),
        dg.define_asset_job(
            publish_job_name(market),
            selection=_selection(market, [*PUBLISHED, *_destination_names(market, of_files=True)]),
            description=f"Write {market.name}'s export files and upload them.",
            tags=ON_FILES,
        ),
        dg.define_asset_job(
            backfill_job_name(market),
            selection=_selection(market, REFRESHED),
            description=f"Fetch what {market.name}'s calendar expects and the warehouse lacks, between `since` and "
            "`until` of its config, and compute what follows; refreshes go on beside it.",
            # What the launchpad shows at first.
            config={"resources": {KEY: {"config": {"missing_only": True, "since": "", "until": ""}}}},
        ),
        dg.define_asset_job(
            check_job_name(market),
            selection=dg.AssetSelection.checks_for_assets(*([market.name, name] for name in _asset_names(market))),
            description=f"Run the checks of every asset of {market.name}; fetch and write nothing.",
            tags=ON_FILES,
        ),
    ]


def candle_check_job(market: Market, refreshed: dg.AssetSelection) -> UnresolvedAssetJobDefinition:
    """The checks that a refresh in chunks leaves out."""
    return dg.define_asset_job(
        candle_check_job_name(market),
        selection=refreshed - refreshed.without_checks(),
        description=f"Run the checks of {market.name}'s candles, once all chunks of a tick have finished.",
    )


def _asset_names(market: Market) -> list[str]:
    names = (*REFRESHED, *PUBLISHED, *(spec.asset for spec in further_destinations(market)))
    return [str(name) for name in names]


def _destination_names(market: Market, of_files: bool) -> list[str]:
    """Assets of destinations: candles are sent when they are refreshed, files when they are published."""
    return [spec.asset for spec in further_destinations(market) if isinstance(spec, FileSpec) is of_files]


def _selection(market: Market, names: Sequence[str]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*([market.name, str(name)] for name in names))
