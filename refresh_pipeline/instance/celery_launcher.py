"""Dagster's launcher over Celery, as dagster-cluster.yaml names it: runs start on the workers of a queue.

`celery_app` is what a worker runs. The shipped launcher asks Celery for a run's health, whose answer for a worker that
was killed stays "started" for ever. Here the run's lock in PostgreSQL says whether its process lives.
"""

import warnings

from celery.exceptions import CeleryWarning
from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG, DAGSTER_CELERY_TASK_ID_TAG

from refresh_pipeline.instance.orphaned_runs import LOCK_TAG, why_gone
from refresh_pipeline.instance.queues import QUEUE_TAG


class ClusterRunLauncher(CeleryRunLauncher):
    """The shipped launcher, which also notices that a worker or its machine has died."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Put the run into its queue."""
        with warnings.catch_warnings():
            # The shipped class registers its task anew for each run.
            warnings.simplefilter("ignore", CeleryWarning)
            super().launch_run(queued(context))

    def terminate(self, run_id: str) -> bool:
        """Ask the run's process to end, wherever it is; False for a run that no worker was asked for."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return False
        self._instance.report_run_canceling(run)
        return super().terminate(run_id)

    @property
    def supports_resume_run(self) -> bool:
        """A run that was lost is not resumed: the next tick begins where the stored candles end."""
        return False

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a started run lives; what Celery says where the run has not taken its lock yet."""
        if LOCK_TAG in run.tags:
            gone = why_gone(self._instance, run)
            return CheckRunHealthResult(WorkerStatus.FAILED if gone else WorkerStatus.RUNNING, gone)
        if DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.UNKNOWN, "no worker was asked for it")
        return super().check_run_worker_health(run)


def queued(context: LaunchRunContext) -> LaunchRunContext:
    """The same launch, with the job's queue in the tag that the shipped launcher reads."""
    run = context.dagster_run
    queue = run.tags.get(QUEUE_TAG)
    return (
        context._replace(dagster_run=run.with_tags({**run.tags, DAGSTER_CELERY_QUEUE_TAG: queue})) if queue else context
    )
