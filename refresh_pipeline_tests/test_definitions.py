"""The exact list of what Dagster loads, so that nothing comes or goes unnoticed."""

import importlib
import os
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr

from refresh_pipeline.definitions import defs
from refresh_pipeline.market.model import MarketError
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.settings import load_settings

ASSETS = ["raw_candles", "enhanced_candles", "indicators", "exports", "uploads"]
REFRESHED, PUBLISHED = ASSETS[:3], ASSETS[3:]
CHECKS = [
    ("exports", "exports_match_the_table"),
    ("raw_candles", "every_series_is_fresh"),
    ("raw_candles", "every_series_was_fetched"),
    ("raw_candles", "no_candle_is_from_the_future"),
    ("raw_candles", "no_candles_are_missing"),
    ("raw_candles", "nothing_was_rejected"),
    ("raw_candles", "open_times_are_unique_and_on_the_grid"),
    ("raw_candles", "prices_are_coherent"),
    ("raw_candles", "prices_are_plausible"),
    ("raw_candles", "timeframes_agree"),
    ("uploads", "uploads_match_the_exports"),
]
MARKETS = ["crypto", "demo"]


@pytest.fixture(scope="module")
def loaded() -> dg.RepositoryDefinition:
    """What Dagster makes of both shipped markets."""
    settings = load_settings(enabled_markets="demo,crypto", data_dir="/nowhere")
    return build(settings, load_markets(settings)).get_repository_def()


def test_the_assets(loaded: dg.RepositoryDefinition) -> None:
    keys = {key.to_user_string() for key in loaded.asset_graph.get_all_asset_keys()}
    assert keys == {f"{market}/{asset}" for market in MARKETS for asset in ASSETS}


def test_the_checks(loaded: dg.RepositoryDefinition) -> None:
    keys = sorted((key.asset_key.to_user_string(), key.name) for key in loaded.asset_graph.asset_check_keys)
    assert keys == sorted((f"{market}/{asset}", name) for market in MARKETS for asset, name in CHECKS)


def test_the_jobs(loaded: dg.RepositoryDefinition) -> None:
    # Dagster's own, for whatever is materialized by hand, is the implicit one.
    own = {name for name in loaded.job_names if not name.startswith("__ASSET_JOB")}
    own_of_markets = {f"{market}_{what}" for market in MARKETS for what in ("refresh", "publish", "backfill", "check")}
    assert own == own_of_markets | {"backup", "maintenance"}


def test_the_schedules(loaded: dg.RepositoryDefinition) -> None:
    schedules = {
        each.name: (each.cron_schedule, each.execution_timezone, each.job_name) for each in loaded.schedule_defs
    }
    assert schedules == {
        "demo_refresh": ("*/5 * * * *", "UTC", "demo_refresh"),
        "demo_publish": ("15 */2 * * *", "UTC", "demo_publish"),
        "crypto_refresh": ("* * * * *", "UTC", "crypto_refresh"),
        "crypto_publish": ("15 */2 * * *", "UTC", "crypto_publish"),
        "backup": ("40 3 * * *", "UTC", "backup"),
        "maintenance": ("37 * * * *", "UTC", "maintenance"),
    }


def test_a_lake_is_kept_small_all_day() -> None:
    lake = "ducklake:postgresql://ann@db.example/lake?data=s3://bucket/prefix"
    settings = load_settings(enabled_markets="demo", data_dir="/nowhere").model_copy(
        update={"warehouse_address": SecretStr(lake)}
    )
    schedules = {each.name: each for each in build(settings, []).get_repository_def().schedule_defs}
    assert schedules["maintenance"].cron_schedule == "7,22,37,52 * * * *"


def test_files_are_published_as_often_as_the_market_says() -> None:
    settings = load_settings(enabled_markets="demo", data_dir="/nowhere")
    market = load_markets(settings)[0].model_copy(update={"publish": timedelta(minutes=30)})
    schedules = {each.name: each.cron_schedule for each in build(settings, [market]).get_repository_def().schedule_defs}
    assert schedules["demo_publish"] == "*/30 * * * *"


def test_the_sensors(loaded: dg.RepositoryDefinition) -> None:
    own = [each for each in loaded.sensor_defs if not each.name.startswith("default_")]
    sensors = {each.name: each.job_name if each.targets else None for each in own}
    of_markets = {f"{market}_{what}": f"{market}_refresh" for market in MARKETS for what in ("retry", "repair")}
    assert sensors == of_markets | {"alerts": None}


