"""A market whose YAML is wrong stops only itself; commands that name it end with 2."""

import json
import sys

import pytest

from refresh_pipeline import definitions
from refresh_pipeline.cli.options import request, usable
from refresh_pipeline.monitoring.problems import broken_markets
from refresh_pipeline.pipeline.market_validation import usable_markets
from refresh_pipeline.settings import SAID, child_environment
from refresh_pipeline_tests.project_folder import FEW_INDICATORS, NOW, World, command

NOW_OPTION = ("--now", NOW.isoformat())


def with_wrong_markets(world: World) -> None:
    """Enable, beside the market that is right, one whose YAML is wrong and one whose indicators do not exist."""
    folder, env = world.root / "markets", world.root / ".env"
    good = (folder / "bazaar.yaml").read_text()
    (folder / "bazaar.yaml").write_text(FEW_INDICATORS)
    (folder / "broken.yaml").write_text("name: broken\ntimeframe: [m1]\n")
    odd = good.replace("name: bazaar", "name: odd").replace("compute: [", "compute: [nope, ")
    (folder / "odd.yaml").write_text(odd)
    env.write_text(env.read_text().replace("REFRESH_MARKETS=bazaar", "REFRESH_MARKETS=bazaar,broken,odd"))


def test_a_wrong_market_stops_only_itself(new_world: World) -> None:
    with_wrong_markets(new_world)
    markets, faults = usable_markets(new_world.settings)
    assert [market.name for market in markets] == ["bazaar"]
    assert "timeframe: found ['m1']; unknown key" in faults["broken"]
    assert "(line 2)" in faults["broken"]
    assert "indicators.compute" in faults["odd"]
    subjects = [problem.subject for problem in broken_markets(new_world.settings, markets)]
    assert [subject.partition(":")[0] for subject in subjects] == ["broken", "odd"]

    looked = command("status")
    assert looked.exit_code == 0
    assert "left out: broken.yaml: " in " ".join(looked.stderr.split())
    for shown in ("gaps", "signals", "alerts"):
        assert "left out: " in command(shown).stderr
    for named in (["status", "-m", "broken"], ["once", "-m", "bazaar,broken"], ["publish", "-m", "odd"]):
        assert command(*named).exit_code == 2
    assert command("up", "-m", "odd").exit_code == 2


def test_the_other_markets_are_refreshed_checked_and_published(new_world: World) -> None:
    with_wrong_markets(new_world)
    for arguments in (["once", "-i", "BTC/USD", *NOW_OPTION], ["exports", "verify"]):
        ended = command(*arguments)
        said = " ".join(ended.stderr.split())
        assert ended.exit_code == 1, arguments
        assert said.count("left out: broken.yaml: source, calendar, instruments, timeframes, history: missing") == 1, (
            said
        )
        assert said.endswith("left out, as said above: broken, odd"), said
    rows = json.loads(command("status", "-m", "bazaar", "-i", "BTC/USD", "--json", *NOW_OPTION).stdout)
    assert {row["outcome"] for row in rows} == {"updated"}


def test_the_code_server_says_what_is_left_out_unless_it_was_said_and_runs_do_not(
    new_world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_wrong_markets(new_world)

    def times_said(program: str) -> int:
        monkeypatch.setattr(sys, "argv", [program, "refresh_pipeline.definitions"])
        caplog.clear()
        assert definitions.defs()
        return caplog.text.count("A market is left out")

    assert (times_said("/x/instance/fork_server.py"), times_said("dagster"), times_said("dagster")) == (0, 2, 0)
    monkeypatch.setattr(definitions, "_said", set())
    # What `refresh up` tells the code server that it starts.
    with request(None, None, lenient=True) as asked:
        reasons = [*usable(asked).left_out.values()]
    environment = child_environment(new_world.settings, markets_named=False, said=reasons)
    monkeypatch.setenv(SAID, environment[SAID])
    assert times_said("dagster") == 0
    (new_world.root / "markets" / "broken.yaml").write_text("name: broken\ntimeframes: [m7]\n")
    assert times_said("dagster") == 1
