"""Dagster's queue of runs, without the wait of a tick that finds nothing before it. Named in dagster.yaml.

The daemon looks at its queue each second. A run that the daemon itself asks for, as schedules and sensors do, starts at
once where the queue would let it start. All others wait in the queue as before.
"""

import threading

from dagster import DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator

# The thread of the process that starts queued runs. Where Dagster gives it another name, all runs wait in the queue.
QUEUE_THREAD = "dagster-daemon-QUEUED_RUN_COORDINATOR"
# What counts against `max_concurrent_runs`.
AT_WORK = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]

# Held while a thread of this process starts a run; meanwhile the others put theirs into the queue.
starting = threading.Lock()


class PromptRunCoordinator(QueuedRunCoordinator):
    """The shipped queue, past which the daemon starts its own runs while nothing waits in it and there is room."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Start the run, or put it into the queue."""
        run = context.dagster_run
        if run.status is DagsterRunStatus.NOT_STARTED and _starts_runs() and starting.acquire(blocking=False):
            try:
                if self._is_free():
                    return self._instance.launch_run(run.run_id, context.workspace)
            finally:
                starting.release()
        return super().submit_run(context)

    def _is_free(self) -> bool:
        """Whether nothing waits, fewer runs than allowed are at work, and no other limit is set."""
        queue = self._instance.get_concurrency_config().run_queue_config
        if queue is None or queue.tag_concurrency_limits or self._instance.event_log_storage.get_concurrency_keys():
            return False
        statuses = [DagsterRunStatus.QUEUED, *AT_WORK]
        runs = self._instance.get_runs(RunsFilter(statuses=statuses))
        is_waiting = any(run.status is DagsterRunStatus.QUEUED for run in runs)
        return not is_waiting and (queue.max_concurrent_runs == -1 or len(runs) < queue.max_concurrent_runs)


def _starts_runs() -> bool:
    """Whether this process is the daemon: runs that others start would have a fork server of their own."""
    return any(thread.name == QUEUE_THREAD for thread in threading.enumerate())
