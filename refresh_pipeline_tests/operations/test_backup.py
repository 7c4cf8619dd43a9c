"""Backups and the way back: of a real warehouse and a real Dagster instance, while others write to them."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from typer.testing import CliRunner

from refresh_pipeline.cli.app import app
from refresh_pipeline.operations.backup import (
    CONTENTS,
    UNFINISHED,
    Backup,
    BackupError,
    back_up,
    find,
    list_backups,
    read_backup,
    verify_backup,
)
from refresh_pipeline.operations.backup_retention import backup_faults, keep_newest, make_backup
from refresh_pipeline.operations.restore import restore
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.settings import dagster_home, prepare_dagster
from refresh_pipeline_tests.destinations.limits import largest_file
from refresh_pipeline_tests.project_folder import LATER, NOW, World, command

REPOSITORY = Path(__file__).resolve().parents[2]
# Later than the machine's clock, by which commands and jobs date their backups.
FAR = datetime(2100, 1, 1, tzinfo=UTC)


def backed_up(world: World, minutes: int = 0) -> Backup:
    settings = world.settings
    now = NOW + timedelta(minutes=minutes)
    return back_up(settings.backups, settings.database, dagster_home(settings), now)


def backups_in(folder: Path) -> list[Path]:
    return [backup.folder for backup in list_backups(folder, FAR)]


def runs(world: World) -> list[tuple[str, str]]:
    """Dagster's runs as the instance in the world's folder tells them."""
    with world.dagster() as instance:
        return sorted((run.run_id, run.status.value) for run in instance.get_runs())


def beside_epochs(tables: dict[str, list[tuple]]) -> dict[str, list[tuple]]:
    """The tables without the one that names the epoch, which a restore begins anew."""
    return {name: rows for name, rows in tables.items() if not name.endswith(".schema_info")}


def test_a_restore_into_an_empty_folder_equals_what_was_backed_up(world: World, tmp_path: Path) -> None:
    tables, known = world.tables(), runs(world)
    backup = backed_up(world)
    verify_backup(backup)
    assert backup.rows == {name: len(rows) for name, rows in tables.items()}
    other = tmp_path / "other"
    restore(backup, other / "refresh.duckdb", other / "dagster")
    with duckdb.connect(str(other / "refresh.duckdb"), read_only=True) as connection:
        for name, rows in tables.items():
            found = connection.execute(f"select * from {name} order by all").fetchall()
            # A restored warehouse has an epoch of its own.
            assert (found == rows) is not name.endswith(".schema_info")
    os.environ["DAGSTER_HOME"] = str(other / "dagster")
    assert runs(world) == known != []
    with world.dagster() as instance:
        key = dg.AssetKey(["bazaar", "exports"])
        assert len(instance.get_materialized_partitions(key)) == 8


WRITER = """
import sys, duckdb
from refresh_pipeline.warehouse.connection import connect, transaction
number = 0
while True:
    with connect(sys.argv[1]) as connection, transaction(connection):
        connection.execute("create table if not exists main.one (a integer)")
        connection.execute("create table if not exists main.two (a integer)")
        connection.execute("insert into one select range from range(1000)")
        connection.execute("insert into two select range from range(1000)")
    number += 1
    print(number, flush=True)
