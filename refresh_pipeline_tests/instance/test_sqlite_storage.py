"""Runs and schedules in SQLite: what is stored is what the shipped storages store, and files may be replaced."""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
from dagster._core.test_utils import create_run_for_test

from refresh_pipeline.instance.sqlite_storage import (
    KeptRunStorage,
    KeptScheduleStorage,
    close_files,
    engine_of,
    is_stamped,
)
from refresh_pipeline.settings import shipped

ORIGIN = RemoteInstigatorOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "there"), "ours")
STORAGES = ("event_log_storage", "run_storage", "schedule_storage")


def instance_in(home: Path, config: Mapping[str, object]) -> DagsterInstance:
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(yaml.safe_dump(dict(config)))
    os.environ["DAGSTER_HOME"] = str(home)
    return DagsterInstance.get()


@pytest.fixture
def config() -> dict[str, object]:
    return yaml.safe_load(shipped("dagster.yaml").read_text())


def fill(instance: DagsterInstance) -> str:
    """A run, a state of a sensor and a tick; gives the run's id."""
    state = InstigatorState(ORIGIN, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
    instance.add_instigator_state(state)
    instance.create_tick(
        TickData(ORIGIN.get_id(), "ours", InstigatorType.SENSOR, TickStatus.SKIPPED, 1.0, selector_id="selected")
    )
    return create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags={"a": "b"}).run_id


def test_the_shipped_storages_read_what_these_have_written(tmp_path: Path, config: dict[str, object]) -> None:
    with instance_in(tmp_path / "home", config) as instance:
        assert type(instance.run_storage) is KeptRunStorage
        assert type(instance.schedule_storage) is KeptScheduleStorage
        run_id = fill(instance)
    with instance_in(tmp_path / "home", {k: v for k, v in config.items() if k not in STORAGES}) as instance:
        assert type(instance.run_storage) is not KeptRunStorage
        [run] = instance.get_runs(dg.RunsFilter(tags={"a": "b"}))
        assert (run.run_id, run.status) == (run_id, DagsterRunStatus.STARTED)
        [state] = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        assert state.name == "ours"
        [tick] = instance.get_ticks(ORIGIN.get_id(), "selected")
        assert tick.status is TickStatus.SKIPPED


def test_files_that_an_older_dagster_has_left_get_what_they_lack(tmp_path: Path, config: dict[str, object]) -> None:
    with instance_in(tmp_path / "home", config) as instance:
        run_id = fill(instance)
    close_files()
    path = tmp_path / "home" / "history" / "runs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("drop table instance_info")
        connection.commit()
    assert not is_stamped(path, "instance_info")
    with instance_in(tmp_path / "home", config) as instance:
        assert is_stamped(path, "instance_info")
        assert [run.run_id for run in instance.get_runs()] == [run_id]


def test_a_file_that_was_deleted_and_made_anew_is_read_anew(tmp_path: Path, config: dict[str, object]) -> None:
    with instance_in(tmp_path / "home", config) as instance:
        fill(instance)
    with instance_in(tmp_path / "other", config) as instance:
        run_id = fill(instance)
    close_files()
    with instance_in(tmp_path / "home", config) as instance:
        assert run_id not in {run.run_id for run in instance.get_runs()}
        path = tmp_path / "home" / "history" / "runs.db"
        for each in path.parent.glob("runs.db*"):
            each.unlink()
        path.write_bytes((tmp_path / "other" / "history" / "runs.db").read_bytes())
        assert [run.run_id for run in instance.get_runs()] == [run_id]


def test_files_have_no_log_beside_them_once_a_process_has_ended(tmp_path: Path, config: dict[str, object]) -> None:
    with instance_in(tmp_path / "home", config) as instance:
        fill(instance)
    close_files()
    names = {path.name for path in (tmp_path / "home").rglob("*") if path.suffix.startswith(".db")}
    assert {"runs.db", "schedules.db", "index.db"} <= names
    assert not {name for name in names if name.endswith(("-wal", "-shm"))}


def test_a_file_has_one_engine_whoever_opens_it(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/some.db"
    assert engine_of(address) is engine_of(address)
