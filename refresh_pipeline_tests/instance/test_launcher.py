"""Runs forked from a warm process: by the real launcher, from a real workspace, of the project's own definitions."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRun, DagsterRunStatus
from dagster._cli.job import _create_run
from dagster._core.launcher import WorkerStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget

from refresh_pipeline.instance import launcher
from refresh_pipeline.instance.launcher import WarmRunLauncher, can_be_forked, code_on_disk
from refresh_pipeline.instance.orphans import PROCESS_TAG
from refresh_pipeline.partitions import RANGE_END, RANGE_START
from refresh_pipeline.settings import set_dagster_variables
from refresh_pipeline_tests.surroundings import inside

pytestmark = pytest.mark.skipif(not launcher.CAN_FORK, reason="runs are forked on Linux alone")

LAUNCHER = {"module": "refresh_pipeline.instance.launcher", "class": "WarmRunLauncher"}
SERIES = "BTC/USD|H1"
QUICK = """{name: quick, source: {kind: demo}, calendar: crypto, instruments: [BTC/USD], timeframes: [H1],
            history: 2d, indicators: {compute: [mfi]}}"""
SILENT = """{name: silent, source: {kind: binance, base_url: "http://127.0.0.1:%d"}, calendar: crypto,
             instruments: [BTC/USD], timeframes: [H1], history: 2d}"""
PATIENCE = 60.0


@dataclass(frozen=True)
class Desk:
    """An instance with the launcher, and a workspace with the project's code."""

    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext
    environment: Mapping[str, str]

    @property
    def launcher(self) -> WarmRunLauncher:
        assert isinstance(self.instance.run_launcher, WarmRunLauncher)
        return self.instance.run_launcher

    @property
    def starter(self) -> int:
        """The process that runs are forked from."""
        assert self.launcher._starter is not None
        return self.launcher._starter.pid

    def launch(self, job: str) -> str:
        """Create a run and let it be launched; gives its id."""
        # Each test stands in an environment of its own; whoever launches stands in this one.
        os.environ |= self.environment
        context = self.workspace.create_request_context()
        location = context.code_locations[0]
        repository = next(iter(location.get_repositories().values()))
        tags = {RANGE_START: SERIES, RANGE_END: SERIES}
        run = _create_run(self.instance, location, repository, repository.get_full_job(job), {}, tags, None, None)
        return self.instance.launch_run(run.run_id, context).run_id

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def finished(self, run_id: str) -> DagsterRunStatus:
        wait_until(lambda: self.run(run_id).is_finished)
        return self.run(run_id).status


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def process_of(run: DagsterRun) -> int:
    return int(run.tags[PROCESS_TAG].split(":")[1])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("launcher")
    with inside(folder), socket.create_server(("127.0.0.1", 0)) as silence:
        # Somebody who takes calls and never answers.
        markets = {"quick": QUICK, "silent": SILENT % silence.getsockname()[1]}
        for name in ("home", "markets", "dagster"):
            (folder / name).mkdir()
        for name, text in markets.items():
            (folder / "markets" / f"{name}.yaml").write_text(text)
        os.environ |= {
            "REFRESH_DATA_DIR": str(folder / "data"),
            "REFRESH_MARKETS_DIR": str(folder / "markets"),
            "REFRESH_MARKETS": ",".join(markets),
        }
        set_dagster_variables()
        target = ModuleTarget("refresh_pipeline.definitions", None, str(folder), "refresh_pipeline")
        with (
            dg.DagsterInstance.local_temp(str(folder / "dagster"), overrides={"run_launcher": LAUNCHER}) as instance,
            WorkspaceProcessContext(instance, target) as workspace,
        ):
            yield Desk(instance, workspace, dict(os.environ))
            instance.run_launcher.dispose()


@pytest.fixture(scope="module")
def first(desk: Desk) -> str:
    """The id of a run that is done."""
    run_id = desk.launch("quick_refresh")
    assert desk.finished(run_id) is DagsterRunStatus.SUCCESS
    return run_id


def test_a_run_is_worked_on_by_a_fork_and_known_by_its_process(desk: Desk, first: str):
    told = [record.event_log_entry.message for record in desk.instance.get_records_for_run(first).records]
    assert any(f"Started process for run (pid: {process_of(desk.run(first))})" in message for message in told)
    before = desk.starter
    again = desk.launch("quick_refresh")
    assert desk.finished(again) is DagsterRunStatus.SUCCESS
    assert desk.starter == before
    assert process_of(desk.run(again)) not in (before, process_of(desk.run(first)))


def test_a_starter_that_was_killed_is_replaced(desk: Desk, first: str):
    os.kill(before := desk.starter, signal.SIGKILL)
    assert desk.finished(desk.launch("quick_refresh")) is DagsterRunStatus.SUCCESS
    assert desk.starter != before


def test_changed_code_is_imported_anew(desk: Desk, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = desk.starter
    (tmp_path / "module.py").write_text("")
    monkeypatch.setattr(launcher, "PACKAGE", tmp_path)
    changed = code_on_disk()
    assert changed.keys() == {str(tmp_path / "module.py")}
    monkeypatch.undo()
    monkeypatch.setattr(desk.launcher, "_code", changed)
    assert desk.finished(desk.launch("quick_refresh")) is DagsterRunStatus.SUCCESS
    assert desk.starter != before


def test_a_run_that_waits_for_its_venue_can_be_terminated(desk: Desk, first: str):
    run_id = desk.launch("silent_refresh")
    wait_until(lambda: desk.run(run_id).status is DagsterRunStatus.STARTED)
    assert desk.launcher.check_run_worker_health(desk.run(run_id)).status is WorkerStatus.RUNNING
    assert desk.launcher.terminate(run_id)
    assert desk.finished(run_id) is DagsterRunStatus.CANCELED


def test_of_a_run_whose_process_was_killed_the_monitor_hears(desk: Desk, first: str):
    run_id = desk.launch("silent_refresh")
    wait_until(lambda: desk.run(run_id).status is DagsterRunStatus.STARTED)
    os.kill(process_of(desk.run(run_id)), signal.SIGKILL)
    wait_until(lambda: desk.launcher.check_run_worker_health(desk.run(run_id)).status is WorkerStatus.FAILED)
    desk.instance.report_run_failed(desk.run(run_id))


def test_a_run_outlives_the_process_it_was_forked_from(desk: Desk, first: str):
    run_id = desk.launch("silent_refresh")
    wait_until(lambda: desk.run(run_id).status is DagsterRunStatus.STARTED)
    desk.launcher.dispose()
    assert desk.launcher.check_run_worker_health(desk.run(run_id)).status is WorkerStatus.RUNNING
    assert desk.launcher.terminate(run_id)
    assert desk.finished(run_id) is DagsterRunStatus.CANCELED


def test_code_of_others_is_not_forked(desk: Desk, first: str, monkeypatch: pytest.MonkeyPatch):
    run = desk.run(first)
    assert can_be_forked(run)
    monkeypatch.setattr(launcher, "MODULE", "somebody.elses")
    assert not can_be_forked(run)