def test_everything_runs_by_itself_once_dagster_runs(loaded: dg.RepositoryDefinition) -> None:
    assert all(each.default_status is dg.DefaultScheduleStatus.RUNNING for each in loaded.schedule_defs)
    own = [each for each in loaded.sensor_defs if each.name.endswith(("_retry", "_repair", "alerts"))]
    assert all(each.default_status is dg.DefaultSensorStatus.RUNNING for each in own)


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize(("what", "assets"), [("refresh", REFRESHED), ("publish", PUBLISHED), ("backfill", REFRESHED)])
def test_each_job_makes_its_assets_and_checks_them(
    loaded: dg.RepositoryDefinition, market: str, what: str, assets: list[str]
) -> None:
    layer = loaded.get_job(f"{market}_{what}").asset_layer
    assert {key.to_user_string() for key in layer.selected_asset_keys} == {f"{market}/{asset}" for asset in assets}
    checked = {(key.asset_key.path[-1], key.name) for key in layer.asset_graph.asset_check_keys}
    assert checked == {(asset, name) for asset, name in CHECKS if asset in assets}


@pytest.mark.parametrize("market", MARKETS)
def test_the_story_runs_from_candles_to_uploads(loaded: dg.RepositoryDefinition, market: str) -> None:
    parents = {
        key.path[-1]: [parent.path[-1] for parent in loaded.asset_graph.get(key).parent_keys]
        for key in loaded.asset_graph.get_all_asset_keys()
        if key.path[0] == market
    }
    assert parents == {
        "raw_candles": [],
        "enhanced_candles": ["raw_candles"],
        "indicators": ["enhanced_candles"],
        "exports": ["indicators"],
        "uploads": ["exports"],
    }


@pytest.mark.parametrize("market", MARKETS)
def test_a_range_of_partitions_is_one_run(loaded: dg.RepositoryDefinition, market: str) -> None:
    nodes = [loaded.asset_graph.get(dg.AssetKey([market, asset])) for asset in ASSETS]
    assert {node.backfill_policy for node in nodes} == {dg.BackfillPolicy.single_run()}
    assert len({node.partitions_def for node in nodes}) == 1


def test_steps_of_a_run_share_its_process(loaded: dg.RepositoryDefinition) -> None:
    assert loaded.get_job("demo_refresh").executor_def is dg.in_process_executor


def test_what_dagster_finds_in_the_module_is_what_the_environment_enables() -> None:
    os.environ["REFRESH_MARKETS"] = "crypto"
    found = defs()
    keys = {key.path[0] for key in found.resolve_all_asset_keys()}
    assert keys == {"crypto"}


def test_a_wrong_market_keeps_dagster_from_loading_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("name: odd\nsource: {kind: demo}\ncalendar: lunar\n")
    os.environ["REFRESH_MARKETS"], os.environ["REFRESH_MARKETS_DIR"] = "odd", str(tmp_path)
    with pytest.raises(MarketError, match=r"odd\.yaml: calendar: found 'lunar'; allowed: crypto, fx"):
        defs()


def test_a_market_whose_source_cannot_be_keeps_dagster_from_loading(tmp_path: Path) -> None:
    yaml = "name: odd\nsource: {kind: nowhere}\ncalendar: crypto\ninstruments: [A]\ntimeframes: [m1]\nhistory: 1d\n"
    (tmp_path / "odd.yaml").write_text(yaml)
    os.environ["REFRESH_MARKETS"], os.environ["REFRESH_MARKETS_DIR"] = "odd", str(tmp_path)
    with pytest.raises(MarketError, match=r"source\.kind: found 'nowhere'; allowed: demo, binance"):
        defs()


def test_every_job_schedule_sensor_and_check_says_what_it_does(loaded: dg.RepositoryDefinition) -> None:
    own_jobs = [loaded.get_job(name) for name in loaded.job_names if not name.startswith("__ASSET_JOB")]
    own_sensors = [each for each in loaded.sensor_defs if not each.name.startswith("default_")]
    described = [*own_jobs, *loaded.schedule_defs, *own_sensors]
    assert [each.name for each in described if not each.description] == []
    checks = [loaded.asset_graph.get_check_spec(key) for key in loaded.asset_graph.asset_check_keys]
    assert [each.name for each in checks if not each.description] == []


def test_loading_the_definitions_imports_nothing_that_only_some_runs_need() -> None:
    heavy = ("sqlalchemy", "alembic", "pandas", "matplotlib", "httpx", "aiohttp", "rich", "dropbox", "requests")
    code = (
        "import sys, refresh_pipeline.definitions as found; found.defs(); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]", said.stderr


def test_dg_finds_the_definitions_where_pyproject_says() -> None:
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["tool"]["dg"]["project"]
    assert project["root_module"] == "refresh_pipeline"
    assert importlib.import_module(project["code_location_target_module"]).defs
