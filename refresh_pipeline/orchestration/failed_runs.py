"""Failed runs as Dagster's instance records them: which jobs failed, why, and how many; handed to `monitoring`."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from refresh_pipeline.market.model import Market
from refresh_pipeline.monitoring.notification_policy import MACHINE, Problem, shortened
from refresh_pipeline.monitoring.problems import RunHistory
from refresh_pipeline.pipeline.job_names import (
    BACKUP,
    MAINTENANCE,
    backfill_job_name,
    publish_job_name,
    refresh_job_name,
)

# Dagster's name for runs that somebody starts in the web UI by materializing assets.
MATERIALIZED_BY_HAND = "__ASSET_JOB"
NO_REASON = "no reason recorded"
INTERRUPTS = (dg.DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__)


def run_history(instance: dg.DagsterInstance, markets: Sequence[Market]) -> RunHistory:
    """The runs of these markets, as far as alerts and reports need them."""

    def count_failed(since: datetime) -> int:
        return instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.FAILURE], created_after=since))

    return RunHistory(list(failed_runs(instance, markets)), count_failed)


def failed_runs(instance: dg.DagsterInstance, markets: Sequence[Market]) -> Iterator[Problem]:
    """One problem for each job whose newest finished run failed."""
    jobs = {
        name(market): market.name
        for market in markets
        for name in (refresh_job_name, publish_job_name, backfill_job_name)
    }
    for job, scope in {**jobs, BACKUP: MACHINE, MAINTENANCE: MACHINE, MATERIALIZED_BY_HAND: MACHINE}.items():
        filters = RunsFilter(job_name=job, statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE])
        for record in instance.get_run_records(filters, limit=1):
            if record.dagster_run.status is DagsterRunStatus.FAILURE:
                run_id = record.dagster_run.run_id
                ended = datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)
                text = f"{ended:%Y-%m-%d %H:%M} UTC, run {run_id}: {shortened(_recorded_reason(instance, run_id))}"
                yield Problem(scope=scope, kind="failed run", item=job, text=text)


def _recorded_reason(instance: dg.DagsterInstance, run_id: str) -> str:
    # A step says more than the run, which only names the steps that failed.
    for kind in (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE):
        for record in instance.get_records_for_run(run_id, of_type=kind, limit=1).records:
            if (event := record.event_log_entry.dagster_event) is not None:
                return f"{event.step_key}: {failure_reason(event)}" if event.step_key else failure_reason(event)
    return NO_REASON


def is_interrupt(error: Any) -> bool:
    """Whether an error of a step is an interrupt, or DuckDB's answer to one that arrived within a query."""
    while error is not None:
        if error.cls_name in INTERRUPTS or "Query interrupted" in error.message:
            return True
        error = error.cause
    return False


def failure_reason(event: dg.DagsterEvent) -> str:
    """Why a step or a run failed: the text of our `dagster.Failure`, else the exception below Dagster's wrapping."""
    if event.is_step_failure:
        user_failure = event.step_failure_data.user_failure_data
        if user_failure is not None and user_failure.description:
            return user_failure.description
    error = getattr(event.event_specific_data, "error", None)
    # The wrapper says "Error occurred while executing op"; the exception of our code is its cause.
    while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    if error is None:
        return event.message or NO_REASON
    return re.sub(r"^[\w.]+\.(?=\w+: )", "", error.message.strip())
