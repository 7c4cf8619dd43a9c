"""Opening the file: who waits for whom, what is said when it is in vain, and that it is always closed."""

import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.warehouse.connection import (
    BYTES_OF_A_BLOCK,
    WarehouseBusy,
    WarehouseUnreadable,
    connect,
    transaction,
)
from refresh_pipeline_tests.lake_server import of_a_file
from refresh_pipeline_tests.warehouse.children import child, finished, says

pytestmark = of_a_file("its lock, its blocks, its name")


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A file with an empty table of notes."""
    path = str(tmp_path / "warehouse.duckdb")
    with connect(path) as connection:
        connection.execute("create table notes (note integer)")
    return path


def count(database: str) -> int:
    with connect(database, read_only=True, patience=10) as connection:
        return connection.execute("select count(*) from notes").fetchall()[0][0]


@pytest.mark.parametrize("purpose", ["write", "read"])
def test_a_writer_waits_until_another_process_closes_the_file(database: str, purpose: str):
    with child("hold", database, purpose) as holder:
        assert says(holder) == "open"
        assert holder.stdin is not None
        releasing = threading.Timer(0.2, holder.stdin.close)
        releasing.start()
        with connect(database, patience=30) as connection:
            assert not releasing.is_alive()
            connection.execute("insert into notes values (1)")
    assert count(database) == 1


def test_what_changes_much_is_in_the_file_once_it_is_committed_without_a_log(database: str):
    log = Path(f"{database}.wal")
    with connect(database) as connection:
        with transaction(connection):
            connection.execute("insert into notes select range from range(100_000)")
        assert not log.exists() or log.stat().st_size == 0
    assert count(database) == 100_000


def test_a_new_file_has_small_blocks_and_an_older_one_keeps_its_own(tmp_path: Path, database: str):
    older = str(tmp_path / "older.duckdb")
    with duckdb.connect(older) as connection:
        connection.execute("create table notes (note integer)")
    for path, size in ((database, BYTES_OF_A_BLOCK), (older, 2 * BYTES_OF_A_BLOCK)):
        with connect(path) as connection:
            connection.execute("insert into notes values (1)")
            sizes = connection.execute("select block_size from pragma_database_size()").fetchall()
        assert (size,) in sizes
        assert count(path) == 1


def test_who_waits_for_long_is_told_once_what_for(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("refresh_pipeline.warehouse.connection.SAYS_AFTER", 0.0)
    with child("hold", database, "write") as holder:
        says(holder)
        with pytest.raises(WarehouseBusy), connect(database, read_only=True, patience=0.3):
            pass
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"waiting for {database}, at most 0.3 s: it is held by PID {holder.pid} (")


def test_who_waits_in_vain_is_told_which_process_holds_the_file(database: str):
    with child("hold", database, "write") as holder:
        says(holder)
        for read_only in (False, True):
            with pytest.raises(WarehouseBusy) as error, connect(database, read_only=read_only, patience=0.05):
                pass
            assert database in str(error.value)
            assert f"PID {holder.pid}" in str(error.value)
            assert "waited 0.05 s" in str(error.value)


@pytest.mark.parametrize("read_only", [False, True])
def test_another_process_can_open_the_file_at_once_after_a_failure_inside(database: str, read_only: bool):
    def fail() -> None:
        with connect(database, read_only=read_only) as connection:
            # An answer that is still being fetched, and an array that is still registered, must not keep it open.
            connection.register("numbers", {"number": np.arange(100_000)})
            connection.execute("from numbers").fetchone()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with child("hold", database, "write") as other:
        assert says(other) == "open"


def test_a_failure_in_a_transaction_leaves_nothing(database: str):
    def fail() -> None:
        with connect(database) as connection, transaction(connection):
            connection.execute("insert into notes values (1)")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert count(database) == 0


def test_a_failure_that_ended_the_transaction_itself_is_the_one_that_is_told(database: str):
    with connect(database) as connection:
        connection.execute("insert into notes values (1)")
        with pytest.raises(duckdb.ConversionException), transaction(connection):
            connection.execute("insert into notes values ('x')")
    assert count(database) == 1


def test_a_transaction_that_cannot_be_committed_is_told(database: str):
    with pytest.raises(duckdb.Error), connect(database) as connection, transaction(connection):
        connection.execute("rollback")
    assert count(database) == 0


def test_readers_that_come_and_go_and_writers_all_finish(database: str):
    with ExitStack() as stack:
        writers = [stack.enter_context(child("write", database, 8)) for _ in range(2)]
        readers = [stack.enter_context(child("read", database, 8)) for _ in range(2)]
        assert [finished(reader) for reader in readers] == ["0", "0"]
        assert [finished(writer) for writer in writers] == ["", ""]
    assert count(database) == 16


def test_a_thread_that_reads_waits_for_one_of_the_same_process_that_writes(database: str):
    counts: list[int] = []
    reading = threading.Thread(target=lambda: counts.append(count(database)))
    with connect(database) as connection:
        reading.start()
        time.sleep(0.1)
        connection.execute("insert into notes values (1)")
    reading.join()
    assert counts == [1]


def test_reading_right_after_a_writer_was_killed_finds_what_was_committed(database: str):
    with child("linger", database) as writer:
        assert says(writer) == "written"
        writer.kill()
        writer.wait()
        assert count(database) == 40
    with connect(database) as connection:
        assert connection.execute("select count(*) from notes").fetchall() == [(40,)]


def test_a_missing_folder_is_made_for_who_writes(tmp_path: Path):
    path = tmp_path / "a" / "b" / "warehouse.duckdb"
    with connect(str(path)) as connection:
        connection.execute("create table notes (note integer)")
    assert path.exists()


def test_no_folder_and_no_file_is_made_for_who_reads(tmp_path: Path):
    path = tmp_path / "a" / "warehouse.duckdb"
    with (
        pytest.raises(WarehouseUnreadable, match="not found; refresh once creates it"),
        connect(str(path), read_only=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def flipped(content: bytes, start: int) -> bytes:
    return content[:start] + bytes(255 - byte for byte in content[start:])


DAMAGES = {
    "no DuckDB file": lambda content: b"open_time,open,high,low,close\n" * 1000,
    "an empty file": lambda content: b"",
    "a file that ends too early": lambda content: content[: len(content) // 2],
    "blocks whose checksums are wrong": lambda content: flipped(content, 3 * 4096),
    "headers whose checksums are wrong": lambda content: content[:4096] + bytes(8192) + content[12288:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_cannot_be_read_is_told_at_once(tmp_path: Path, database: str, damage: str, read_only: bool):
    # DuckDB tells of a damaged block, and there is a lock in the word and in the folder.
    folder = tmp_path / "locked"
    folder.mkdir()
    path = folder / "warehouse.duckdb"
    path.write_bytes(DAMAGES[damage](Path(database).read_bytes()))
    started = time.monotonic()
    with pytest.raises(WarehouseUnreadable) as error, connect(str(path), read_only=read_only, patience=600):
        pass
    # Not the ten minutes that it waits for a lock.
    assert time.monotonic() - started < 300
    assert str(path) in str(error.value)
    assert f"DuckDB {duckdb.__version__}" in str(error.value)


def test_a_folder_in_the_files_place_is_told(tmp_path: Path):
    with pytest.raises(WarehouseUnreadable), connect(str(tmp_path)):
        pass


def test_a_file_may_be_moved_while_nobody_has_it_open(tmp_path: Path, database: str):
    moved = shutil.move(database, tmp_path / "elsewhere.duckdb")
    assert count(str(moved)) == 0


def test_a_table_that_is_not_there_is_no_variable_of_this_process(database: str):
    gone = {"price": np.array([1.0])}
    with connect(database) as connection, pytest.raises(duckdb.CatalogException, match="gone does not exist"):
        connection.execute("select * from gone")
    assert gone


def test_whoever_needs_the_processor_for_something_else_says_how_many_threads_duckdb_takes(database: str):
    asked = "select current_setting('threads')"
    with connect(database) as connection:
        usual = connection.execute(asked).fetchall()
    with connect(database, threads=1) as connection:
        assert connection.execute(asked).fetchall() == [(1,)]
    with connect(database) as connection:
        assert connection.execute(asked).fetchall() == usual


def test_a_process_without_a_program_of_its_own_gets_no_bars_of_progress(tmp_path: Path) -> None:
    # As multiprocessing starts them, and Dagster its runs.
    program = (
        "import sys; from refresh_pipeline.warehouse.connection import connect\n"
        "with connect(sys.argv[1]) as c: print(c.execute(\"select current_setting('enable_progress_bar')\").fetchall())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "new.duckdb")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[(False,)]\n"
