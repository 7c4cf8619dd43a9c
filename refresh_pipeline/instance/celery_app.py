"""What `refresh worker` runs: an application of Celery.

The broker is the launcher's in dagster.yaml, so that there is one place for it. The worker imports a run's modules
once, and forks a process for each run: a run starts in a second, and its memory is given back at its end.
"""

from dagster import DagsterInstance
from dagster_celery.tasks import create_execute_job_task

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
execute_job = create_execute_job_task(app)
import_modules_of_runs(DEFINITIONS)
