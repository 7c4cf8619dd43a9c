"""A market that has ended: `static: true` in its YAML."""

from datetime import timedelta

from refresh_pipeline.monitoring.problems import stale
from refresh_pipeline.monitoring.status import status_rows
from refresh_pipeline.orchestration.asset_specs import freshness
from refresh_pipeline.orchestration.sensors import overdue
from refresh_pipeline.pipeline.quality import candle_verdicts
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline_tests.project_folder import LATER, World


def changed(world: World, before: str, after: str) -> None:
    """Change the market's YAML."""
    file = world.root / "markets" / "bazaar.yaml"
    file.write_text(file.read_text().replace(before, after))


def test_nothing_of_a_static_market_is_late_and_holes_are_missing(world: World) -> None:
    changed(world, "history: 1d", "history: 1y\nstatic: true")
    world.lose_candles("instrument = 'BTC/USD' and timeframe = 'H1' and open_time = '2026-06-01 03:00'")
    much_later, market = LATER + timedelta(days=90), world.market
    reports = world.warehouse.series_status(market)
    assert stale(market, reports, much_later) == []
    assert overdue(market, reports, much_later) == {}
    assert freshness(Table.raw_candles, market) is None
    rows = status_rows(world.settings, [market], much_later)
    assert {row["bars_behind"] for row in rows} == {None}
    assert {row["completeness"] for row in rows if row["timeframe"] == "m15"} == {1.0}
    verdicts = candle_verdicts(world.warehouse, market, much_later)
    assert {
        name: [str(fault.series) for fault in verdict.faults] for name, verdict in verdicts.items() if verdict.faults
    } == {"no_candles_are_missing": ["BTC/USD H1"]}
