"""Runs on a real worker over a real Redis, with Dagster's records in a real PostgreSQL."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.launcher import WorkerStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget

from refresh_pipeline.instance import run_lock
from refresh_pipeline.instance.celery_launcher import ClusterRunLauncher
from refresh_pipeline.instance.orphaned_runs import LOCK_TAG, PROCESS_TAG
from refresh_pipeline.instance.worker_heartbeat import living
from refresh_pipeline.settings import shipped
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.launcher_fixture import QUICK, SILENT, LaunchedProject, wait_until
from refresh_pipeline_tests.postgres_server import PostgresServer
from refresh_pipeline_tests.redis_server import redis_server

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def cluster(folder: Path, postgres_url: str, broker_url: str, port: int) -> Iterator[LaunchedProject]:
    """A project whose dagster.yaml is the shipped one for several machines, in the current folder."""
    for name in ("markets", "dagster"):
        (folder / name).mkdir()
    (folder / "markets" / "quick.yaml").write_text(QUICK)
    (folder / "markets" / "silent.yaml").write_text(SILENT % port)
    (folder / "dagster" / "dagster.yaml").write_text(
        shipped("dagster-cluster.yaml").read_text() + "\ncode_servers: {wait_for_local_processes_on_shutdown: true}\n"
    )
    os.environ |= {
        "REFRESH_DATA_DIR": str(folder / "data"),
        "REFRESH_MARKETS_DIR": str(folder / "markets"),
        "REFRESH_MARKETS": "quick,silent",
        "DAGSTER_HOME": str(folder / "dagster"),
        "REFRESH_POSTGRES_URL": postgres_url,
        "REFRESH_REDIS_URL": broker_url,
    }
    target = ModuleTarget("refresh_pipeline.definitions", None, str(folder), "refresh_pipeline")
    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, target, code_server_log_level="critical") as workspace,
    ):
        yield LaunchedProject(instance, workspace, dict(os.environ))


@contextmanager
def worker(environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker in a process group of its own."""
    command = [sys.executable, "-c", "from refresh_pipeline.cli import main; main()", "worker"]
    with subprocess.Popen(
        command, env={**environment, "PYTHONPATH": str(ROOT)}, start_new_session=True, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_run_starts_on_a_worker_and_one_whose_worker_is_killed_is_noticed(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "RESTORED_WITHIN", 0.0)
    (tmp_path / "home").mkdir()
    with ExitStack() as stack:
        # Somebody who takes calls and never answers.
        silence = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        broker = stack.enter_context(redis_server())
        stack.enter_context(inside(tmp_path))
        project = stack.enter_context(cluster(tmp_path, postgres.new_database(), broker, silence.getsockname()[1]))
        process = stack.enter_context(worker({**project.environment}))
        launcher = project.instance.run_launcher
        assert isinstance(launcher, ClusterRunLauncher)

        run_id = project.launch("quick_refresh")
        assert project.finished(run_id) is DagsterRunStatus.SUCCESS
        run = project.run(run_id)
        assert LOCK_TAG in run.tags
        assert living(broker) == {"dagster": 1}
        assert int(run.tags[PROCESS_TAG].split(":")[1]) != process.pid

        # It hangs in a request, and its worker is killed.
        run_id = project.launch("silent_refresh")
        wait_until(lambda: LOCK_TAG in project.run(run_id).tags)
        assert launcher.check_run_worker_health(project.run(run_id)).status is WorkerStatus.RUNNING
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: launcher.check_run_worker_health(project.run(run_id)).status is WorkerStatus.FAILED)
        assert project.instance.get_run_by_id(run_id) is not None
