"""Dagster's programs as `refresh up` starts them: real processes whose log and end are read."""

import os
import subprocess
import sys
from pathlib import Path

# What Dagster's programs do with their log, and what DuckDB's bindings complain of when the interpreter ends.
MODULE = """
import ctypes, sys
import duckdb
from dagster._utils.log import configure_loggers
import logging
configure_loggers(handler="default", formatter="colored", log_level="WARNING")
logging.getLogger("dagster").warning("said %s", sys.argv[1:])
from dagster._core.errors import DagsterUserCodeUnreachableError
for error in (DagsterUserCodeUnreachableError("being restarted"), ValueError("a fault")):
    try:
        raise error
    except Exception:
        logging.getLogger("dagster.daemon.SensorDaemon").exception("caught")
logging.getLogger("dagster.daemon.SchedulerDaemon").warning("m has no partition set, so not trying to catch up")
held = duckdb.connect()
ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
assert __name__ == "__main__"
sys.exit(3)
"""


def run(folder: Path, *command: str) -> tuple[int, str, str]:
    (folder / "speaks.py").write_text(MODULE)
    environment = os.environ | {"PYTHONPATH": f"{folder}:{Path(__file__).resolve().parents[2]}"}
    done = subprocess.run(
        [sys.executable, *command, "a", "b"], check=False, capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout, done.stderr


def test_a_program_speaks_without_colours_and_ends_without_a_list_of_leaks(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "-m", "refresh_pipeline.instance.program", "speaks")
    assert code == 3
    assert "said ['a', 'b']" in out + err
    assert "\x1b" not in out + err
    assert "nanobind" not in err
    assert ("being restarted" in out + err, "a fault" in out + err) == (False, True)
    assert "partition set" not in out + err


def test_without_it_there_would_be_both(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "-m", "speaks")
    assert code == 3
    assert "\x1b" in out + err
    assert "nanobind: leaked" in err
