"""Where settings come from and which one wins, which markets are loaded, where Dagster keeps its things."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refresh_pipeline.market.model import MarketError
from refresh_pipeline.market_files import load_markets, market_files
from refresh_pipeline.settings import (
    DAGSTER_VARIABLES,
    Settings,
    SettingsError,
    child_environment,
    credentials,
    event_log_dir,
    known_secrets,
    load_settings,
    prepare_dagster,
    secret,
    shipped,
)
from refresh_pipeline_tests.isolated_env import inside

MARKET = """
name: bazaar
source: {kind: files, directory: candles}
calendar: crypto
instruments: [BTC/USD, ETH/USD]
timeframes: [m15, H1]
history: 1d
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "home" / ".refresh").mkdir(parents=True)
    with inside(tmp_path):
        yield tmp_path


def in_environment(value: str) -> None:
    os.environ["REFRESH_MARKETS"] = value


def in_config(value: str) -> None:
    Path("home/.refresh/config.json").write_text(json.dumps({"REFRESH_MARKETS": value}))


def in_env_file_here(value: str) -> None:
    Path(".env").write_text(f"REFRESH_MARKETS={value}\n")


# As Dagster's programs do it: each copies .env over the environment before it opens its instance, and starts others.
UNDER_DAGSTER = """
import logging, os, subprocess, sys
from dagster._cli.utils import get_instance_for_cli
with get_instance_for_cli():
    assert os.environ["OTHER"] == "from .env"
    if len(sys.argv) > 1:
        sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
    from refresh_pipeline.settings import load_settings, secret
    print(load_settings().enabled_markets, load_settings().backup_dir, secret("REFRESH_SECRET_KEY"), secret("LISTED"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep a process's first environment")
def test_under_dagster_settings_have_the_same_order(here: Path) -> None:
    names = ("REFRESH_MARKETS", "REFRESH_BACKUP_DIR", "REFRESH_SECRET_KEY", "LISTED")
    Path(".env").write_text(
        "".join(f"{name}=dotenv\n" for name in names) + "OTHER=from .env\nREFRESH_YAML_VARIABLES=LISTED\n"
    )
    Path("home/.refresh/config.json").write_text(json.dumps({"REFRESH_BACKUP_DIR": "config", "LISTED": "config"}))
    prepare_dagster(load_settings())
    os.environ |= {"REFRESH_MARKETS": "environment", "REFRESH_SECRET_KEY": "environment"}
    command = [sys.executable, "-c", UNDER_DAGSTER, UNDER_DAGSTER]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert shown.stdout.split() == ["environment", "config", "environment", "config"], shown.stderr


def in_env_file_at_home(value: str) -> None:
    Path("home/.env").write_text(f"REFRESH_MARKETS={value}\n")


# The most important first; before all of them comes the command line, after them the default.
PLACES: list[Callable[[str], None]] = [in_environment, in_config, in_env_file_here, in_env_file_at_home]


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_the_more_important_place_wins(first: int) -> None:
    for number, put in enumerate(PLACES[first:], start=first):
        put(f"place{number}")
    assert load_settings().enabled_markets == f"place{first}"
    assert load_settings(enabled_markets="chosen").enabled_markets == "chosen"


def test_without_any_setting_the_demo_is_refreshed_into_a_folder_here(here: Path) -> None:
    settings = load_settings()
    assert settings.market_names == ["demo"]
    assert settings.data == here / "data"
    assert settings.database == here / "data" / "refresh.duckdb"
    assert settings.upload_url is None


def test_an_option_that_was_not_given_does_not_hide_a_setting() -> None:
    in_environment("crypto")
    assert load_settings(enabled_markets=None, data_dir=None).enabled_markets == "crypto"


@pytest.mark.parametrize("put", [in_environment, in_env_file_here, in_env_file_at_home])
def test_an_empty_setting_is_none_at_all(put: Callable[[str], None]) -> None:
    put("")
    assert load_settings().enabled_markets == "demo"


@pytest.mark.parametrize("name", ["REFRESH_MARKETS", "refresh_markets", "markets", "MARKETS"])
def test_the_json_file_may_leave_out_the_prefix(name: str) -> None:
    Path("home/.refresh/config.json").write_text(json.dumps({name: "crypto", "theme": "dark", "upload_url": None}))
    assert load_settings().enabled_markets == "crypto"


@pytest.mark.parametrize(
    "name", ["DATABASE", "MARKETS", "DATA_DIR", "UPLOAD_URL", "MARKETS_DIR", "DATABASE_PATH", "ENABLED_MARKETS"]
)
def test_what_other_programs_keep_in_the_environment_is_no_setting_of_ours(name: str, here: Path) -> None:
    before = load_settings().model_dump()
    os.environ[name] = "postgres://elsewhere"
    Path(".env").write_text(f"{name}=postgres://elsewhere\n")
    assert load_settings().model_dump() == before


def test_a_tilde_is_the_home(here: Path) -> None:
    os.environ["REFRESH_DATA_DIR"] = "~/candles"
    os.environ["REFRESH_DATABASE"] = "~/other/store.duckdb"
    settings = load_settings()
    assert settings.data == here / "home" / "candles"
    assert settings.database == here / "home" / "other" / "store.duckdb"


def test_the_folder_of_everything_is_one_setting(here: Path) -> None:
    settings = load_settings(data_dir=here / "else")
    for path in (settings.database, settings.exports_dir, settings.limits_dir):
        assert path.is_relative_to(here / "else")


@pytest.mark.parametrize(
    "text", ['{"markets": ', "[1, 2]", '"demo"', '{"markets": ["demo", "crypto"]}', '{"data_dir": 7}', ""]
)
def test_a_json_file_that_cannot_be_used_says_so(text: str) -> None:
    Path("home/.refresh/config.json").write_text(text)
    with pytest.raises(SettingsError, match=r"config\.json: |REFRESH_\w+: found"):
        load_settings()


def test_no_secret_shows_in_repr_or_in_an_error() -> None:
    os.environ["DROPBOX_APP_SECRET"] = "hush-hush"
    assert "hush-hush" not in repr(load_settings())
    assert "hush-hush" not in str(load_settings())
    del os.environ["DROPBOX_APP_SECRET"]
    Path("home/.refresh/config.json").write_text(json.dumps({"DROPBOX_APP_SECRET": 424242, "dropbox_app_key": [9292]}))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "DROPBOX_APP_SECRET" in str(caught.value)
    assert "4242" not in str(caught.value) + repr(caught.value.__cause__)
    assert "9292" not in str(caught.value)


def test_children_get_the_choices_of_the_command_line(here: Path) -> None:
    in_environment("demo")
    settings = load_settings(enabled_markets="crypto", data_dir="elsewhere")
    environment = child_environment(settings, markets_named=True)
    assert environment["REFRESH_MARKETS"] == "crypto"
    # Later changes of .env count for what the command line does not name.
    assert child_environment(settings, markets_named=False).get("REFRESH_MARKETS") == os.environ["REFRESH_MARKETS"]
    assert environment["REFRESH_DATA_DIR"] == str(here / "elsewhere")
    assert environment["HOME"] == str(here / "home")


# ---- markets


def own_market(text: str, name: str = "bazaar.yaml") -> Settings:
    Path("mine").mkdir(exist_ok=True)
    (Path("mine") / name).write_text(text)
    return load_settings(markets_dir="mine", enabled_markets=Path(name).stem)


def test_the_shipped_markets_are_these() -> None:
    assert set(market_files(load_settings())) == {"demo", "crypto", "fx", "nse"}


def test_the_shipped_markets_are_as_announced() -> None:
    demo, crypto = load_markets(load_settings(enabled_markets="demo, crypto"))
    assert (demo.source.kind, len(demo.instruments)) == ("demo", 8)
    assert [each.value for each in demo.timeframes] == ["m5", "m15", "H1", "H4", "D1"]
    assert (crypto.source.kind, len(crypto.instruments)) == ("binance", 20)
    assert [crypto.timeframes[0].value, crypto.timeframes[-1].value] == ["m1", "W1"]


def test_a_market_of_ones_own_comes_from_ones_own_folder() -> None:
    assert [market.name for market in load_markets(own_market(MARKET))] == ["bazaar"]


def test_ones_own_file_wins_over_the_shipped_one() -> None:
    markets = load_markets(own_market(MARKET.replace("bazaar", "demo"), "demo.yaml"))
    assert markets[0].source.kind == "files"


def test_a_market_named_twice_is_loaded_once() -> None:
    assert len(load_markets(load_settings(enabled_markets="demo,demo, demo"))) == 1


@pytest.mark.parametrize("names", ["demmo", "demo,nowhere", "", " , "])
def test_an_unknown_market_is_told_with_those_that_there_are(names: str) -> None:
    with pytest.raises(MarketError, match=r"found .* allowed: crypto, demo"):
        load_markets(load_settings(enabled_markets=names))


def test_a_folder_that_is_not_there_is_told() -> None:
    with pytest.raises(MarketError, match=r"REFRESH_MARKETS_DIR: found nowhere, allowed: a folder"):
        load_markets(load_settings(markets_dir="nowhere"))


def test_a_file_is_called_like_its_market() -> None:
    with pytest.raises(MarketError, match=r"other\.yaml: name: found 'bazaar', allowed: 'other'"):
        load_markets(own_market(MARKET, "other.yaml"))


def test_a_universe_lies_beside_the_yaml_that_names_it() -> None:
    settings = own_market(MARKET.replace("instruments: [BTC/USD, ETH/USD]", "universe: list.csv"))
    Path("mine/list.csv").write_text("instrument,symbol\nBTC/USD,XBT\nETH/USD,\n")
    assert list(load_markets(settings)[0].instruments) == ["BTC/USD", "ETH/USD"]


def test_a_universe_that_is_not_there_is_told() -> None:
    settings = own_market(MARKET.replace("instruments: [BTC/USD, ETH/USD]", "universe: list.csv"))
    with pytest.raises(MarketError, match=r"list\.csv: found no readable text"):
        load_markets(settings)


def test_a_market_file_that_is_no_text_is_told() -> None:
    settings = own_market(MARKET)
    Path("mine/bazaar.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(MarketError, match=r"bazaar\.yaml: found no readable text"):
        load_markets(settings)


# ---- Dagster's folder


def test_without_a_home_dagster_lives_in_the_folder_of_everything(here: Path) -> None:
    home = prepare_dagster(load_settings())
    assert home == here / "data" / "dagster"
    assert os.environ["DAGSTER_HOME"] == str(home)
    assert (home / "dagster.yaml").read_text() == shipped("dagster.yaml").read_text()
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]


def test_an_edited_copy_of_dagsters_settings_is_kept(here: Path) -> None:
    own = prepare_dagster(load_settings()) / "dagster.yaml"
    own.write_text(own.read_text() + "# mine\n")
    del os.environ["DAGSTER_HOME"]
    prepare_dagster(load_settings())
    assert own.read_text().endswith("# mine\n")


def test_a_home_that_the_user_chose_is_left_as_it_is(here: Path) -> None:
    os.environ["DAGSTER_HOME"] = str(here / "chosen")
    assert prepare_dagster(load_settings()) == here / "chosen"
    assert list((here / "chosen").iterdir()) == []
    assert not (here / "data" / "dagster").exists()


def test_a_home_from_here_becomes_one_from_everywhere(here: Path) -> None:
    os.environ["DAGSTER_HOME"] = "~/dagster"
    prepare_dagster(load_settings())
    assert os.environ["DAGSTER_HOME"] == str(here / "home" / "dagster")


@pytest.mark.parametrize("name", ["candles [old]", "what?", "*"])
@pytest.mark.parametrize("setting", ["DAGSTER_HOME", "REFRESH_DATA_DIR"])
def test_a_folder_in_which_dagster_overlooks_its_settings_is_refused(here: Path, setting: str, name: str) -> None:
    os.environ[setting] = str(here / name)
    with pytest.raises(SettingsError, match=rf"{setting}.*: found .*; allowed: a path without"):
        prepare_dagster(load_settings())
    assert not (here / name).exists()


def test_what_makes_wide_runs_cheap_is_set_unless_the_user_set_it() -> None:
    os.environ["DAGSTER_EVENT_BATCH_SIZE"] = "7"
    prepare_dagster(load_settings())
    assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == "7"
    assert DAGSTER_VARIABLES.keys() <= os.environ.keys()


def test_the_event_log_lies_where_dagster_would_put_it() -> None:
    home = prepare_dagster(load_settings())
    assert event_log_dir() == home / "history" / "runs"


def test_the_event_log_of_a_temporary_home_lies_in_it(here: Path) -> None:
    assert event_log_dir() == here / "data" / "dagster" / "history" / "runs"
    for name in ("old", "new"):
        (here / f".tmp_dagster_home_{name}").mkdir()
        time.sleep(0.01)
    assert event_log_dir() == here / ".tmp_dagster_home_new" / "history" / "runs"


def test_a_credential_is_found_wherever_settings_are_kept_and_by_any_name() -> None:
    assert secret("OANDA_TOKEN") is None
    Path(".env").write_text("OANDA_TOKEN= from-env-file \nKEY_OF_MY_OWN=mine\n")
    assert secret("OANDA_TOKEN") == "from-env-file"
    assert secret("KEY_OF_MY_OWN") == "mine"
    os.environ["OANDA_TOKEN"] = "from-environment"
    assert secret("OANDA_TOKEN") == "from-environment"
    assert "from-environment" not in repr(load_settings())


def test_a_key_of_ours_is_long_and_no_neighbour_is_given_it() -> None:
    os.environ["REFRESH_API_KEY"] = "a key of some length"
    assert "REFRESH_API_KEY" not in credentials(load_settings())
    os.environ["REFRESH_API_KEY"] = "a key of some length, short"
    with pytest.raises(SettingsError, match="16 or more") as caught:
        load_settings()
    assert "a key of some" not in str(caught.value)


def test_a_credential_comes_from_the_more_important_place_and_an_empty_one_is_none() -> None:
    Path("home/.env").write_text("KEY=at-home\n")
    assert secret("KEY") == "at-home"
    Path(".env").write_text("KEY=here\n")
    assert secret("KEY") == "here"
    Path("home/.refresh/config.json").write_text(json.dumps({"key": "in-config"}))
    assert secret("KEY") == "in-config"
    os.environ["KEY"] = ""
    assert secret("KEY") == "in-config"
    os.environ["KEY"] = "in-environment"
    assert secret("KEY") == "in-environment"


def test_a_credential_that_is_no_text_is_refused_without_showing_it() -> None:
    Path("home/.refresh/config.json").write_text(json.dumps({"KEY": 424242}))
    with pytest.raises(SettingsError, match="KEY: found a value that is not shown") as caught:
        secret("KEY")
    assert "4242" not in str(caught.value)


@pytest.mark.parametrize("folder", ["a%20b", "a?b", "a*b", "a[1]"])
def test_a_folder_that_dagster_would_read_as_another_is_refused(here: Path, folder: str) -> None:
    with pytest.raises(SettingsError, match=r"REFRESH_DATA_DIR or --data-dir: found .* allowed: a path without"):
        prepare_dagster(load_settings(data_dir=str(here / folder)))
    os.environ["DAGSTER_HOME"] = str(here / folder)
    with pytest.raises(SettingsError, match="DAGSTER_HOME: found"):
        prepare_dagster(load_settings())


@pytest.mark.parametrize("folder", ["a b", "100%", "#1", "é'x", "50% off"])
def test_other_odd_folders_are_taken(here: Path, folder: str) -> None:
    assert prepare_dagster(load_settings(data_dir=str(here / folder))).is_dir()


def test_the_scheme_of_an_address_is_no_secret(here: Path) -> None:
    Path(".env").write_text("REFRESH_POSTGRES_URL=postgresql://me:sesame-opens@127.0.0.1/dagster\n")
    load_settings()
    assert "sesame-opens" in known_secrets()
    assert "postgresql" not in known_secrets()
