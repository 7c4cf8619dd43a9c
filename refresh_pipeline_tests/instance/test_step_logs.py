"""What a step prints is in its files, and where the run prints: tried in a process of its own, as runs are."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys
from refresh_pipeline.instance.step_logs import StepLogs

logs = StepLogs.from_config_value(None, {"base_dir": sys.argv[1]})
print("before", flush=True)
with logs.capture_logs(["run", "compute_logs", "step"]):
    print("printed")
    os.system("echo by a command")
    print("wrong", file=sys.stderr)
    print("x" * 300_000)
print("after", flush=True)
"""


def test_what_a_step_prints_is_in_its_files_and_where_the_run_prints(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    result = subprocess.run(command, check=True, text=True, capture_output=True)
    step = tmp_path / "run" / "compute_logs" / "step"
    lines = step.with_suffix(".out").read_text().splitlines()
    assert sorted(lines) == ["by a command", "printed", "x" * 300_000]
    assert step.with_suffix(".err").read_text() == "wrong\n"
    assert step.with_suffix(".complete").exists()
    assert result.stdout.splitlines() == ["before", *lines, "after"]
    assert result.stderr == "wrong\n"


def test_a_step_goes_on_where_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT.replace('print("after", flush=True)', ""), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "before\n"
        process.stdout.close()
        assert process.wait() == 0
    assert (tmp_path / "run" / "compute_logs" / "step.complete").exists()
