"""The same project by Dagster's own commands, on the shipped workspace.yaml and dagster.yaml."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from refresh_pipeline.settings import shipped
from refresh_pipeline_tests.end_to_end.programs import finished
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import EXPORTS, FEW_INDICATORS, NOW, UPLOADS, World

WORKSPACE = ("-w", "workspace.yaml")
PROJECT = ("-m", "refresh_pipeline.definitions")
AT_NOW = ("--config-json", json.dumps({"resources": {"run_options": {"config": {"now": NOW.isoformat()}}}}))


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[World]:
    """A folder in which nothing has happened, whose market computes few columns."""
    world = World.founded(tmp_path / "world", FEW_INDICATORS + EXPORTS + UPLOADS)
    with inside(world.root):
        yield world


@pytest.fixture
def project(new_world: World, tmp_path: Path) -> World:
    """A folder with the shipped files in it, and a Dagster home with the shipped settings."""
    shutil.copy(shipped("workspace.yaml"), new_world.root)
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(shipped("dagster.yaml"), home)
    os.environ["DAGSTER_HOME"] = str(home)
    return new_world


def runs_of(world: World) -> list[dg.DagsterRun]:
    with world.dagster() as instance:
        return list(instance.get_runs())


def test_the_definitions_are_valid(project: World) -> None:
    result = finished("dagster", "definitions", "validate", *WORKSPACE)
    assert result.returncode == 0, result.stderr
    assert "Validation successful" in result.stderr + result.stdout


def test_one_partition_is_materialized(project: World) -> None:
    series = "BTC/USD|m15"
    one = ("--select", "bazaar/raw_candles", "--partition", series)
    result = finished("dagster", "asset", "materialize", *one, *PROJECT, *AT_NOW)
    assert result.returncode == 0, result.stderr
    assert project.counts() == {series: 96}
    with project.dagster() as instance:
        assert instance.get_materialized_partitions(dg.AssetKey(["bazaar", "raw_candles"])) == {series}


def test_a_range_of_partitions_is_one_run_of_every_asset(project: World) -> None:
    span = ("--select", "*", "--partition-range", "BTC/USD|m15...ETH/USD|H1")
    result = finished("dagster", "asset", "materialize", *span, *PROJECT, *AT_NOW)
    assert result.returncode == 0, result.stderr
    assert project.counts() == {"BTC/USD|H1": 24, "BTC/USD|m15": 96, "ETH/USD|H1": 24, "ETH/USD|m15": 96}
    with project.dagster() as instance:
        assert len(instance.get_runs()) == 1
        for asset in ("raw_candles", "enhanced_candles", "indicators", "exports", "uploads"):
            assert instance.get_materialized_partitions(dg.AssetKey(["bazaar", asset])) == project.counts().keys()


def test_without_a_home_of_its_own_dagster_makes_one_and_takes_it_away(project: World) -> None:
    del os.environ["DAGSTER_HOME"]
    shutil.copy(shipped("dagster.yaml"), project.root)
    before = sorted(path.name for path in project.root.iterdir())
    result = finished(
        "dagster", "asset", "materialize", "--select", "bazaar/raw_candles", "--partition", "BTC/USD|H1", *PROJECT
    )
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in project.root.iterdir()) == sorted([*before, "data"])


def test_up_on_a_port_that_is_taken_ends_with_2_and_starts_nothing(new_world: World) -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        result = finished("refresh", "up", "--port", str(door.getsockname()[1]))
    assert result.returncode == 2
    assert "--port" in result.stderr
