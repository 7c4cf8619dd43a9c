"""Runs of this project's definitions, launched by a real launcher from a real workspace, in a temporary folder."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster import DagsterRun, DagsterRunStatus
from dagster._cli.job import _create_run
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import ModuleTarget

from refresh_pipeline.market.partition_ranges import RANGE_END, RANGE_START
from refresh_pipeline.settings import set_dagster_variables

WARM = {"module": "refresh_pipeline.instance.launcher", "class": "WarmRunLauncher"}
AS_SHIPPED = {"module": "dagster._core.launcher", "class": "DefaultRunLauncher"}
# Two series: a run of one alone draws its chart, which takes longer than all else it does.
FIRST, LAST = "BTC/USD|H1", "BTC/USD|H4"
QUICK = """{name: quick, source: {kind: demo}, calendar: crypto, instruments: [BTC/USD], timeframes: [H1, H4],
            history: 2d, indicators: {compute: [mfi]}}"""
# Its venue is a port on loopback.
SILENT = """{name: silent, source: {kind: binance, base_url: "http://127.0.0.1:%d"}, calendar: crypto,
             instruments: [BTC/USD], timeframes: [H1, H4], history: 2d}"""
QUIETLY = {
    "python_logs": {"python_log_level": "CRITICAL"},
    "telemetry": {"enabled": False},
    "nux": {"enabled": False},
    # A code server that nobody waits for is a warning in a later test.
    "code_servers": {"wait_for_local_processes_on_shutdown": True},
}
PATIENCE = 180.0


@dataclass(frozen=True)
class LaunchedProject:
    """An instance with a launcher, and a workspace with the project's code."""

    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext
    environment: Mapping[str, str]

    def launch(self, job: str) -> str:
        """Create and launch a run; returns its id."""
        run_id, context = self._created(job)
        return self.instance.launch_run(run_id, context).run_id

    def submit(self, job: str) -> str:
        """Create a run and hand it to the coordinator; returns its id."""
        run_id, context = self._created(job)
        return self.instance.submit_run(run_id, context).run_id

    def _created(self, job: str) -> tuple[str, WorkspaceRequestContext]:
        # Each test has an isolated environment; runs are launched in the project's.
        os.environ |= self.environment
        context = self.workspace.create_request_context()
        location = context.code_locations[0]
        repository = next(iter(location.get_repositories().values()))
        tags = {RANGE_START: FIRST, RANGE_END: LAST}
        run = _create_run(self.instance, location, repository, repository.get_full_job(job), {}, tags, None, None)
        return run.run_id, context

    def run(self, run_id: str) -> DagsterRun:
        """The run's current state."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def finished(self, run_id: str) -> DagsterRunStatus:
        """Wait for a run's end; returns its final status."""
        wait_until(lambda: self.run(run_id).is_finished)
        return self.run(run_id).status


@contextmanager
def launch_project(
    folder: Path, markets: Mapping[str, str], launcher: Mapping[str, str], **overrides: Mapping[str, object]
) -> Iterator[LaunchedProject]:
    """A project with these markets' YAML, in the current folder; overrides are keys of dagster.yaml."""
    for name in ("markets", "dagster"):
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
        dg.DagsterInstance.local_temp(
            str(folder / "dagster"), overrides={"run_launcher": launcher, **QUIETLY, **overrides}
        ) as instance,
        WorkspaceProcessContext(instance, target, code_server_log_level="critical") as workspace,
    ):
        yield LaunchedProject(instance, workspace, dict(os.environ))
        instance.run_launcher.dispose()


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds, a minute at most."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
