"""`refresh check`: checks as a Dagster run, for people and for CI."""

import json
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from refresh_pipeline_tests.project_folder import FEW_INDICATORS, LATER, NOW, World, command

ROOT = Path(__file__).resolve().parents[2]


def test_all_green_ends_with_0(world: World) -> None:
    result = command("check", "--json", "--now", NOW.isoformat())
    assert result.exit_code == 0, result.output
    checks = json.loads(result.stdout)
    assert {check["passed"] for check in checks} == {True}
    assert {"prices_are_coherent", "exports_match_the_table", "uploads_match_the_exports"} <= {
        check["name"] for check in checks
    }
    assert all(len(check["statement"].split()) > 3 for check in checks)
    with world.dagster() as instance:
        assert [run.job_name for run in instance.get_runs(limit=1)] == ["bazaar_check"]


def test_a_red_check_ends_with_1_and_names_its_first_faults(world: World, tmp_path: Path) -> None:
    before = world.counts()
    file = tmp_path / "checks.xml"
    result = command("check", "--junit", str(file), "--now", LATER.isoformat())
    assert result.exit_code == 1
    assert world.counts() == before
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "every_series_is_fresh raw_candles 8 of 8 series failed" in lines
    assert "and 5 more in --json and the web UI" in lines
    suite = ElementTree.parse(file).getroot()[0]
    cases = {case.get("name"): case for case in suite}
    assert (suite.get("name"), suite.get("tests")) == ("bazaar", str(len(cases)))
    assert suite.get("failures") == str(sum(len(case) for case in cases.values()))
    [failure] = cases["every_series_is_fresh"]
    assert failure.get("message") == "8 of 8 series failed"
    assert "ETH/USD m15" in str(failure.text)
    assert not list(cases["prices_are_coherent"])


def test_the_shipped_workflow_runs(new_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = yaml.safe_load((ROOT / "deploy" / "ci" / "github-actions.yaml").read_text())
    job = workflow["jobs"]["checks"]
    steps = [shlex.split(step["run"]) for step in job["steps"] if step.get("run", "").startswith("refresh ")]
    assert [step[1] for step in steps] == ["once", "check"]
    # Everything but its market, which is on the network.
    for name, value in job["env"].items():
        monkeypatch.setenv(name, value.replace("${{ github.workspace }}", str(new_world.root)))
    monkeypatch.setenv("REFRESH_MARKETS", "bazaar")
    file = new_world.root / "markets" / "bazaar.yaml"
    file.write_text(FEW_INDICATORS.replace("ETH/USD, SOL/USD, XRP/USD", "ETH/USD").replace("m15, H1", "H1"))
    first, second = (command(*step[1:]) for step in steps)
    assert first.exit_code == 0, first.output
    # The candles are of another day, so a check is red, and the workflow fails with its results attached.
    assert second.exit_code == 1, second.output
    [attached] = [step["with"]["path"] for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    assert ElementTree.parse(new_world.root / attached).getroot()[0].get("failures") != "0"


@pytest.mark.parametrize("arguments", [["-m", "nope"], ["--now", "noon"], []])
def test_a_wrong_request_ends_with_2(new_world: World, arguments: list[str]) -> None:
    result = command("check", *arguments)
    assert result.exit_code == 2
    assert "found" in result.stderr
    assert not (new_world.root / "data").exists()