"""


@contextmanager
def writing(database: Path) -> Iterator[subprocess.Popen]:
    """Another process that writes one transaction after the other."""
    command_line = [sys.executable, "-c", WRITER, str(database)]
    with subprocess.Popen(command_line, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()
            process.wait()


def test_while_others_write_a_backup_holds_whole_transactions_and_they_go_on(world: World) -> None:
    with writing(world.settings.database) as process:
        made = [backed_up(world, minutes) for minutes in range(3)]
        assert process.poll() is None
        assert process.stdout is not None
        process.stdout.readline()
    for backup in made:
        assert backup.rows["main.one"] == backup.rows["main.two"] > 0
        verify_backup(backup)


def test_dagsters_databases_are_copied_while_somebody_writes_to_them(world: World) -> None:
    index = next(dagster_home(world.settings).rglob("runs.db"))
    with sqlite3.connect(index) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table noted (a integer)")
        connection.execute("insert into noted values (1)")
        connection.commit()
        connection.execute("insert into noted values (2)")
        backup = backed_up(world)
        connection.rollback()
    copy = backup.folder / "dagster" / index.relative_to(dagster_home(world.settings))
    with sqlite3.connect(copy) as connection:
        assert connection.execute("select a from noted").fetchall() == [(1,)]
    assert not [name for name in backup.files if name.endswith(("-wal", "-shm"))]


# ---- what is not whole is not restored


@pytest.mark.parametrize("fate", ["changed", "gone", "other rows"])
def test_a_backup_that_is_not_whole_is_refused_and_nothing_is_touched(world: World, fate: str) -> None:
    backup = backed_up(world)
    file = backup.folder / "refresh.duckdb"
    if fate == "changed":
        content = bytearray(file.read_bytes())
        content[5000] ^= 1
        file.write_bytes(content)
    elif fate == "gone":
        next((backup.folder / "dagster").rglob("runs.db")).unlink()
    else:
        contents = backup.folder / CONTENTS
        contents.write_text(contents.read_text().replace('"bazaar.series": 8', '"bazaar.series": 9'))
        backup = read_backup(backup.folder)
    before = world.settings.database.read_bytes()
    with pytest.raises(BackupError):
        restore(backup, world.settings.database, dagster_home(world.settings))
    assert world.settings.database.read_bytes() == before
    assert not list(world.settings.data.glob(".*"))


def test_without_room_nothing_is_left_of_a_backup_and_what_is_there_stays(world: World) -> None:
    with largest_file(50_000), pytest.raises(BackupError, match="make room"):
        backed_up(world)
    assert list(world.settings.backups.iterdir()) == []
    backup = backed_up(world)
    tables = world.tables()
    with largest_file(50_000), pytest.raises(BackupError, match="make room"):
        restore(backup, world.settings.database, dagster_home(world.settings))
    assert beside_epochs(world.tables()) == beside_epochs(tables)


def test_before_any_refresh_there_is_nothing_to_back_up(new_world: World) -> None:
    with pytest.raises(BackupError, match="nothing to back up"):
        backed_up(new_world)


def test_a_damaged_warehouse_can_be_replaced_by_its_backup(world: World) -> None:
    tables = world.tables()
    backup = backed_up(world)
    world.settings.database.write_bytes(b"no database at all" * 1000)
    restore(backup, world.settings.database, dagster_home(world.settings))
    assert beside_epochs(world.tables()) == beside_epochs(tables)


# ---- how many are kept


def test_the_newest_are_kept_and_what_was_never_finished_goes(world: World) -> None:
    made = [backed_up(world, minutes).folder for minutes in range(4)]
    unfinished = made[0].with_name(f"20200101T000000Z{UNFINISHED}")
    unfinished.mkdir()
    gone = keep_newest(world.settings.backups, 2)
    assert sorted(gone) == sorted([*made[:2], unfinished])
    assert backups_in(world.settings.backups) == made[:1:-1]
    assert keep_newest(world.settings.backups, 0) == made[2:3]


def damage(database: Path) -> None:
    """Flip one bit in a block that `count(*)` does not read, so that the file looks whole."""
    content = bytearray(database.read_bytes())
    for place in range(12_288 + 5_000, len(content), 262_144):
        content[place] ^= 4
        database.write_bytes(content)
        try:
            with duckdb.connect(str(database), read_only=True) as connection:
                connection.execute("select count(*) from main.numbers")
                return
        except duckdb.Error:
            content[place] ^= 4
    raise AssertionError("every block is read on opening")


def grow(world: World) -> None:
    """A table of several blocks, so that there is something to damage."""
    world.change("create table main.numbers as select range as n, random() as x, uuid() as t from range(200_000)")
    world.change("checkpoint")


def test_a_damaged_warehouse_is_no_backup_and_pushes_none_out(world: World) -> None:
    os.environ["REFRESH_BACKUPS_KEPT"] = "1"
    grow(world)
    assert command("backup").exit_code == 0
    good = backups_in(world.settings.backups)
    damage(world.settings.database)
    for _ in range(3):
        while "in that very second" in (failed := command("backup")).output:
            time.sleep(0.2)
        assert failed.exit_code == 1
        assert "is damaged" in failed.output
        assert "refresh restore" in failed.output
    assert backups_in(world.settings.backups) == good
    [(item, sentence)] = backup_faults(world.settings, datetime.now(UTC))
    assert item == "last backup"
    assert "is damaged" in sentence
    assert command("restore", "--yes").exit_code == 0
    assert world.query("select count(*) from main.numbers") == [(200_000,)]
    assert command("backup").exit_code == 0
    assert list(backup_faults(world.settings, datetime.now(UTC))) == []


def test_a_backup_that_rots_on_its_disk_is_not_restored(world: World) -> None:
    grow(world)
    backup = backed_up(world)
    damage(backup.folder / "refresh.duckdb")
    tables = world.fingerprints()
    with pytest.raises(BackupError, match="another size or hash"):
        restore(backup, world.settings.database, dagster_home(world.settings))
    assert world.fingerprints() == tables


def test_damaged_files_of_dagster_do_not_keep_the_warehouse_from_its_backup(world: World) -> None:
    older = backed_up(world).folder
    index = next(dagster_home(world.settings).rglob("runs.db"))
    index.write_bytes(b"scrambled" * 2000)
    os.environ |= dict.fromkeys(("REFRESH_BACKUPS_KEPT", "REFRESH_BACKUPS_KEPT_MONTHLY"), "1")
    failed = command("backup")
    assert failed.exit_code == 1
    assert f"{index}: not in the backup: " in failed.output
    newest = list_backups(world.settings.backups, FAR)[0]
    assert older in backups_in(world.settings.backups)
    verify_backup(newest)
    assert "dagster/runs.db" not in newest.files
    assert [item for item, _ in backup_faults(world.settings, datetime.now(UTC))] == ["last backup"]


# ---- days, weeks, months


def recorded(folder: Path, made_at: str, rows: int = 100, **content: object) -> Path:
    """A backup of which only the list of contents is there."""
    name = datetime.fromisoformat(made_at).strftime("%Y%m%dT%H%M%SZ")
    made = {"made_at": made_at, "duckdb": "", "files": {}, "rows": {"demo.raw_candles": rows}, "verified": True}
    (folder / name).mkdir(parents=True)
    (folder / name / CONTENTS).write_text(json.dumps(made | content))
    return folder / name


def test_daily_weekly_and_monthly_backups_are_kept(tmp_path: Path) -> None:
    first = datetime(2026, 7, 1, 3, 40, tzinfo=UTC)
    for day in range(153):
        recorded(tmp_path, (first + timedelta(days=day)).isoformat())
        keep_newest(tmp_path, 3, 4, 3, now=FAR)
    assert [path.name[:8] for path in backups_in(tmp_path)] == [
        *("20261130", "20261129", "20261128"),
        *("20261122", "20261115"),
        "20261031",
        "20260930",
    ]


def test_history_that_was_lost_stays_in_the_backup_that_has_it(tmp_path: Path) -> None:
    rich = recorded(tmp_path, "2026-01-01T03:40:00+00:00", rows=100_000)
    for day in range(1, 9):
        recorded(tmp_path, f"2026-11-0{day}T03:40:00+00:00", rows=90 * day)
        keep_newest(tmp_path, 2, 0, 0, now=FAR)
    assert rich in backups_in(tmp_path)
    assert len(backups_in(tmp_path)) == 3


def test_the_newest_whole_backup_stays(tmp_path: Path) -> None:
    whole = recorded(tmp_path, "2026-01-01T03:40:00+00:00")
    recorded(tmp_path, "2026-11-01T03:40:00+00:00", faults=["runs.db"])
    recorded(tmp_path, "2026-11-02T03:40:00+00:00", verified=False)
    keep_newest(tmp_path, 1, 0, 0, now=FAR)
    assert [path.name[:8] for path in backups_in(tmp_path)] == ["20261102", whole.name[:8]]


def test_a_backup_of_the_future_is_not_the_newest_and_stays(world: World) -> None:
    future = back_up(world.settings.backups, world.settings.database, dagster_home(world.settings), FAR).folder
    made = make_backup(world.settings, dagster_home(world.settings), NOW)
    assert [future.name in sentence for sentence in made.warnings] == [True]
    assert find(world.settings.backups, None, NOW) == made.backup.folder
    assert keep_newest(world.settings.backups, 1, now=NOW) == []
    shutil.rmtree(made.backup.folder)
    with pytest.raises(BackupError, match=f"refresh restore {future.name}"):
        find(world.settings.backups, None, NOW)


def test_a_backup_older_than_a_day_or_cut_short_is_a_problem(world: World) -> None:
    backup = backed_up(world)
    assert list(backup_faults(world.settings, NOW + timedelta(hours=25))) == []
    assert [item for item, _ in backup_faults(world.settings, NOW + timedelta(hours=27))] == ["age"]
    os.truncate(backup.folder / "refresh.duckdb", 1000)
    assert [item for item, _ in backup_faults(world.settings, NOW)] == ["copy"]


# ---- by command


def test_the_commands_back_up_and_ask_before_they_overwrite(world: World) -> None:
    tables = world.tables()
    made = command("backup")
    assert made.exit_code == 0
    assert f"{world.settings.backups}/" in made.stdout
    assert "rows of" in made.stdout
    world.run("refresh", now=LATER)
    assert world.tables() != tables
    refused = command("restore")
    assert refused.exit_code == 2
    assert f"would be overwritten: {world.settings.database}" in refused.output
    assert world.tables() != tables
    assert CliRunner().invoke(app, ["restore"], input="n\n").exit_code == 2
    assert world.tables() != tables
    assert CliRunner().invoke(app, ["restore"], input="y\n").exit_code == 0
    assert beside_epochs(world.tables()) == beside_epochs(tables)
    assert command("restore", "--yes").exit_code == 0
    assert beside_epochs(world.tables()) == beside_epochs(tables)


def test_where_nothing_is_in_the_way_nobody_is_asked(world: World, tmp_path: Path) -> None:
    command("backup", "--to", str(tmp_path / "kept"))
    tables = world.tables()
    shutil.rmtree(world.settings.data)
    [folder] = backups_in(tmp_path / "kept")
    restored = command("restore", str(folder))
    assert restored.exit_code == 0, restored.output
    assert beside_epochs(world.tables()) == beside_epochs(tables)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "no backup there"), (("nonsense",), "found no backup 'nonsense'")],
)
def test_a_restore_of_nothing_says_so(world: World, arguments: tuple[str, ...], words: str) -> None:
    result = command("restore", *arguments)
    assert result.exit_code == 2
    assert words in result.output


# ---- by schedule


def test_the_job_backs_up_and_keeps_as_many_as_the_settings_say(world: World) -> None:
    os.environ["REFRESH_BACKUPS_KEPT"] = "1"
    backed_up(world)
    with world.dagster() as instance:
        job = build(world.settings, [world.market]).resolve_job_def("backup")
        assert job.execute_in_process(instance=instance).success
    [only] = backups_in(world.settings.backups)
    assert only.name != f"{NOW:%Y%m%dT%H%M%SZ}"
    verify_backup(read_backup(only))


def test_that_there_was_never_a_backup_is_a_problem_after_some_days(new_world: World) -> None:
    settings = new_world.settings
    settings.data.mkdir(exist_ok=True)
    with duckdb.connect(str(settings.database)) as connection:
        connection.execute("create table candles as select 1 as close")
    prepare_dagster(settings)
    assert list(backup_faults(settings, datetime.now(UTC) + timedelta(days=2))) == []
    [(item, sentence)] = backup_faults(settings, datetime.now(UTC) + timedelta(days=4))
    assert (item, sentence.endswith("after 4 days; run refresh backup")) == ("none", True)
