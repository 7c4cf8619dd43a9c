"""The table of contents that Dagster loads: every enabled market's assets, checks, jobs, schedules and sensors."""

import warnings
from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from refresh_pipeline.alerts import alerts_sensor
from refresh_pipeline.assets import market_assets
from refresh_pipeline.backups import backup_job, backup_schedule
from refresh_pipeline.checks import market_checks
from refresh_pipeline.copies import copy_assets, copy_checks, described
from refresh_pipeline.exporting import check_exports
from refresh_pipeline.maintenance import maintenance_job, maintenance_schedule
from refresh_pipeline.market.model import Market
from refresh_pipeline.resources import resources
from refresh_pipeline.schedules import backfill_job_name, market_schedules, publish_job_name, refresh_job_name
from refresh_pipeline.sensors import repair_sensor, retry_sensor
from refresh_pipeline.settings import Settings, load_markets, load_settings, set_dagster_variables
from refresh_pipeline.sources.opening import open_source
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.schema import Table

REFRESHED = (Table.raw_candles, Table.enhanced_candles, Table.indicators)
PUBLISHED = (Table.exports, Table.uploads)


def build(settings: Settings, markets: Sequence[Market]) -> dg.Definitions:
    """Everything Dagster knows of these markets.

    Raises:
        MarketError: a market's source does not know what its YAML says of it, there is no such indicator, or this
            installation lacks what its exports need.
    """
    for market in markets:
        open_source(market, settings.limits_dir)
        computations(market)
        check_exports(market)
    with warnings.catch_warnings():
        # BackfillPolicy is beta; that is a choice, not news at every start.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return _definitions(settings, markets)


def _definitions(settings: Settings, markets: Sequence[Market]) -> dg.Definitions:
    return dg.Definitions(
        assets=[asset for market in markets for asset in [*market_assets(market), *copy_assets(market)]],
        asset_checks=[check for market in markets for check in [*market_checks(market), *copy_checks(market)]],
        jobs=[*(job for market in markets for job in market_jobs(market)), backup_job, maintenance_job],
        schedules=[
            *(schedule for market in markets for schedule in market_schedules(market)),
            backup_schedule,
            maintenance_schedule,
        ],
        sensors=[
            *(sensor for market in markets for sensor in (retry_sensor(market), repair_sensor(market))),
            alerts_sensor(markets),
        ],
        resources=resources(settings),
        # One process a run: a wide run is a handful of steps, and starting a process costs more than any of them.
        executor=dg.in_process_executor,
    )


def market_jobs(market: Market) -> list[UnresolvedAssetJobDefinition]:
    """One job brings the market's candles up to date, one publishes them, one asks for history that is missing."""
    return [
        dg.define_asset_job(
            refresh_job_name(market),
            selection=_selection(market, [*REFRESHED, *_copies(market, of_files=False)]),
            description=f"Fetch {market.name}'s candles and compute what follows from them.",
        ),
        dg.define_asset_job(
            publish_job_name(market),
            selection=_selection(market, [*PUBLISHED, *_copies(market, of_files=True)]),
            description=f"Write {market.name}'s export files and upload them.",
        ),
        dg.define_asset_job(
            backfill_job_name(market),
            selection=_selection(market, REFRESHED),
            description=f"Fetch what {market.name}'s calendar expects and the warehouse lacks, between `since` and "
            "`until` of its config, and compute what follows; refreshes go on beside it.",
            # What the launchpad shows at first.
            config={"resources": {"asked": {"config": {"missing": True, "since": "", "until": ""}}}},
        ),
    ]


def _copies(market: Market, of_files: bool) -> list[str]:
    """Candles are copied as they are refreshed, files as they are published."""
    return [there.asset for there in described(market) if there.takes_files is of_files]


def _selection(market: Market, names: Sequence[str]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*([market.name, str(name)] for name in names))


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster finds in this module: the markets that the environment enables."""
    set_dagster_variables()
    settings = load_settings()
    return build(settings, load_markets(settings))
