"""A market whose YAML is wrong stops only itself; commands that name it end with 2."""

from refresh_pipeline.monitoring.problems import broken_markets
from refresh_pipeline.pipeline.market_validation import usable_markets
from refresh_pipeline_tests.project_folder import World, command


def test_a_wrong_market_stops_only_itself(new_world: World) -> None:
    good = (new_world.root / "markets" / "bazaar.yaml").read_text()
    (new_world.root / "markets" / "broken.yaml").write_text("name: broken\ntimeframe: [m1]\n")
    odd = good.replace("name: bazaar", "name: odd") + "indicators: {compute: [nope]}\n"
    (new_world.root / "markets" / "odd.yaml").write_text(odd)
    env = new_world.root / ".env"
    env.write_text(env.read_text().replace("REFRESH_MARKETS=bazaar", "REFRESH_MARKETS=bazaar,broken,odd"))

    markets, faults = usable_markets(new_world.settings)
    assert [market.name for market in markets] == ["bazaar"]
    assert "timeframe" in faults["broken"]
    assert "indicators.compute" in faults["odd"]
    subjects = [problem.subject for problem in broken_markets(new_world.settings, markets)]
    assert [subject.partition(":")[0] for subject in subjects] == ["broken", "odd"]

    looked = command("status")
    assert looked.exit_code == 0
    assert "left out: broken.yaml: " in " ".join(looked.stderr.split())
    assert "left out: " in command("gaps").stderr
    for arguments in (["status", "-m", "broken"], ["once"], ["up", "-m", "odd"]):
        assert command(*arguments).exit_code == 2
