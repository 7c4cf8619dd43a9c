"""What stands before a run's first step: imports and definitions of a new process, and the launch of a run.

A run of our launcher is a fork of a process that has its imports behind it; of Dagster's own it is a new process.
"""

import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from dagster import DagsterEventType, DagsterRunStatus

from refresh_pipeline.settings import DEFINITIONS
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size, side_by_side
from refresh_pipeline_tests.launcher_fixture import AS_SHIPPED, QUICK, WARM, LaunchedProject, launch_project


def measure(size: Size, folder: Path) -> Findings:
    """Seconds until a new Python has imported, and until a launched run begins its first step."""
    starts = [_wrong_request(size), _imports(size), _launches(size, folder)]
    return {"process start: imports against Dagster's own, a launch against Dagster's launcher": starts}


def _wrong_request(size: Size) -> Comparison:
    request = "import sys; from refresh_pipeline.cli import main; sys.argv[1:] = ['once', '-m', '?']; main()"
    rounds = [(_processor_seconds(request, 2), _processor_seconds("import typer, rich", 0)) for _ in range(size.rounds)]
    ours, bare = zip(*rounds, strict=True)
    return Comparison("a wrong request, processor time", ours, bare, "bare: import typer, rich")


def _processor_seconds(text: str, code: int) -> float:
    """Processor time of a new Python that ends with this exit code."""
    before = getrusage(RUSAGE_CHILDREN)
    answer = subprocess.run([sys.executable, "-P", "-c", text], capture_output=True, check=False)
    assert answer.returncode == code, answer.stderr
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _imports(size: Size) -> Comparison:
    ours = f"import {DEFINITIONS} as found; found.defs()"
    return side_by_side(
        "definitions loaded in a new process",
        lambda: _python(ours),
        lambda: _python("import dagster"),
        size.rounds,
        "bare: import dagster; aim: at most 1.3",
    )


def _python(text: str) -> None:
    subprocess.run([sys.executable, "-P", "-c", text], check=True)


def _launches(size: Size, folder: Path) -> Comparison:
    for name in ("warm", "shipped"):
        (folder / name).mkdir()
    with (
        launch_project(folder / "shipped", {"quick": QUICK}, AS_SHIPPED) as shipped,
        launch_project(folder / "warm", {"quick": QUICK}, WARM) as warm,
    ):
        # The first run of each finds nothing prepared.
        for project in (shipped, warm):
            launched(project)
        rounds = [(launched(warm), launched(shipped)) for _ in range(size.rounds)]
    ours, bare = zip(*rounds, strict=True)
    return Comparison("a run, from its launch to its first step", ours, bare, "bare: a new process for each run")


def launched(project: LaunchedProject) -> float:
    """Seconds from the launch of a run to its first step's beginning."""
    began = time.time()
    run_id = project.launch("quick_refresh")
    assert project.finished(run_id) is DagsterRunStatus.SUCCESS
    steps = project.instance.get_records_for_run(run_id, of_type=DagsterEventType.STEP_START).records
    return min(each.event_log_entry.timestamp for each in steps) - began
