"""What `refresh worker` runs: an application of Celery.

The broker is the launcher's in dagster.yaml, so that there is one place for it. The worker imports a run's modules
once, and forks a process for each run: a run starts in a second, and its memory is given back at its end.
"""

from contextlib import suppress
from typing import Any

from celery import bootsteps
from dagster import DagsterInstance
from dagster_celery.tasks import create_execute_job_task

from refresh_pipeline.instance import worker_heartbeat
from refresh_pipeline.instance.celery_launcher import ClusterRunLauncher
from refresh_pipeline.instance.fork_server import import_modules_of_runs
from refresh_pipeline.settings import DEFINITIONS, keep_files_private

keep_files_private()
with DagsterInstance.get() as instance:
    launcher = instance.run_launcher
if not isinstance(launcher, ClusterRunLauncher):
    raise TypeError(
        f"wanted run_launcher ClusterRunLauncher in dagster.yaml, found {type(launcher).__name__}: "
        "copy dagster-cluster.yaml to DAGSTER_HOME as dagster.yaml"
    )
app = launcher.celery
app.conf.update(
    # One process for each run; see above.
    worker_max_tasks_per_child=1,
    # A run that no process has begun goes to another worker.
    worker_prefetch_multiplier=1,
    # A worker waits for its broker at the start, and after an outage.
    broker_connection_retry_on_startup=True,
    # Dagster's logs are told apart by run; Celery would put a prefix of its own before each line.
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
)


class Heartbeat(bootsteps.StartStopStep):
    """Says every 10 s that the worker lives, from its own loop: one that hangs falls silent."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    timer: Any = None

    def start(self, parent: Any) -> None:
        """Begin, also after the broker was away."""
        self._speak(worker_heartbeat.say, parent)
        self.timer = parent.timer.call_repeatedly(worker_heartbeat.BEAT, self._speak, (worker_heartbeat.say, parent))

    def stop(self, parent: Any) -> None:
        """Take no more runs."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
            self._speak(worker_heartbeat.unsay, parent)

    def _speak(self, word: Any, consumer: Any) -> None:
        with suppress(worker_heartbeat.BrokerAway):
            word(app.conf.broker_url, consumer.hostname, app.amqp.queues.consume_from)


app.steps["consumer"].add(Heartbeat)  # pyright: ignore[reportOptionalSubscript] (None only before it is made)
execute_job = create_execute_job_task(app)
import_modules_of_runs(DEFINITIONS)
