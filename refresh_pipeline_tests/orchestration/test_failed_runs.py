"""An alert of a failed run names its cause, however Dagster wraps it."""

from collections.abc import Callable

import dagster as dg
import pytest

from refresh_pipeline.orchestration.failed_runs import failed_runs, run_history
from refresh_pipeline.pipeline.job_names import BACKUP
from refresh_pipeline_tests.project_folder import NOW


def unforeseen() -> None:
    raise ValueError("the disk is on fire") from OSError("smoke")


def refused() -> None:
    raise dg.Failure("no credentials: set DHAN_TOKEN")


def failed_job(work: Callable[[], None]) -> dg.JobDefinition:
    @dg.op
    def broken() -> None:
        work()

    @dg.job(name=BACKUP)
    def job() -> None:
        broken()

    return job


@pytest.mark.parametrize(
    ("work", "reason"),
    [(unforeseen, "ValueError: the disk is on fire"), (refused, "no credentials: set DHAN_TOKEN")],
)
def test_the_alert_of_a_failed_run_names_its_cause(work: Callable[[], None], reason: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = failed_job(work).execute_in_process(instance=instance, raise_on_error=False)
        [problem] = failed_runs(instance, [])
    assert problem.subject == "machine: failed run: backup"
    assert problem.text.endswith(f"UTC, run {run.run_id}: broken: {reason}")


def test_a_resource_that_cannot_be_opened_is_named_as_the_cause() -> None:
    def locked(_: dg.InitResourceContext) -> None:
        raise RuntimeError("the warehouse is locked")

    @dg.op(required_resource_keys={"warehouse"})
    def reads() -> None:
        """Is never reached."""

    @dg.job(name=BACKUP, resource_defs={"warehouse": dg.ResourceDefinition(locked)})
    def job() -> None:
        reads()

    with dg.DagsterInstance.ephemeral() as instance:
        job.execute_in_process(instance=instance, raise_on_error=False)
        [problem] = failed_runs(instance, [])
    assert problem.text.endswith("RuntimeError: the warehouse is locked")


def test_failed_runs_are_counted() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            failed_job(unforeseen).execute_in_process(instance=instance, raise_on_error=False)
        assert run_history(instance, []).count_failed(NOW) == 2
