"""`refresh doctor`: what the installation has, and what is wrong with it."""

import json
import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from refresh_pipeline.instance.data_lock import lock_data_folder
from refresh_pipeline.monitoring.installation import Health, missing_instance_keys
from refresh_pipeline.monitoring.installation import _clock as clock_finding
from refresh_pipeline.settings import shipped
from refresh_pipeline_tests.project_folder import World, command


def findings(*arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    result = command("doctor", "--json", *arguments)
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, {each["subject"]: (each["health"], each["text"]) for each in json.loads(result.stdout)}


def test_a_sound_installation_has_nothing_that_failed(new_world: World) -> None:
    code, found = findings("--offline")
    assert code == 0
    assert {"python", "packages", "data folder", "disk", "warehouse", "service", "dagster.yaml"} <= set(found)
    assert found["market bazaar"] == ("ok", "8 series of files")
    assert "the first refresh creates it" in found["warehouse"][1]
    assert not (new_world.root / "data").exists()


def test_the_table_fits_80_columns(new_world: World) -> None:
    result = command("doctor", "--offline")
    assert result.exit_code == 0
    assert "0 failed" in result.stdout


def test_what_is_wrong_is_named(new_world: World) -> None:
    (new_world.root / "data").write_text("in the way")
    (new_world.root / "markets" / "broken.yaml").write_text("name: broken\n")
    Path(".env").write_text("REFRESH_MARKETS=bazaar,broken,fx\nREFRESH_MARKETS_DIR=markets\nREFRESH_MARKET=x\n")
    code, found = findings("--offline")
    assert code == 1
    assert found["data folder"][0] == "failed"
    assert found["market broken"][0] == "failed"
    assert found["market fx"] == ("failed", "OANDA_TOKEN not set; oanda refuses without")
    assert "did you mean REFRESH_MARKETS?" in found["settings"][1]


def test_a_running_service_and_a_used_port_are_named(new_world: World) -> None:
    lock = lock_data_folder(new_world.settings.data, "refresh up", 3210)
    try:
        assert "refresh up (process" in findings("--offline")[1]["service"][1]
    finally:
        os.close(lock)


def test_a_venue_that_does_not_answer_and_one_that_does(new_world: World) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        (new_world.root / "markets" / "bazaar.yaml").write_text(
            f"name: bazaar\nsource: {{kind: binance, base_url: '{url}'}}\n"
            "calendar: crypto\ninstruments: [BTC/USDT]\ntimeframes: [H1]\nhistory: 1d\n"
        )
        code, found = findings()
    assert code == 1
    assert found["venue of bazaar"][0] == "failed"
    assert f"{url} does not answer" in found["venue of bazaar"][1]


@pytest.mark.parametrize(("seconds", "health"), [(0, Health.ok), (-4, Health.ok), (60, Health.failed)])
def test_the_clock_is_compared_with_the_venues(seconds: int, health: Health) -> None:
    assert clock_finding("venue of x", timedelta(seconds=seconds)).health is health


def test_an_older_dagster_yaml_is_compared_with_the_shipped_one(tmp_path: Path) -> None:
    file = tmp_path / "dagster.yaml"
    assert missing_instance_keys(file) == []
    file.write_text(shipped("dagster.yaml").read_text())
    assert missing_instance_keys(file) == []
    file.write_text("telemetry: {enabled: false}\n")
    assert {"run_coordinator", "run_storage"} <= {*missing_instance_keys(file)}
    file.write_text("storage: {sqlite: {base_dir: here}}\n")
    assert not [key for key in missing_instance_keys(file) if "storage" in key]
    file.write_text("- a list\n")
    with pytest.raises(ValueError, match="allowed: a mapping"):
        missing_instance_keys(file)


@pytest.mark.parametrize("name", ["once", "backfill"])
def test_a_missing_credential_is_a_wrong_request_before_anything_starts(new_world: World, name: str) -> None:
    options = ["--since", "2026-06-01"] if name == "backfill" else []
    result = command(name, "-m", "bazaar,fx", *options)
    assert result.exit_code == 2
    assert "market 'fx': OANDA_TOKEN not set" in " ".join(result.stderr.split())
    assert not (new_world.root / "data").exists()
