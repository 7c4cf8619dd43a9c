"""Reasons for which schedules and sensors start no run."""

import dagster as dg

from refresh_pipeline.instance.orphaned_runs import going_runs

# What the function of a schedule or sensor returns.
Answer = dg.RunRequest | dg.SkipReason


def still_running(instance: dg.DagsterInstance, job_name: str) -> dg.SkipReason | None:
    """The reason to skip while a run of the job is queued or in progress, else None."""
    runs = going_runs(instance, job_name)
    return dg.SkipReason(f"the previous run is still going: {runs[0].run_id}") if runs else None
