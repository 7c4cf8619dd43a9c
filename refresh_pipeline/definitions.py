"""The table of contents that Dagster loads: every enabled market's assets, checks, jobs, schedules and sensors."""

import dagster as dg

from refresh_pipeline.market_files import load_markets
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.settings import keep_files_private, load_settings, set_dagster_variables


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster finds in this module: the markets that the environment enables."""
    keep_files_private()
    set_dagster_variables()
    settings = load_settings()
    return build(settings, load_markets(settings))
