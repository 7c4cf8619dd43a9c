"""The table of contents that Dagster loads: assets, checks, jobs, schedules and sensors of what is enabled."""

import logging
import sys
from pathlib import Path

import dagster as dg

from refresh_pipeline.api_files import load_usable
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.pipeline.market_validation import usable_markets
from refresh_pipeline.settings import keep_files_private, load_settings, set_dagster_variables, was_said

log = logging.getLogger("refresh_pipeline")

# Parts of the command lines of programs that run jobs. They load the definitions for every run, and the program that
# asked for the run has said what is left out.
OF_RUNS = {"fork_server.py", "execute_run", "execute_step", "refresh_pipeline.instance.celery_app"}


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster finds in this module: the markets and collections that are enabled; a wrong one is left out."""
    keep_files_private()
    set_dagster_variables()
    settings = load_settings()
    markets, faults = usable_markets(settings)
    collections, wrong = load_usable(settings)
    if OF_RUNS.isdisjoint(Path(argument).name for argument in sys.argv):
        for kind, reasons in (("market", faults), ("collection of APIs", wrong)):
            for reason in reasons.values():
                if not was_said(str(reason)):
                    log.error("A %s is left out: %s", kind, reason)
    return build(settings, markets, collections)
