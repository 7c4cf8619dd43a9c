"""Runs forked from a warm process: by the real launcher, from a real workspace, of the project's own definitions."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from dagster import DagsterRun, DagsterRunStatus
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import create_run_for_test

from refresh_pipeline.instance import launcher
from refresh_pipeline.instance.end_runs import end_runs
from refresh_pipeline.instance.launcher import WarmRunLauncher, can_be_forked, code_on_disk
from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, process_here, process_named
from refresh_pipeline_tests.benchmarks.starting import launched
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.launcher_fixture import (
    PATIENCE,
    QUICK,
    SILENT,
    WARM,
    LaunchedProject,
    launch_project,
    wait_until,
)

pytestmark = pytest.mark.skipif(not launcher.CAN_FORK, reason="runs are forked on Linux alone")


def warm(project: LaunchedProject) -> WarmRunLauncher:
    assert isinstance(project.instance.run_launcher, WarmRunLauncher)
    return project.instance.run_launcher


def fork_server_of(project: LaunchedProject) -> int:
    """The id of the process that runs are forked from."""
    server = warm(project)._fork_server
    assert server is not None
    return server.pid


def process_of(run: DagsterRun) -> int:
    return int(run.tags[PROCESS_TAG].split(":")[1])


def started(project: LaunchedProject, run_id: str) -> int:
    """Wait for a run's start; returns the id of its process."""
    wait_until(lambda: project.run(run_id).status is DagsterRunStatus.STARTED)
    return process_of(project.run(run_id))


def forget_earlier_calls(silence: socket.socket) -> None:
    silence.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            silence.accept()[0].close()
    silence.settimeout(PATIENCE)


