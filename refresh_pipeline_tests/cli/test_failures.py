"""Interrupts and errors that a user, a disk or another program causes end a command in one line."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import dagster as dg
import duckdb
import pytest
import typer
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner, Result

from refresh_pipeline.cli.app import app
from refresh_pipeline.cli.failures import CommandGroup
from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, this_process
from refresh_pipeline.market.model import MarketError
from refresh_pipeline.orchestration.run_jobs import _canceled_when_interrupted
from refresh_pipeline.settings import shipped
from refresh_pipeline_tests.project_folder import World

PATIENCE = 60.0
# PostgreSQL's driver comes with an extra; an error of it is known by its module.
DriverError = type("OperationalError", (Exception,), {"__module__": "psycopg2"})
UNSET = 'Errors: many. You have attempted to fetch the environment variable "REFRESH_POSTGRES_URL" which is not set.'
# The command, also where these tests run in the background of a shell, which lets programs ignore SIGINT.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from refresh_pipeline.cli import main
main()
"""


def ended_by(error: BaseException) -> Result:
    """A command that ends by this error."""
    app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)
    app.callback()(lambda: None)

    @app.command()
    def fails() -> None:
        raise error

    return CliRunner().invoke(app, ["fails"])


def wrapped(error: Exception) -> Exception:
    """As SQLAlchemy wraps an error of SQLite's."""
    return OperationalError("insert into runs", {}, error)


def within(error: Exception) -> Exception:
    """An error of another kind, raised from this one."""
    outer = RuntimeError("while loading")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (
            wrapped(sqlite3.OperationalError("database or disk is full")),
            1,
            "The disk is full: make room",
        ),
        (
            wrapped(sqlite3.OperationalError("disk I/O error")),
            1,
            "The disk is full: make room",
        ),
        (OSError(28, "No space left on device", "/data/x"), 1, "The disk is full: make room"),
        (wrapped(sqlite3.DatabaseError("file is not a database")), 1, "restore a backup with refresh restore"),
        (wrapped(sqlite3.DatabaseError("database disk image is malformed")), 1, "Dagster's files are damaged"),
        (wrapped(sqlite3.OperationalError("no such table: event_logs")), 1, "Dagster's files are damaged"),
        (
            wrapped(sqlite3.OperationalError("attempt to write a readonly database")),
            1,
            "Dagster's files are not writable",
        ),
        (duckdb.IOException("IO Error: Corrupt database file: computed checksum 1"), 1, "The warehouse is damaged"),
        (PermissionError(13, "Permission denied", "/data/creating.lock"), 1, "/data/creating.lock: Permission denied"),
        (MarketError("crypto.yaml: timeframe: unknown key"), 2, "crypto.yaml: timeframe: unknown key"),
        (
            within(DriverError('connection to server at "::1", port 5432 failed: refused')),
            1,
            "Dagster's PostgreSQL does not answer (connection to server",
        ),
        (
            dg.DagsterInvalidConfigError(UNSET, [], {}),
            1,
            "dagster.yaml reads REFRESH_POSTGRES_URL, which is not set; set it in .env",
        ),
        (within(MarketError("crypto.yaml: no indicator nope")), 2, "crypto.yaml: no indicator nope"),
    ],
)
def test_each_is_one_line_with_its_exit_code(error: BaseException, code: int, said: str) -> None:
    result = ended_by(error)
    assert result.exit_code == code
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no /sys, where nobody may make a folder")
@pytest.mark.parametrize("command", [["once"], ["maintain"], ["up", "--no-api"]])
def test_a_folder_that_refuses_says_what_to_do(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--data-dir", "/sys/refresh"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "choose another --data-dir" in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_a_postgresql_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("psycopg2")
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text(shipped("dagster-cluster.yaml").read_text())
    # SQLAlchemy's form of an address; nothing listens on port 1.
    monkeypatch.setenv("REFRESH_POSTGRES_URL", "postgresql+psycopg2://u:secret@127.0.0.1:1/d")
    result = CliRunner().invoke(app, ["maintain", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "Dagster's PostgreSQL does not answer" in said
    assert "secret" not in said
    assert (len(result.stderr.strip().splitlines()), caplog.text) == (1, "")


def test_a_library_logs_no_interrupt_that_passes_through_it(capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import logging\nfrom refresh_pipeline.cli import say_nothing_of_interrupts\nsay_nothing_of_interrupts()\n"
        "for error in (KeyboardInterrupt(), ValueError('a fault')):\n"
        "    logging.getLogger('sqlalchemy.pool').error('closing', exc_info=error)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True)
    said = capfd.readouterr().err
    assert "ValueError: a fault" in said
    assert "KeyboardInterrupt" not in said


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    assert isinstance(ended_by(ZeroDivisionError("a fault")).exception, ZeroDivisionError)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_command_in_one_line(new_world: World, number: int) -> None:
    # A command that reads this file waits until somebody writes into it.
    os.mkfifo(new_world.root / "markets" / "slow.yaml")
    command = [sys.executable, "-P", "-c", INTERRUPTIBLE, "status", "-m", "slow"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        # Opening waits for the reader.
        held = os.open(new_world.root / "markets" / "slow.yaml", os.O_WRONLY)
        process.send_signal(number)
        try:
            _, said = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            os.close(held)
    assert process.returncode == 130
    assert said == "Interrupted. Nothing stored is lost: run the command again to continue.\n"


def test_an_interrupted_run_is_canceled_and_not_failed() -> None:
    @dg.op
    def works() -> None:
        raise KeyboardInterrupt

    @dg.job
    def job() -> None:
        works()

    with dg.DagsterInstance.ephemeral() as instance:
        job.execute_in_process(instance=instance, tags={PROCESS_TAG: this_process()}, raise_on_error=False)
        with pytest.raises(KeyboardInterrupt), _canceled_when_interrupted(instance):
            raise KeyboardInterrupt
        [run] = instance.get_runs()
    assert run.status is dg.DagsterRunStatus.CANCELED


def test_what_libraries_print_while_the_interpreter_ends_is_not_shown() -> None:
    script = (
        "import os, sys; from refresh_pipeline import cli\n"
        "class Leak:\n    def __del__(self, write=os.write): write(2, b'leaked 27 instances')\n"
        "sys.leak = Leak(); sys.argv[1:] = ['--version']; cli.main()"
    )
    result = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("refresh-pipeline 0.1.0\n", "")
