"""Runs whose process is gone: noticed, and only those."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from refresh_pipeline.instance import orphaned_runs
from refresh_pipeline.instance.orphaned_runs import (
    PROCESS_TAG,
    UNCLAIMED_AT_MOST,
    _is_going_still,
    claim,
    going_runs,
    process_here,
    this_process,
    why_gone,
)

ROOT = Path(__file__).resolve().parents[2]
JOB = "at_work"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def run_of(instance: dg.DagsterInstance, process: str | None) -> str:
    """A run that is at work in a process, or has not said in which."""
    tags = {} if process is None else {PROCESS_TAG: process}
    return create_run_for_test(instance, job_name=JOB, status=DagsterRunStatus.STARTED, tags=tags).run_id


def going(instance: dg.DagsterInstance) -> list[str]:
    return [run.run_id for run in going_runs(instance, JOB)]


def status(instance: dg.DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


@contextmanager
def at_work(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that works on a run, and the run's id."""
    command = [sys.executable, "-m", "refresh_pipeline_tests.instance.test_orphaned_runs", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def work(folder: str) -> None:
    """Run a job that claims its run, says so, and never ends by itself."""

    @dg.asset
    def endless(context: dg.AssetExecutionContext) -> None:
        claim(context)
        print(context.run.run_id, flush=True)
        sys.stdin.read()

    job = dg.Definitions(assets=[endless], jobs=[dg.define_asset_job(JOB, selection=[endless])])
    with dg.DagsterInstance.local_temp(folder) as instance:
        job.resolve_job_def(JOB).execute_in_process(instance=instance, run_config=QUIET)


def test_a_run_whose_process_was_killed_is_marked_as_failed_and_a_living_one_is_left(
    tmp_path: Path, instance: dg.DagsterInstance
):
    with at_work(tmp_path) as (process, run_id):
        assert going(instance) == [run_id]
        assert status(instance, run_id) is DagsterRunStatus.STARTED
        process.kill()
        # Not even asked for its exit code yet: what Unix calls a zombie.
        wait_until_dead(process.pid)
        assert going(instance) == []
        assert status(instance, run_id) is DagsterRunStatus.FAILURE
        [*_, failure] = [record.event_log_entry for record in instance.get_records_for_run(run_id).records]
        assert f":{process.pid}:" in failure.message or f":{process.pid}:" in failure.user_message


def test_a_run_that_has_just_ended_is_not_one_whose_process_is_gone(instance: dg.DagsterInstance):
    run_id = run_of(instance, f"{socket.gethostname()}:999999999:1")
    [record] = instance.get_run_records(dg.RunsFilter(run_ids=[run_id]))
    assert _is_going_still(instance, run_id)
    instance.report_run_canceled(record.dagster_run)
    # As it stood a moment ago its process looks gone; as it stands there is nothing to mark.
    assert why_gone(instance, record.dagster_run)
    assert not _is_going_still(instance, run_id)
    assert going(instance) == []
    assert status(instance, run_id) is DagsterRunStatus.CANCELED


def wait_until_dead(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_run_of_this_process_is_left(instance: dg.DagsterInstance):
    run_id = run_of(instance, this_process())
    assert going(instance) == [run_id]


def test_a_run_whose_process_id_somebody_else_has_by_now_is_marked_as_failed(instance: dg.DagsterInstance):
    host, pid, began = this_process().split(":")
    assert began, "this system does not tell when a process began"
    run_id = run_of(instance, f"{host}:{pid}:{int(began) - 1}")
    assert going(instance) == []
    assert status(instance, run_id) is DagsterRunStatus.FAILURE


def test_runs_of_which_nothing_is_known_here_are_left(instance: dg.DagsterInstance):
    unreadable = f"{socket.gethostname()}:unreadable"
    unknown = [None, "", unreadable, ":::"]
    run_ids = [run_of(instance, process) for process in unknown]
    assert sorted(going(instance)) == sorted(run_ids)
    assert {status(instance, run_id) for run_id in run_ids} == {DagsterRunStatus.STARTED}


@pytest.mark.parametrize("machine", ["an-old-name", "6b8f0a2e-0d0c-4c5e-9f5e-000000000000"])
def test_a_run_of_an_old_name_or_of_another_boot_is_ended_when_it_is_looked_at(
    instance: dg.DagsterInstance, machine: str
):
    pid, began = this_process().split(":")[1:]
    run_id = run_of(instance, f"{machine}:{pid}:{began}")
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert process_here(run) is None
    assert "another boot" in why_gone(instance, run)
    assert going(instance) == []
    assert status(instance, run_id) is DagsterRunStatus.FAILURE


def test_a_run_that_was_started_before_boot_ids_were_written_is_known_by_the_name_of_this_machine(
    instance: dg.DagsterInstance,
):
    pid, began = this_process().split(":")[1:]
    run_id = run_of(instance, f"{socket.gethostname()}:{pid}:{began}")
    assert going(instance) == [run_id]


def test_a_change_of_the_machines_name_does_not_change_a_process(monkeypatch: pytest.MonkeyPatch):
    before = this_process()
    monkeypatch.setattr(socket, "gethostname", lambda: "another-name")
    assert this_process() == before


def test_where_the_system_has_no_boot_id_a_stored_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(orphaned_runs, "BOOT_ID", tmp_path / "missing")
    monkeypatch.setattr(orphaned_runs, "STORED_ID", tmp_path / "user" / "instance_id")
    found = {orphaned_runs.boot_id.__wrapped__() for _ in range(2)}
    assert found == {(tmp_path / "user" / "instance_id").read_text()}


def test_a_run_that_began_minutes_ago_and_that_no_process_ever_claimed_is_marked_as_failed(
    instance: dg.DagsterInstance,
):
    run_ids = [create_run_for_test(instance, job_name=JOB, status=DagsterRunStatus.STARTING).run_id for _ in range(2)]
    began = run_started(instance, run_ids[0])
    assert sorted(going(instance)) == sorted(run_ids)
    # As where its process was killed between the run's beginning and its first step; the other one is still starting.
    assert [run.run_id for run in going_runs(instance, JOB, now=began + UNCLAIMED_AT_MOST + 1)] == run_ids[1:]
    assert status(instance, run_ids[0]) is DagsterRunStatus.FAILURE


def test_a_run_that_began_in_the_future_and_that_no_process_ever_claimed_is_marked_as_failed(
    instance: dg.DagsterInstance,
):
    run_id = create_run_for_test(instance, job_name=JOB, status=DagsterRunStatus.STARTING).run_id
    began = run_started(instance, run_id)
    # The clock was three hours ahead and is right again.
    assert going_runs(instance, JOB, now=began - 3 * 3600) == []


def run_started(instance: dg.DagsterInstance, run_id: str) -> float:
    """Let a run begin, as its process tells it, and say when that was."""
    began = dg.DagsterEvent(event_type_value="PIPELINE_START", job_name=JOB)
    instance.report_dagster_event(began, run_id=run_id)
    record = instance.get_run_record_by_id(run_id)
    assert record is not None
    assert record.start_time is not None
    return record.start_time


def test_runs_that_wait_or_have_ended_and_those_of_other_jobs_are_left(instance: dg.DagsterInstance):
    gone = {PROCESS_TAG: f"{socket.gethostname()}:999999999:1"}
    waiting = create_run_for_test(instance, job_name=JOB, status=DagsterRunStatus.NOT_STARTED)
    done = create_run_for_test(instance, job_name=JOB, status=DagsterRunStatus.SUCCESS, tags=gone)
    other = create_run_for_test(instance, job_name="other", status=DagsterRunStatus.STARTED, tags=gone)
    assert going(instance) == [waiting.run_id]
    assert status(instance, done.run_id) is DagsterRunStatus.SUCCESS
    assert status(instance, other.run_id) is DagsterRunStatus.STARTED


def test_a_run_is_claimed_by_the_process_that_works_on_it(instance: dg.DagsterInstance):
    @dg.asset
    def claimed(context: dg.AssetExecutionContext) -> None:
        claim(context)

    definitions = dg.Definitions(assets=[claimed], jobs=[dg.define_asset_job(JOB, selection=[claimed])])
    result = definitions.resolve_job_def(JOB).execute_in_process(instance=instance, run_config=QUIET)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[PROCESS_TAG] == this_process()


if __name__ == "__main__":
    work(sys.argv[1])
