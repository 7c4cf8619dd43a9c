"""Runs that the daemon asks for start at once where its queue would let them: by the real launcher, of real markets."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dagster import DagsterEventType, DagsterRunStatus

from refresh_pipeline.instance import launcher
from refresh_pipeline.instance.prompt_coordinator import QUEUE_THREAD
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.launcher_fixture import (
    QUICK,
    SILENT,
    WARM,
    LaunchedProject,
    launch_project,
    wait_until,
)

pytestmark = pytest.mark.skipif(not launcher.CAN_FORK, reason="runs are forked on Linux alone")
PROMPT = {
    "module": "refresh_pipeline.instance.prompt_coordinator",
    "class": "PromptRunCoordinator",
    "config": {"max_concurrent_runs": 1},
}


@contextmanager
def as_daemon() -> Iterator[None]:
    """Within the block this process has the thread by which the daemon is known."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name=QUEUE_THREAD)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedProject]:
    folder = tmp_path_factory.mktemp("coordinator")
    with inside(folder), socket.create_server(("127.0.0.1", 0)) as silence:
        (folder / "home").mkdir()
        markets = {"quick": QUICK, "silent": SILENT % silence.getsockname()[1]}
        with launch_project(folder, markets, WARM, run_coordinator=PROMPT) as made:
            yield made


def was_queued(project: LaunchedProject, run_id: str) -> bool:
    return bool(project.instance.get_records_for_run(run_id, of_type=DagsterEventType.RUN_ENQUEUED).records)


def test_a_run_that_the_daemon_asks_for_starts_at_once(project: LaunchedProject) -> None:
    with as_daemon():
        run_id = project.submit("quick_refresh")
    assert not was_queued(project, run_id)
    assert project.finished(run_id) is DagsterRunStatus.SUCCESS


def test_a_run_that_another_process_asks_for_waits_in_the_queue(project: LaunchedProject) -> None:
    run_id = project.submit("quick_refresh")
    assert project.run(run_id).status is DagsterRunStatus.QUEUED
    with as_daemon():
        # It was there first.
        later = project.submit("quick_refresh")
    assert project.run(later).status is DagsterRunStatus.QUEUED
    for each in (run_id, later):
        project.instance.report_run_canceled(project.run(each))


def test_a_run_waits_while_as_many_are_at_work_as_may_be(project: LaunchedProject) -> None:
    with as_daemon():
        going = project.submit("silent_refresh")
        wait_until(lambda: project.run(going).status is DagsterRunStatus.STARTED)
        waiting = project.submit("quick_refresh")
        assert project.run(waiting).status is DagsterRunStatus.QUEUED
        project.instance.report_run_canceled(project.run(waiting))
        assert project.instance.run_launcher.terminate(going)
        assert project.finished(going) is DagsterRunStatus.CANCELED


def test_a_limit_of_a_pool_is_the_queues_to_keep(project: LaunchedProject) -> None:
    project.instance.event_log_storage.set_concurrency_slots("some_pool", 1)
    try:
        with as_daemon():
            run_id = project.submit("quick_refresh")
        assert project.run(run_id).status is DagsterRunStatus.QUEUED
    finally:
        project.instance.event_log_storage.delete_concurrency_limit("some_pool")
    project.instance.report_run_canceled(project.run(run_id))
