"""Runs on several machines, with their records in a real PostgreSQL: what has died is noticed, and only that.

Run as a program, this module is a process of another machine: it works on a run, claims it, and never ends by itself.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from refresh_pipeline.instance import orphaned_runs, run_lock
from refresh_pipeline.instance.launcher import WarmRunLauncher
from refresh_pipeline.instance.orphaned_runs import GOING, LOCK_TAG, claim, going_runs, this_process, why_gone
from refresh_pipeline_tests.postgres_server import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
JOB = "at_work"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
YAML = """
storage:
  custom:
    module: refresh_pipeline.instance.postgres_storage
    class: PostgresStorage
    config: {postgres_url: {env: REFRESH_POSTGRES_URL}}
run_launcher: {module: refresh_pipeline.instance.launcher, class: WarmRunLauncher}
telemetry: {enabled: false}
"""
LOCKS = "select count(*) from pg_locks where locktype = 'advisory' and granted"
SESSIONS = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "dagster.yaml").write_text(YAML)
    return folder


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def instance(home: Path, url: str) -> Iterator[dg.DagsterInstance]:
    os.environ |= {"DAGSTER_HOME": str(home), "REFRESH_POSTGRES_URL": url}
    with dg.DagsterInstance.get() as made:
        yield made


@contextmanager
def at_work_on_another_machine(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A process that works on a run on a machine of another boot id, and the run's id."""
    (folder / "boot_id").write_text("9c2b1d3e-0000-4c5e-9f5e-1f1f1f1f1f1f\n")
    command = [sys.executable, "-m", "refresh_pipeline_tests.instance.test_run_lock", str(folder / "boot_id")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def work(boot_id: str) -> None:
    """Run a job that claims its run, says so, and never ends by itself."""
    orphaned_runs.BOOT_ID = Path(boot_id)
    run_lock.BEAT = 0.2

    @dg.asset
    def endless(context: dg.AssetExecutionContext) -> None:
        claim(context)
        print(context.run.run_id, flush=True)
        sys.stdin.read()

    job = dg.Definitions(assets=[endless], jobs=[dg.define_asset_job(JOB, selection=[endless])])
    with dg.DagsterInstance.get() as instance:
        job.resolve_job_def(JOB).execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def run_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


@pytest.fixture(autouse=True)
def old_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' server has just started; one of every day has not."""
    monkeypatch.setattr(run_lock, "RESTORED_WITHIN", 0.0)
    monkeypatch.setattr(run_lock, "BEAT", 0.1)


def test_a_run_of_a_machine_that_dies_is_ended_from_any_other_one(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    with at_work_on_another_machine(tmp_path) as (process, run_id):
        run = run_of(instance, run_id)
        assert run.tags[orphaned_runs.PROCESS_TAG].split(":")[0] != this_process().split(":")[0]
        assert LOCK_TAG in run.tags
        assert [each.run_id for each in going_runs(instance, JOB)] == [run_id]
        process.kill()
        process.wait()
        assert within(10, lambda: going_runs(instance, JOB) == [])
        assert run_of(instance, run_id).status is DagsterRunStatus.FAILURE
        assert "Its lock in PostgreSQL is free" in why_gone(instance, run)
        # Dagster's run monitor asks the launcher.
        assert isinstance(instance.run_launcher, WarmRunLauncher)
        assert "lock" in str(instance.run_launcher.check_run_worker_health(run).msg)


def test_a_process_that_was_taken_for_dead_ends_when_it_learns_of_it(
    instance: dg.DagsterInstance, tmp_path: Path, postgres: PostgresServer, url: str
) -> None:
    with at_work_on_another_machine(tmp_path) as (process, run_id):
        # Its session ends while its run is going: it takes the lock again, and goes on.
        postgres.query(SESSIONS, url)
        assert within(20, lambda: postgres.query(LOCKS, url) == "1")
        assert process.poll() is None
        instance.report_run_failed(run_of(instance, run_id), "its network was cut")
        postgres.query(SESSIONS, url)
        assert process.wait(30) is not None


def test_a_lock_outlives_the_servers_restart_and_ends_with_its_run(
    instance: dg.DagsterInstance, postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
    assert run_lock.hold(instance, first)
    assert run_lock.is_held(instance, first)
    assert not run_lock.is_held(instance, second)
    # This process works on another run: the lock of the first one is free.
    assert run_lock.hold(instance, second)
    assert within(20, lambda: not run_lock.is_held(instance, first))
    postgres.stop()
    postgres.start()
    monkeypatch.setattr(run_lock, "RESTORED_WITHIN", 60.0)
    # Nobody is taken for dead just after the server's start.
    assert run_lock.is_held(instance, first)
    monkeypatch.setattr(run_lock, "RESTORED_WITHIN", 0.0)
    assert within(20, lambda: run_lock.is_held(instance, second))
    assert run_lock._holder is not None
    run_lock._holder.release()
    assert within(20, lambda: postgres.query(LOCKS, url) == "0")


def test_a_run_without_a_lock_is_not_judged_from_another_machine(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(
        job_def=dg.Definitions(assets=[dg.AssetSpec("x")]).resolve_implicit_global_asset_job_def(),
        status=DagsterRunStatus.STARTED,
        tags={orphaned_runs.PROCESS_TAG: "another-boot:1:1"},
    )
    assert why_gone(instance, run) == ""
    assert run.status in GOING


if __name__ == "__main__":
    work(sys.argv[1])
