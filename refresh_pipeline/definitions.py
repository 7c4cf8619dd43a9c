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


# What this process has said: Dagster's code server loads the definitions several times at once.
_said: set[str] = set()


def _say_once(sentence: str, reason: str) -> None:
    if reason not in _said and not was_said(reason):
        _said.add(reason)
        log.error(sentence)


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
                _say_once(f"A {kind} is left out: {reason}", str(reason))
    return build(settings, markets, collections)
