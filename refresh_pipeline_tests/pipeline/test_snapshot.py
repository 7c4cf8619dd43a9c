"""Readers that stay open have a file of their own, and the message about a held warehouse names its holder."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from refresh_pipeline.pipeline.publish import publish_files
from refresh_pipeline.pipeline.snapshot import renew_snapshot
from refresh_pipeline.warehouse.connection import WarehouseBusy, connect
from refresh_pipeline_tests.project_folder import command
from refresh_pipeline_tests.warehouse.warehouse_fixtures import market_of, prepared

HOLDING = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print(1, flush=True); sys.stdin.read()"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    with connect(str(tmp_path / "refresh.duckdb")) as connection:
        connection.execute("create table candles as select 1 as close")
    return tmp_path / "refresh.duckdb"


@contextmanager
def held(file: Path) -> Iterator[int]:
    """A notebook of another process that keeps a file open; gives the process's id."""
    command_line = [sys.executable, "-c", HOLDING, str(file)]
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def closes(file: Path) -> list[tuple]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute("select close from candles").fetchall()


def test_a_copy_that_is_held_hinders_neither_writing_nor_the_next_copy(database: Path, tmp_path: Path) -> None:
    copy = tmp_path / "readers" / "copy.duckdb"
    renew_snapshot(database, copy)
    with held(copy):
        with connect(str(database), patience=0.0) as connection:
            connection.execute("update candles set close = 2")
        renew_snapshot(database, copy)
        assert closes(copy) == [(2,)]
    assert [path.name for path in copy.parent.iterdir()] == ["copy.duckdb"]


def test_the_warehouse_is_no_copy_of_itself(database: Path) -> None:
    with pytest.raises(ValueError, match="would replace the warehouse"):
        renew_snapshot(database, database)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process's command")
def test_the_message_about_a_held_file_names_the_process_and_its_command(database: Path) -> None:
    with held(database) as pid:
        named = rf"held: by PID {pid} \(\S*python\S* -c import"
        with pytest.raises(WarehouseBusy, match=named), connect(str(database), patience=0.0):
            pass


def test_a_publish_renews_the_copy_and_one_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    market, now = market_of(), datetime(2026, 6, 1, tzinfo=UTC)
    warehouse, copy = prepared(tmp_path, market), tmp_path / "copy.duckdb"
    publish_files(warehouse, market, tmp_path / "exports", market.series, now, snapshot=copy)
    assert copy.stat().st_size > 0
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    attempts = publish_files(
        warehouse, market, tmp_path / "exports", market.series, now, snapshot=in_the_way / "copy.duckdb"
    )
    assert all("warning" in attempt.metadata for attempt in attempts.values())


def test_the_command_names_the_copy(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFRESH_SNAPSHOT", str(database.with_name("named.duckdb")))
    result = command("snapshot", "--data-dir", str(database.parent))
    assert (result.exit_code, result.output.startswith(f"{database.with_name('named.duckdb')}: ")) == (0, True)
    assert closes(database.with_name("named.duckdb")) == [(1,)]
    refused = command("snapshot", "--data-dir", str(database.parent), "--to", str(database))
    assert (refused.exit_code, "allowed: another file than the warehouse" in refused.output) == (2, True)