@pytest.fixture(scope="module")
def silence() -> Iterator[socket.socket]:
    """A venue that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, silence: socket.socket) -> Iterator[LaunchedProject]:
    folder = tmp_path_factory.mktemp("launcher")
    with inside(folder):
        (folder / "home").mkdir()
        markets = {"quick": QUICK, "silent": SILENT % silence.getsockname()[1]}
        with launch_project(folder, markets, WARM) as made:
            yield made


@pytest.fixture(scope="module")
def first(project: LaunchedProject) -> str:
    """The id of a run that is done."""
    run_id = project.launch("quick_refresh")
    assert project.finished(run_id) is DagsterRunStatus.SUCCESS
    return run_id


def test_a_run_is_worked_on_by_a_fork_and_known_by_its_process(project: LaunchedProject, first: str):
    told = [record.event_log_entry.message for record in project.instance.get_records_for_run(first).records]
    assert any(f"Started process for run (pid: {process_of(project.run(first))})" in message for message in told)
    before = fork_server_of(project)
    # What stands before a first step is measured by the benchmark.
    began = time.monotonic()
    assert 0 < launched(project) < time.monotonic() - began
    [again] = project.instance.get_runs(limit=1)
    assert again.run_id != first
    assert fork_server_of(project) == before
    assert process_of(again) not in (before, process_of(project.run(first)))


def test_a_fork_server_that_was_killed_is_replaced(project: LaunchedProject, first: str):
    os.kill(before := fork_server_of(project), signal.SIGKILL)
    assert project.finished(project.launch("quick_refresh")) is DagsterRunStatus.SUCCESS
    assert fork_server_of(project) != before


def test_changed_code_is_imported_anew(
    project: LaunchedProject, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = fork_server_of(project)
    (tmp_path / "module.py").write_text("")
    monkeypatch.setattr(launcher, "PACKAGE", tmp_path)
    changed = code_on_disk()
    assert changed.keys() == {str(tmp_path / "module.py")}
    monkeypatch.undo()
    monkeypatch.setattr(warm(project), "_code", changed)
    assert project.finished(project.launch("quick_refresh")) is DagsterRunStatus.SUCCESS
    assert fork_server_of(project) != before


def test_a_run_that_waits_for_its_venue_can_be_terminated(project: LaunchedProject, first: str):
    run_id = project.launch("silent_refresh")
    started(project, run_id)
    assert warm(project).check_run_worker_health(project.run(run_id)).status is WorkerStatus.RUNNING
    assert warm(project).terminate(run_id)
    assert project.finished(run_id) is DagsterRunStatus.CANCELED


def test_a_process_of_another_machine_is_not_killed_by_its_number(project: LaunchedProject, first: str):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        _, pid, began = process_named(bystander.pid).split(":")
        for tag in (f"elsewhere:{pid}:{began}", f"{socket.gethostname()}:{pid}:1"):
            run = create_run_for_test(project.instance, status=DagsterRunStatus.STARTED, tags={PROCESS_TAG: tag})
            assert not warm(project).terminate(run.run_id)
        assert bystander.poll() is None
        bystander.communicate(b"\n")
        assert bystander.returncode == 0


def test_of_a_run_whose_process_was_killed_the_monitor_hears(project: LaunchedProject, first: str):
    run_id = project.launch("silent_refresh")
    os.kill(started(project, run_id), signal.SIGKILL)
    wait_until(lambda: warm(project).check_run_worker_health(project.run(run_id)).status is WorkerStatus.FAILED)
    project.instance.report_run_failed(project.run(run_id))


@pytest.mark.parametrize("limit", [60.0, 0.0])
def test_a_run_left_behind_is_canceled_and_its_process_ends_or_is_killed(
    project: LaunchedProject, first: str, silence: socket.socket, capfd: pytest.CaptureFixture[str], limit: float
):
    forget_earlier_calls(silence)
    run_id = project.launch("silent_refresh")
    # From its call on the run waits. One that is stopped while it writes an event would lock its database.
    with silence.accept()[0]:
        pid = started(project, run_id)
        if not limit:
            # As one that is inside a library: it hears nothing.
            os.kill(pid, signal.SIGSTOP)
        end_runs(project.instance, {os.getsid(0) + 1}, limit)
        assert project.run(run_id).status is DagsterRunStatus.STARTED
        end_runs(project.instance, {os.getsid(0)}, limit)
        assert project.run(run_id).status is DagsterRunStatus.CANCELED
        wait_until(lambda: process_here(project.run(run_id)) is None)
    name = f"{run_id[:8]} (process {pid}).\n"
    killing = "" if limit else f"Killing runs that did not end within 0 s: {name}"
    assert f"Canceling runs that are at work: {name}{killing}" in capfd.readouterr().err


def test_a_run_outlives_the_process_it_was_forked_from(project: LaunchedProject, first: str):
    run_id = project.launch("silent_refresh")
    started(project, run_id)
    warm(project).dispose()
    assert warm(project).check_run_worker_health(project.run(run_id)).status is WorkerStatus.RUNNING
    assert warm(project).terminate(run_id)
    assert project.finished(run_id) is DagsterRunStatus.CANCELED


def test_a_fork_server_that_hangs_in_an_import_delays_one_launch_and_then_none(
    project: LaunchedProject, first: str, monkeypatch: pytest.MonkeyPatch
):
    warm(project).dispose()
    with monkeypatch.context() as hanging:
        hanging.setattr(launcher, "ANSWER_LIMIT", 0.0)
        run_id = project.launch("quick_refresh")
    # Started by Dagster, in a new process; the next launch asks no fork server.
    assert GRPC_INFO_TAG in project.run(run_id).tags
    assert warm(project)._fork_server is None
    again = project.launch("quick_refresh")
    assert GRPC_INFO_TAG in project.run(again).tags
    assert {project.finished(run_id), project.finished(again)} == {DagsterRunStatus.SUCCESS}
    monkeypatch.setattr(warm(project), "_paused_until", 0.0)
    forked = project.launch("quick_refresh")
    assert GRPC_INFO_TAG not in project.run(forked).tags
    # A run that outlives the test would write to a folder that is gone.
    assert project.finished(forked) is DagsterRunStatus.SUCCESS


def test_the_fork_server_has_no_thread_besides_its_main_one(project: LaunchedProject, first: str):
    status = Path(f"/proc/{fork_server_of(project)}/status").read_text()
    assert "\nThreads:\t1\n" in status


def test_code_of_others_is_not_forked(project: LaunchedProject, first: str, monkeypatch: pytest.MonkeyPatch):
    run = project.run(first)
    assert can_be_forked(run)
    monkeypatch.setattr(launcher, "DEFINITIONS", "somebody.elses")
    assert not can_be_forked(run)
