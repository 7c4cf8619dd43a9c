"""The resources as deployed: their folders, credentials and sources."""

import os
from pathlib import Path

import dagster as dg
import pytest
from dagster import validate_run_config

from refresh_pipeline.destinations.folder import FolderDestination
from refresh_pipeline.market.destination_spec import UploadsSpec
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.orchestration.resources import Exports, Uploads, Venues, resources
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.project_folder import QUIET, World

FIXED = ("warehouse", "venues", "files", "destination")
KEYS = ("base_dir", "database", "connection_config", "limits_dir", "directory", "root", "default_folder")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", [*FIXED, "io_manager"])
def test_no_run_config_can_touch_a_resource(world: World, name: str, key: str) -> None:
    config = {"resources": {name: {"config": {key: "sqlite:x"}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match=f'unexpected config entry "{key}"'):
        validate_run_config(world.job("refresh" if name == "venues" else "publish"), config)


def test_a_launch_with_another_database_changes_nothing(world: World) -> None:
    before = world.counts()
    config = {"resources": {"warehouse": {"config": {"database": str(world.root / "evil.duckdb")}}}, **QUIET}
    with world.dagster() as instance, pytest.raises(dg.DagsterInvalidConfigError):
        world.job("refresh").execute_in_process(instance=instance, run_config=config, partition_key="BTC/USD|m15")
    assert not (world.root / "evil.duckdb").exists()
    assert world.counts() == before


def test_everything_lies_in_the_folder_of_everything(tmp_path: Path) -> None:
    found = resources(load_settings(data_dir=tmp_path))
    with dg.build_resources({name: found[name] for name in FIXED}) as built:
        warehouse, venues, files, destination = built.warehouse, built.venues, built.files, built.destination
    assert isinstance(warehouse, Warehouse)
    assert isinstance(venues, Venues)
    assert isinstance(files, Exports)
    assert isinstance(destination, Uploads)
    assert warehouse.database == str(tmp_path / "refresh.duckdb")
    assert venues.limits_dir == tmp_path / "limits"
    assert files.root == tmp_path / "exports"
    assert destination.open(UploadsSpec()) is None
    opened = destination.open(UploadsSpec(kind="uploads"))
    assert opened is not None
    assert opened.url == (tmp_path / "uploads").as_uri()


def test_the_destination_is_where_the_environment_says_when_it_is_needed(tmp_path: Path) -> None:
    uploads = Uploads(default_folder=tmp_path / "uploads")
    os.environ["REFRESH_UPLOAD_URL"] = (tmp_path / "elsewhere").as_uri()
    destination = uploads.open(UploadsSpec())
    assert isinstance(destination, FolderDestination)
    assert destination.root == tmp_path / "elsewhere"


def test_dropbox_is_chosen_by_its_credentials_and_shows_none_of_them(tmp_path: Path) -> None:
    secrets = {name: f"secret-{number}" for number, name in enumerate(("APP_KEY", "APP_SECRET", "REFRESH_TOKEN"))}
    for name, value in secrets.items():
        os.environ[f"DROPBOX_{name}"] = value
    uploads = Uploads(default_folder=tmp_path)
    opened = uploads.open(UploadsSpec())
    assert opened is not None
    shown = f"{opened!r} {opened.url} {uploads!r}"
    assert opened.hash_name == "dropbox"
    assert not any(value in shown for value in secrets.values())


def test_incomplete_credentials_are_told_by_name(tmp_path: Path) -> None:
    os.environ["DROPBOX_APP_KEY"] = "key"
    with pytest.raises(ValueError, match="missing: DROPBOX_APP_SECRET, DROPBOX_REFRESH_TOKEN"):
        Uploads(default_folder=tmp_path).open(UploadsSpec())


def test_each_market_has_its_own_source(tmp_path: Path) -> None:
    venues = Venues(limits_dir=tmp_path)
    kinds = [venues.open(market).kind for market in load_markets(load_settings(enabled_markets="demo,crypto"))]
    assert kinds == ["demo", "binance"]
