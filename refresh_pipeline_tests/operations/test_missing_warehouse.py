"""A warehouse that is missing is begun anew only on request; the first one of a folder is begun at once."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from refresh_pipeline.monitoring.problems import missing_warehouse
from refresh_pipeline.operations.missing_warehouse import EVENTS, why_missing
from refresh_pipeline.orchestration.failed_runs import failed_runs
from refresh_pipeline.settings import dagster_home
from refresh_pipeline_tests.project_folder import NOW, World, command

ONE_SERIES = ("--instrument", "BTC/USD", "--timeframe", "H1", "--now", NOW.isoformat())


@pytest.fixture
def lost(world: World) -> World:
    """A world whose warehouse is gone."""
    world.settings.database.unlink()
    return world


def test_a_folder_without_a_history_misses_nothing(new_world: World) -> None:
    with new_world.dagster():
        assert why_missing(new_world.settings) == ""
    assert list(missing_warehouse(new_world.settings)) == []


@pytest.mark.parametrize("statement", ["create table other (n)", "create table event_logs (dagster_event_type)"])
def test_a_first_refresh_that_was_killed_early_leaves_no_history(
    new_world: World, tmp_path: Path, statement: str
) -> None:
    """Dagster's file is without tables, or half of a transaction is in it and in its journal."""
    events = dagster_home(new_world.settings) / EVENTS
    events.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(tmp_path / "at_work.db", isolation_level=None)) as connection:
        connection.execute(statement)
        connection.execute("pragma cache_size = 2")
        connection.execute("begin")
        connection.execute("create table more (cell)")
        connection.executemany("insert into more values (zeroblob(?))", [(5000,)] * 50)
        for ending in ("", "-journal"):
            shutil.copy(tmp_path / f"at_work.db{ending}", f"{events}{ending}")
    assert why_missing(new_world.settings) == ""


@pytest.mark.parametrize("name", ["once", "publish", "up", "backup"])
def test_commands_begin_no_second_warehouse(lost: World, name: str) -> None:
    refused = command(name)
    assert refused.exit_code == 1
    assert f"{lost.settings.database} is missing, although there is a history of refreshes" in refused.output
    assert "refresh once --new" in refused.output
    assert not lost.settings.database.exists()
    assert f"{lost.settings.database} is missing" in command("status").output


def test_a_backup_alone_tells_of_a_warehouse(world: World) -> None:
    assert command("backup").exit_code == 0
    world.settings.database.unlink()
    shutil.rmtree(dagster_home(world.settings))
    refused = command("once")
    assert refused.exit_code == 1
    assert "a backup of 20" in refused.output
    assert command("restore", "--yes").exit_code == 0
    assert why_missing(world.settings) == ""


def test_on_request_a_new_warehouse_is_begun(lost: World) -> None:
    begun = command("once", "--new", *ONE_SERIES)
    assert begun.exit_code == 0, begun.output
    assert f"{lost.settings.database}: a new warehouse is begun" in begun.output
    assert lost.counts() == {"BTC/USD|H1": 24}


def test_a_scheduled_run_fails_in_words_and_is_a_problem(lost: World) -> None:
    with lost.dagster() as instance:
        assert not lost.run("refresh", instance=instance).success
        [failed] = failed_runs(instance, [lost.market])
    assert "is missing, although there is a history of refreshes" in failed.text
    assert not lost.settings.database.exists()
    [problem] = missing_warehouse(lost.settings)
    assert problem.subject == "machine: the warehouse is missing"


def test_the_first_run_of_a_folder_is_not_stopped(new_world: World) -> None:
    with new_world.dagster() as instance:
        assert new_world.run("refresh", ["BTC/USD|H1"], instance=instance).success
        # A warehouse that goes after its first refresh has been there.
        new_world.settings.database.unlink()
        assert not new_world.run("refresh", ["BTC/USD|H1"], instance=instance).success
