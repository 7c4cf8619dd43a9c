"""`refresh settings` and `refresh markets`; settings that do nothing are named, typos get suggestions."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from refresh_pipeline.cli.completion import complete_instrument, complete_market, complete_timeframe
from refresh_pipeline.cli.console import out, program
from refresh_pipeline.settings import load_settings, setting_faults, setting_origins
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import command


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "home" / ".refresh").mkdir(parents=True)
    with inside(tmp_path):
        yield tmp_path


def test_each_setting_has_the_place_that_counts(here: Path) -> None:
    os.environ["REFRESH_MARKETS"] = "crypto"
    Path(".env").write_text("REFRESH_MARKETS=fx\nREFRESH_BACKUPS_KEPT=5\nOANDA_TOKEN=hush-hush\n")
    Path("home/.env").write_text("REFRESH_BACKUPS_KEPT=6\nSMTP_PORT=25\n")
    (here / "home/.refresh/config.json").write_text(json.dumps({"data_dir": "elsewhere"}))
    origins = {origin.name: (origin.value, origin.place) for origin in setting_origins(load_settings())}
    assert origins["REFRESH_MARKETS"] == ("crypto", "environment")
    assert origins["REFRESH_BACKUPS_KEPT"] == ("5", ".env")
    assert origins["SMTP_PORT"] == ("25", str(here / "home/.env"))
    assert origins["REFRESH_DATA_DIR"] == (str(here / "elsewhere"), str(here / "home/.refresh/config.json"))
    assert origins["OANDA_TOKEN"] == ("***", ".env")
    assert origins["REFRESH_DATABASE"] == (str(here / "elsewhere/refresh.duckdb"), "default")


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_no_secret_is_shown(option: list[str]) -> None:
    Path(".env").write_text(
        "OANDA_TOKEN=hush-hush\nREFRESH_UPLOAD_URL=file:///x\nREFRESH_API_KEY=hush-hush-hush-hush\n"
    )
    result = command("settings", *option)
    assert result.exit_code == 0
    assert "hush" not in result.output
    assert "OANDA_TOKEN" in result.output
    if option:
        assert {"name": "REFRESH_UPLOAD_URL", "value": "file:///x", "place": ".env"} in json.loads(result.stdout)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("REFRESH_MARKET", "REFRESH_MARKETS"), ("REFRESH_DATADIR", "REFRESH_DATA_DIR"), ("OANDA_TOKEM", "OANDA_TOKEN")],
)
def test_a_setting_that_does_nothing_is_named_with_the_nearest(name: str, meant: str) -> None:
    Path(".env").write_text(f"{name}=hush-hush\n")
    assert setting_faults() == [f"{name} (.env) is no setting and does nothing; did you mean {meant}?"]
    result = command("markets")
    assert f"did you mean {meant}?" in " ".join(result.stderr.split())
    assert "hush-hush" not in result.output


def test_in_the_environment_and_the_json_file_too() -> None:
    os.environ["REFRESH_MARKET"] = "crypto"
    Path("home/.refresh/config.json").write_text(json.dumps({"market": "crypto", "theme": "dark"}))
    sentences = setting_faults()
    assert [sentence.partition(" ")[0] for sentence in sentences] == ["REFRESH_MARKET", "MARKET"]
    assert all("did you mean REFRESH_MARKETS?" in sentence for sentence in sentences)


def test_names_of_other_programs_and_of_markets_are_no_typos() -> None:
    os.environ |= {"REFRESH_PIPELINE_PORT": "tcp://10.0.0.1:3000", "SMTP_SERVER": "x", "REFRESH_SECRET_MINE": "x"}
    Path(".env").write_text(
        "REFRESH_YAML_VARIABLES=DROPBOX_MINE\nDROPBOX_MINE=x\nDATABASE_URL=x\nexport PATH_X=y\n# no\n"
    )
    assert setting_faults() == []


def test_a_line_that_is_no_setting_is_named_by_file_and_line() -> None:
    Path(".env").write_text("REFRESH_MARKETS=demo\nREFRESH_MARKETS: crypto\n")
    assert setting_faults() == [".env: line 2 is no setting and does nothing; write NAME=value"]


def test_markets_are_listed_with_what_they_hold(here: Path) -> None:
    (here / "markets").mkdir()
    (here / "markets/broken.yaml").write_text("name: broken\ntimeframe: [H1]\n")
    Path(".env").write_text("REFRESH_MARKETS=demo,fx\nREFRESH_MARKETS_DIR=markets\n")
    rows = {row["market"]: row for row in json.loads(command("markets", "--json").stdout)}
    assert [name for name, row in rows.items() if row["enabled"]] == ["demo", "fx"]
    assert rows["demo"]["timeframes"] == ["m5", "m15", "H1", "H4", "D1"]
    assert "timeframe" in rows["broken"]["error"]
    result = command("markets")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80 or "broken.yaml" in result.stdout


@pytest.mark.parametrize(
    ("name", "hint"), [("dmeo", "did you mean 'demo'?"), ("bazaar", "REFRESH_MARKETS_DIR names the folder")]
)
def test_an_unknown_market_gets_a_suggestion(name: str, hint: str) -> None:
    result = command("status", "--market", name)
    assert result.exit_code == 2
    assert f"--market: found '{name}'" in result.stderr
    assert hint in " ".join(result.stderr.split())


@pytest.mark.parametrize("arguments", [("settings",), ("markets",), ("apis", "list")])
def test_the_table_fits_80_columns(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "width", 80)
    table, _, _ = command(*arguments).stdout.partition("\n\n")
    assert len(table.splitlines()) > 5
    assert max(map(len, table.splitlines())) <= 80
    assert "\u2026" not in table


def test_the_next_command_can_be_typed_as_it_stands(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "bin").mkdir()
    (here / "bin/refresh").write_text("#!/bin/sh\n")
    (here / "bin/refresh").chmod(0o755)
    monkeypatch.setattr(sys, "argv", [".venv/bin/refresh", "once"])
    monkeypatch.setenv("PATH", str(here))
    assert program() == ".venv/bin/refresh"
    monkeypatch.setenv("PATH", str(here / "bin"))
    assert program() == "refresh"


def test_the_shell_completes_names_within_lists() -> None:
    assert complete_market("d") == ["demo"]
    assert complete_market("demo,c") == ["demo,crypto"]
    assert complete_instrument("btc") == ["BTC/USD"]
    assert complete_timeframe("D1,h") == ["D1,H1", "D1,H4"]
    Path(".env").write_text("REFRESH_MARKETS=nowhere\nREFRESH_MARKETS_DIR=nowhere\n")
    assert complete_market("d") == complete_instrument("") == []


def test_completion_is_of_the_shells_protocol() -> None:
    environment = {
        **os.environ,
        "_REFRESH_COMPLETE": "complete_bash",
        "COMP_WORDS": "refresh status -m cr",
        "COMP_CWORD": "3",
    }
    command_line = [
        sys.executable,
        "-P",
        "-c",
        "import sys; sys.argv[0] = 'refresh'; from refresh_pipeline.cli import main; main()",
    ]
    answer = subprocess.run(command_line, env=environment, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == ["crypto"]
