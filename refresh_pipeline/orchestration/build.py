"""Every definition of these markets, in one place."""

import warnings
from collections.abc import Sequence

import dagster as dg

from refresh_pipeline.instance.plain_log import use_plain_log
from refresh_pipeline.market.apis import Collection
from refresh_pipeline.market.model import Market
from refresh_pipeline.orchestration.alert_sensor import alerts_sensor
from refresh_pipeline.orchestration.api_assets import SnapshotDefinitions, snapshot_definitions
from refresh_pipeline.orchestration.assets import market_assets
from refresh_pipeline.orchestration.backup_job import backup_job, backup_schedule
from refresh_pipeline.orchestration.checks import market_checks
from refresh_pipeline.orchestration.console_log import use_console_log
from refresh_pipeline.orchestration.destination_assets import destination_assets, destination_checks
from refresh_pipeline.orchestration.jobs import market_jobs
from refresh_pipeline.orchestration.live_job import live_job, live_sensor
from refresh_pipeline.orchestration.maintenance_job import (
    lake_maintenance_schedule,
    maintenance_job,
    maintenance_schedule,
)
from refresh_pipeline.orchestration.resources import resources
from refresh_pipeline.orchestration.schedules import market_schedules
from refresh_pipeline.orchestration.sensors import checks_sensor, repair_sensor, retry_sensor
from refresh_pipeline.pipeline.market_validation import require_usable
from refresh_pipeline.redaction import redact_log
from refresh_pipeline.settings import Settings


def build(settings: Settings, markets: Sequence[Market], collections: Sequence[Collection] = ()) -> dg.Definitions:
    """Everything Dagster knows of these markets and collections of APIs.

    Raises:
        MarketError: a market's source does not know what its YAML says of it, there is no such indicator, or this
            installation lacks what its exports need.
    """
    redact_log()
    use_plain_log()
    if settings.run_log:
        use_console_log(settings.run_log)
    for market in markets:
        require_usable(settings, market)
    with warnings.catch_warnings():
        # BackfillPolicy is beta; that is a choice, not news at every start.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return _collected(settings, markets, [snapshot_definitions(settings, each) for each in collections])


def _collected(
    settings: Settings, enabled: Sequence[Market], snapshots: Sequence[SnapshotDefinitions]
) -> dg.Definitions:
    # Of several code locations over one Dagster, one alone has maintenance, backup and alerts, or all would run them.
    markets, is_operator = enabled, settings.role != "markets"
    upkeep = lake_maintenance_schedule if settings.is_lake else maintenance_schedule
    if settings.role == "operations":
        markets, snapshots = [], []
    return dg.Definitions(
        assets=[
            *(asset for market in markets for asset in [*market_assets(market), *destination_assets(market)]),
            *(each.asset for each in snapshots),
        ],
        asset_checks=[
            *(check for market in markets for check in [*market_checks(market), *destination_checks(market)]),
            *(check for each in snapshots for check in each.checks),
        ],
        jobs=[
            *(job for market in markets for job in market_jobs(market)),
            *(live_job(market) for market in markets if market.live),
            *(each.job for each in snapshots),
            *([backup_job, maintenance_job] if is_operator else []),
        ],
        schedules=[
            *(schedule for market in markets for schedule in market_schedules(market)),
            *(each.schedule for each in snapshots),
            *([backup_schedule, upkeep] if is_operator else []),
        ],
        sensors=[
            *(sensor for market in markets for sensor in (retry_sensor(market), repair_sensor(market))),
            *(live_sensor(market) for market in markets if market.live),
            *(checks_sensor(market) for market in markets if market.chunks),
            *([alerts_sensor(enabled)] if is_operator else []),
        ],
        resources=resources(settings),
        # One process a run: a wide run is a handful of steps, and starting a process costs more than any of them.
        executor=dg.in_process_executor,
    )
